"""The `apf` command as its users call it, with the worker inside: real photos in folders."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import skimage.data
from PIL import Image

from tests.command import apf, apf_json, apf_process
from tests.conftest import OWN_SETTINGS, RedisServer


def adds_up(result: dict[str, Any]) -> bool:
    outcomes = ("protected", "no_face", "skipped", "failed", "pending", "missing")
    return bool(result["photos"] == sum(result[outcome] for outcome in outcomes))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An astronaut twice (once turned by EXIF, in a sub-folder), a cup of coffee, a broken photo, and no photo."""
    folder = tmp_path_factory.mktemp("album")
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.save(folder / "astronaut.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "2024 summer").mkdir()
    astronaut.rotate(90, expand=True).save(folder / "2024 summer" / "turned é.png", exif=exif)
    Image.fromarray(skimage.data.coffee()).save(folder / "coffee.webp")
    whole = io.BytesIO()
    astronaut.save(whole, "JPEG")
    (folder / "broken.jpg").write_bytes(whole.getvalue()[:9000])
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def protected(album: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The album after one run, with what the run printed."""
    out = tmp_path_factory.mktemp("protected")
    return out, apf_json("protect", album, out, code=1)


def test_a_first_run_brings_every_photo_to_its_outcome(protected: tuple[Path, dict[str, Any]]) -> None:
    _, result = protected
    assert adds_up(result)
    assert (result["photos"], result["protected"], result["no_face"], result["failed"]) == (4, 2, 1, 1)
    assert (result["pending"], result["ignored"], result["faces"]) == (0, 1, 2)
    assert [failure["key"] for failure in result["failures"]] == ["broken.jpg"]


def test_outputs_open_upright_at_the_sources_size_and_differ_in_the_face(
    album: Path, protected: tuple[Path, dict[str, Any]]
) -> None:
    out, _ = protected
    source = skimage.data.astronaut().astype(int)
    for name in ("astronaut.jpg", "2024 summer/turned é.png"):
        with Image.open(out / name) as photo:
            assert photo.size == (512, 512)
            assert not photo.getexif().get(0x0112)
            moved = np.abs(np.asarray(photo.convert("RGB")).astype(int) - source)
        # The PNG is lossless: its face moves, under a warp by more than a pixel's bound, and nothing else moves.
        if name.endswith(".png"):
            assert moved.max() >= 8
            assert moved[300:].max() == 0
        assert moved[80:180, 180:270].mean() > 1
    assert not (out / "broken.jpg").exists()


def test_a_second_run_protects_nothing_and_loads_no_torch(album: Path, protected: tuple[Path, dict[str, Any]]) -> None:
    out, _ = protected
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    result = apf_json("protect", album, out, code=1)
    assert (result["skipped"], result["protected"], result["failed"]) == (3, 0, 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_only_what_is_new_or_changed_or_under_another_recipe_is_protected(album: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "astronaut.jpg", source / "a.jpg")
    assert apf_json("protect", source, out)["protected"] == 1
    shutil.copy(album / "astronaut.jpg", source / "b.jpg")
    result = apf_json("protect", source, out)
    assert (result["protected"], result["skipped"]) == (1, 1)
    assert apf_json("protect", source, out, "--recipe", "light")["protected"] == 2


def test_status_tells_the_latest_batch_and_retry_sends_what_failed(album: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "broken.jpg", source / "a.jpg")
    batch = apf_json("protect", source, out, code=1)["batch"]
    assert apf_json("status", out, code=1)["batch"] == batch
    shutil.copy(album / "astronaut.jpg", source / "a.jpg")  # the fix
    result = apf_json("retry", out, batch)
    assert (result["photos"], result["protected"], result["failed"]) == (1, 1, 0)
    assert apf_json("status", out, batch)["protected"] == 1


def test_a_cancelled_batch_is_resumed(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source / "c.webp")
    batch = apf_json("protect", source, out)["batch"]
    (report,) = out.glob(f".apf/batches/{batch}/reports/*")
    report.unlink()  # as if the worker had died before it reported
    apf("cancel", out, batch)
    stopped = apf_json("status", out, batch)
    assert (stopped["cancelled"], stopped["pending"]) == (True, 1)
    result = apf_json("resume", out, batch)
    assert (result["cancelled"], result["pending"], result["no_face"]) == (False, 0, 1)


def test_no_face_skip_leaves_the_photo_out(album: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source)
    assert apf_json("protect", source, out, "--no-face", "skip")["no_face"] == 1
    assert not (out / "coffee.webp").exists()


@pytest.mark.parametrize(
    ("args", "variables", "cure"),
    [
        (["protect", "{in}", "{in}/out"], {}, "overlap"),
        (["protect", "{in}/none", "{out}"], {}, "none"),
        (["protect", "{in}", "{out}", "--recipe", "stronger"], {}, "light, standard, strong"),
        (["protect", "{in}", "{out}", "--no-wait"], {}, "APF_BROKER_URL"),
        (["protect", "{in}", "ftp://host/x"], {}, "ftp"),
        (["protect", "{in}", "{out}", "--no-wait"], {"APF_BROKER_URL": "redis://apf:pa/ss@host/0"}, "%2F"),
        (["worker"], {"APF_BROKER_URL": "redis://apf:pa/ss@host/0", "APF_ALLOWED_URLS": "*"}, "%2F"),
        (["protect", "{in}", "{out}"], {"APF_SHARD_PHOTOS": "none"}, "APF_SHARD_PHOTOS"),
        (["protect", "{in}", "{out}"], {"APF_BROKER_URL": "amqp://host"}, "redis://"),
        (["protect", "{in}", "{out}"], {"APF_VISIBILITY_TIMEOUT_S": "60"}, "twice"),
        (["status", "{out}"], {}, "no batch"),
        (["status", "{out}", "unknown"], {}, "unknown"),
        (["worker"], {}, "APF_BROKER_URL"),
        (["worker"], {"APF_BROKER_URL": "redis://127.0.0.1:1/0"}, "APF_ALLOWED_URLS"),
        (["beat"], {}, "APF_BROKER_URL"),
        (["reconcile"], {}, "APF_BROKER_URL"),
        (["reconcile"], {"APF_BROKER_URL": "redis://127.0.0.1:1/0"}, "APF_ALLOWED_URLS"),
        (["pause", "{out}", "unknown"], {}, "unknown"),
        (["protect", "{in}", "{out}"], {"APF_ALLOWED_URLS": "photos"}, "s3://bucket/prefix"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_says_so_with_the_cure_and_exits_with_2(
    album: Path, tmp_path: Path, args: list[str], variables: dict[str, str], cure: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    filled = [arg.replace("{in}", str(album)).replace("{out}", str(out)) for arg in args]
    ended = apf(*filled, code=2, **variables)
    assert cure in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("command", "variables"),
    [("worker", {}), ("beat", {"APF_SHARD_PHOTOS": "none"})],
    ids=["not set", "malformed"],
)
def test_help_needs_no_settings(command: str, variables: dict[str, str]) -> None:
    """Whoever asks for help has not set anything up yet."""
    assert f"celery {command} [OPTIONS]" in apf_process(command, "--help", **variables).stdout


@pytest.mark.rotating
@pytest.mark.parametrize(
    ("variables", "cure"),
    [({}, "APF_BROKER_URL"), ({"APF_SHARD_PHOTOS": "none"}, "APF_SHARD_PHOTOS")],
    ids=["not set", "malformed"],
)
def test_celery_itself_says_in_one_line_what_setting_is_missing(variables: dict[str, str], cure: str) -> None:
    """The image's health check and people who know Celery call it so: a stack trace would bury the cure."""
    command = [sys.executable, "-m", "celery", "-A", "workers.celeryapp", "worker"]
    clean = {n: value for n, value in os.environ.items() if n in OWN_SETTINGS or not n.startswith("APF_")}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **variables}, timeout=60)
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, line[:5]) == (2, "apf: ")
    assert cure in line


