"""What a real worker's log looks like, as text and as JSON: it tells which shard, and nobody's photo."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until
from workers.core.task_names import RECONCILE, RUN_SCHEDULES, TASK
from workers.telemetry.log_format import IdlePassFilter

pytestmark = pytest.mark.timeout(240)

#: A photo whose decoder fails in a way that nobody foresaw: its traceback is logged.
FOUL = "hospital/anna müller.jpg"


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    album = {**photos(4), FOUL: b"foul " * 1000}
    with closing_world(World(tmp_path, redis_server, source, out, album, {"APF_SHARD_PHOTOS": "8"})) as made:
        yield made


def worked(world: World, **more: str) -> str:
    """The log of a worker that did all there is, and was asked to end."""
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "tests.services.foul_celeryapp", "worker"]
    environment = {**os.environ, "REMAP_SIGTERM": "SIGQUIT", **world.variables, **more}
    with world.log.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--loglevel", "INFO", "-n", "w1@here"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,  # what Celery says of signals that it got
            stderr=log,
            start_new_session=True,
        )
    world.workers.append(process)
    world.submit()
    until(lambda: world.summary().done, 60, "done", world.log, every_s=0.2)
    until(lambda: "succeeded" in world.log.read_text(), 20, "the task has ended", world.log)
    process.terminate()
    process.wait(30)
    return world.log.read_text()


def test_each_line_is_one_object_and_tells_its_shard(world: World) -> None:
    """Celery's lines, ours, a warning's and a traceback's alike; reader threads know their shard, too."""
    text = worked(world, APF_LOG_FORMAT="json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "process", "message"} <= line.keys() for line in lines)
    (foul,) = [line for line in lines if "unexpected error" in line["message"]]
    assert (foul["batch"], foul["shard"], foul["lane"]) == (world.batch_id, 0, "bulk")
    assert {line.get("worker") for line in lines[3:]} == {"w1@here"}
    assert "RuntimeError" in foul["exc_info"]
    received = [line for line in lines if "received" in line["message"] and line["logger"].startswith("celery")]
    assert [line["task"] for line in received] == [foul["task"]], "Celery's lines can be joined with ours"
    assert not any("args" in line or "data" in line for line in lines)
    assert "anna" not in text
    assert "hospital" not in text
    assert "photo-" in foul["exc_info"], "the key is there as its digest"


def test_text_names_batch_and_shard_behind_the_message(world: World) -> None:
    text = worked(world)
    (line,) = [line for line in text.splitlines() if "unexpected error" in line]
    assert line.endswith(f"[batch={world.batch_id} shard=0]")
    assert "RuntimeError" in text
    assert "anna" not in text


def test_beat_and_other_processes_write_json_too(world: World) -> None:
    """Beat with its flags, and a process that is Celery's in no way, as the exporter."""
    environment = {**os.environ, **world.variables, "APF_LOG_FORMAT": "json"}
    log = world.folder / "beat.log"
    with log.open("ab") as output:
        beat = subprocess.Popen(
            [sys.executable, "-m", "producer", "beat", "--loglevel", "INFO"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: "beat: Starting" in log.read_text(), 60, "beat has started", log)
    finally:
        beat.terminate()
        beat.wait(30)
    assert all(json.loads(line)["level"] for line in log.read_text().splitlines())
    code = (
        "import logging; logging.basicConfig(); from workers.telemetry.log_format import configure; configure();"
        "logging.getLogger('x').warning('redis://a:hunter2@host: %s', 'gone')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stderr)["message"] == "redis://(credentials)@host: gone"


def test_a_look_that_finds_nothing_to_do_has_no_lines(world: World) -> None:
    """Once a minute each, they would hide the others; one that fails is told, and so is a shard."""
    world.start_worker()
    for task, arguments in ((RUN_SCHEDULES, []), (RECONCILE, []), (RUN_SCHEDULES, ["one too many"])):
        world.app.send_task(task, args=arguments, queue="interactive")
    world.submit()
    until(lambda: "succeeded" in world.log.read_text(), 60, "the shard has ended", world.log)
    lines = [line for line in world.log.read_text().splitlines() if "INFO" in line or "ERROR" in line]
    looks = [line for line in lines if RUN_SCHEDULES in line or RECONCILE in line]
    assert [line.split("/")[0].split(": ")[-1] for line in looks] == ["ERROR"]
    assert "TypeError" in looks[0]
    assert len([line for line in lines if TASK in line]) == 2


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"return_value": "{}"}, False),
        ({"return_value": "{'b1': 2}"}, True),
        ({"args": "()"}, False),
        ({"name": TASK, "return_value": "{}"}, True),
    ],
)
def test_a_look_that_did_something_has_its_line(more: dict[str, str], shown: bool) -> None:
    """What was sent again stands in the log; errors are shown whatever they hold."""
    for level, expected in ((logging.INFO, shown), (logging.ERROR, True)):
        record = logging.LogRecord("celery.app.trace", level, "", 0, "", (), None)
        record.data = {"name": RECONCILE, **more}
        assert IdlePassFilter().filter(record) is expected
