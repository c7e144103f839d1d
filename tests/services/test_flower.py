"""Flower, the usual page for Celery, works beside our workers without anything being set for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, _free_ports
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until
from workers.core.task_names import TASK

pytestmark = pytest.mark.timeout(240)


@pytest.mark.rotating("long roads")
def test_flower_sees_worker_and_tasks(tmp_path: Path, redis_server: RedisServer) -> None:
    """By its API and by its own metrics, as workers send events."""
    port = _free_ports([0])
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    with closing_world(World(tmp_path, redis_server, source, out, photos(8))) as world:
        log = tmp_path / "flower.log"
        variables = {**os.environ, **world.variables, "FLOWER_UNAUTHENTICATED_API": "true"}
        with log.open("ab") as output:
            flower = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "workers.celeryapp", "flower", f"--port={port}",
                 "--address=127.0.0.1"],
                cwd=tmp_path, env={**variables, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output,
            )  # fmt: skip

        def ask(path: str) -> str:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
            return ""

        def tasks() -> list[dict[str, Any]]:
            return list(json.loads(ask("/api/tasks") or "{}").values())

        try:
            until(lambda: ask("/healthcheck"), 60, "Flower answers", log)
            world.start_worker()
            world.submit()
            world.wait()
            until(lambda: [t["state"] for t in tasks()] == ["SUCCESS"] * 2, 30, "Flower saw both shards end", log)
            assert {task["name"] for task in tasks()} == {TASK}
            (worker,) = json.loads(ask("/api/workers?refresh=1"))
            assert worker.startswith("w0@")
            assert f'flower_events_total{{task="{TASK}",type="task-succeeded",worker="{worker}"}} 2.0' in ask(
                "/metrics"
            )
        finally:
            flower.terminate()
            flower.wait(30)