def test_an_unreachable_queue_is_an_error_and_the_batch_can_be_resumed_without_it(album: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source)
    ended = apf("protect", source, out, code=2, APF_BROKER_URL="redis://127.0.0.1:1/0")
    assert "start Redis or correct the URL" in ended.stderr
    batch = apf_json("status", out)["batch"]
    assert f"go on with: apf resume {out.as_uri()} {batch}" in ended.stderr
    assert apf_json("resume", out, batch)["no_face"] == 1


REFUSALS = {
    "apf:wrongpass": "correct user and password",
    "apf:pa55word": "keys ~elsewhere:* and the commands",
}


@pytest.mark.rotating
@pytest.mark.parametrize("login", REFUSALS)
def test_a_queue_that_refuses_names_the_cure_and_the_command_that_goes_on_but_no_password(
    redis_server: RedisServer, album: Path, tmp_path: Path, login: str
) -> None:
    """Redis is up, and to start it would help nobody; the batch is there already, and must be found again."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source)
    with redis_user(redis_server, "~apf:*", "&*", "+@all") as host:
        url = f"redis://{login}@{host}"
        ended = apf("protect", source, out, "--no-wait", code=2, APF_BROKER_URL=url, APF_BROKER_KEY_PREFIX="elsewhere:")
    batch = apf_json("status", out)["batch"]
    assert REFUSALS[login] in ended.stderr
    assert "start Redis" not in ended.stderr
    assert f"apf resume {out.as_uri()} {batch}" in ended.stderr
    assert login.partition(":")[2] not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_reconcile_says_which_places_it_could_not_look_at(redis_server: RedisServer, tmp_path: Path) -> None:
    """A clock that sees 0 takes all for well."""
    (tmp_path / "there").mkdir()
    variables = {"APF_BROKER_URL": redis_server.url, "APF_ALLOWED_URLS": "*"}
    assert apf_json("reconcile", tmp_path / "there", **variables) == {}
    ended = apf("reconcile", tmp_path / "there", tmp_path / "none", code=2, **variables)
    assert f"folder {tmp_path / 'none'} does not exist" in ended.stderr


def test_reconcile_fails_where_the_queue_refuses(redis_server: RedisServer, album: Path, tmp_path: Path) -> None:
    """Whether it refuses at once, or only to take what is sent."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source)
    with redis_user(redis_server, "~elsewhere:*", "&*", "+@all") as host:
        variables = {"APF_BROKER_URL": f"redis://apf:pa55word@{host}", "APF_ALLOWED_URLS": tmp_path.as_uri()}
        assert "APF_BROKER_KEY_PREFIX" in apf("reconcile", code=2, **variables).stderr
    variables["APF_BROKER_URL"] = redis_server.url
    apf("protect", source, out, "--no-wait", **variables)
    with closing(redis.Redis(port=redis_server.port)) as admin:
        admin.flushall()  # all is lost, so that all is sent again
        admin.config_set("maxmemory", 1)
        try:
            ended = apf("reconcile", code=2, **variables)
        finally:
            admin.config_set("maxmemory", 0)
    assert "is full" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_worker_does_not_start_where_its_tasks_would_be_dropped(redis_server: RedisServer, tmp_path: Path) -> None:
    """Redis with a limit and another policy than noeviction drops a queue when it is full, without a word."""
    variables = {"APF_BROKER_URL": redis_server.url, "APF_ALLOWED_URLS": tmp_path.as_uri()}
    with closing(redis.Redis(port=redis_server.port)) as admin:
        admin.config_set("maxmemory", "1gb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        try:
            ended = apf("worker", code=2, **variables)
        finally:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("maxmemory", 0)
    (line,) = ended.stderr.splitlines()
    assert "set noeviction" in line


@contextmanager
def redis_user(server: RedisServer, *rules: str) -> Iterator[str]:
    """Redis's host, port and database while it has the user apf with the password pa55word and these rules."""
    with closing(redis.Redis(port=server.port)) as admin:
        admin.execute_command("ACL", "SETUSER", "apf", "reset", "on", ">pa55word", *rules)
        try:
            yield f"127.0.0.1:{server.port}/0"
        finally:
            admin.execute_command("ACL", "DELUSER", "apf")


def test_a_missing_detector_fails_each_photo_with_the_cure(album: Path, tmp_path: Path) -> None:
    result = apf_json("protect", album, tmp_path / "out", code=1, APF_DETECTOR="buffalo_nowhere")
    assert result["failed"] == result["photos"]
    assert "buffalo_nowhere" in result["failures"][0]["reason"]


def test_doctor_finds_all_well_without_a_queue(album: Path) -> None:
    findings = apf_json("doctor", album)
    assert all(finding["ok"] for finding in findings)
    assert {"settings", "queue", "weights", "worker"} <= {finding["check"] for finding in findings}


def test_doctor_names_a_queue_that_does_not_answer() -> None:
    findings = apf_json("doctor", code=1, APF_BROKER_URL="redis://127.0.0.1:1/0", APF_ALLOWED_URLS="*")
    assert [finding["check"] for finding in findings if not finding["ok"]] == ["queue"]


def test_failed_lists_every_failed_photo_with_its_tries(protected: tuple[Path, dict[str, Any]]) -> None:
    out, result = protected
    lines = apf("status", out, result["batch"], "--failed", code=1).stdout.splitlines()
    assert len(lines) == 1
    key, tries, again, reason = lines[0].split("\t")
    assert (key, tries, again) == ("'broken.jpg'", "1 try", "permanent")
    assert reason
    apf("retry", out, result["batch"], code=1)
    assert "2 tries" in apf("status", out, result["batch"], "--failed", code=1).stdout


@pytest.mark.parametrize("command", ["pause", "cancel"])
def test_a_batch_that_is_done_cannot_be_stopped(protected: tuple[Path, dict[str, Any]], command: str) -> None:
    """Its status would say for ever that it waits."""
    out, result = protected
    assert "is done already" in apf(command, out, result["batch"], code=2).stderr
    status = apf_json("status", out, result["batch"], code=1)
    assert (status["paused"], status["cancelled"]) == (False, False)


def test_a_paused_batch_waits_and_goes_on(album: Path, tmp_path: Path) -> None:
    """The mark lies in the ledger: no restart of anything forgets it."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(album / "coffee.webp", source)
    apf("protect", source, out, code=2, APF_BROKER_URL="redis://127.0.0.1:1/0")
    batch = apf_json("status", out)["batch"]
    assert f"apf resume {out} {batch}" in apf("pause", out, batch).stderr
    assert apf_json("status", out)["paused"] is True
    result = apf_json("resume", out, batch)
    assert (result["no_face"], result["pending"], result["paused"]) == (1, 0, False)


@pytest.mark.skipif(not hasattr(os, "nice"), reason="this system knows no niceness")
def test_a_worker_gives_way_to_other_programs() -> None:
    """As far as it is told, by what it becomes, too; what gives way further already stays so."""
    code = (
        "import os, sys; from producer.cli import services as s\n"
        "s.check_worker = s.check_can_work = s.check_reachable = s.look_at_cage = lambda *_: None\n"
        "s.checks.check_eviction = lambda *_: None\n"
        "s._become = lambda _: os.execv(sys.executable, [sys.executable, '-c', 'import os; print(os.nice(0))'])\n"
        "from producer.cli import main\n"
        "sys.argv = ['apf', 'worker']; main()\n"
    )
    for asked, already in (("7", 0), ("0", 0), ("3", 5)):
        command = [sys.executable, "-c", f"import os; os.nice({already})\n{code}"]
        environment = {**os.environ, "APF_NICE": asked, "APF_BROKER_URL": "redis://127.0.0.1:1/0"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(ran.stdout) == max(int(asked), already + os.nice(0))
