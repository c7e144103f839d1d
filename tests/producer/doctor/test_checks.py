"""The doctor finds what is ill, in real services where there are any, and names the cure."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from apf.errors import WeightsError
from apf.weight_files import SUMS, WEIGHTS_DIR, check_weights
from producer.doctor import checks as doctor
from producer.doctor.finding import Finding
from producer.doctor.store_checks import examine_store
from tests.conftest import RedisServer, S3Server
from tests.memory_store import MemoryStore
from workers.broker.presence import note
from workers.broker.queues import all_queues
from workers.config.settings import Settings
from workers.errors import Forbidden, SettingsError, StoreError, StoreUnavailable
from workers.store import open_store
from workers.store.s3 import S3Store


def found(url: str, settings: Settings | None = None) -> dict[str, tuple[bool, str]]:
    """By the last word of the check."""
    return {f.check.removeprefix(f"store {url} "): (f.ok, f.detail) for f in examine_store(url, settings or Settings())}


@pytest.mark.parametrize("kind", ["memory", "file", "moto", "swift"])
def test_a_good_store_is_well_and_left_clean(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    settings = Settings()
    if kind == "memory":
        url = "memory://doctor"
    elif kind == "file":
        url = tmp_path.as_uri()
    else:
        server: S3Server = request.getfixturevalue("moto_server" if kind == "moto" else "swift")
        url, settings = f"s3://{server.new_bucket()}", Settings(s3_endpoint_url=server.endpoint_url)
    findings = found(url, settings)
    assert all(ok for ok, _ in findings.values()), findings
    assert {"writing", "ETags", "listing", "conditional writes", "clock"} <= findings.keys()
    if kind in ("moto", "swift"):
        assert findings["checksums"][1] == "when_required, as for APF_S3_ENDPOINT_URL; a PUT with it works"
    if kind in ("memory", "file"):
        assert findings["conditional writes"][1] == "one of 8 writers of a new key won"
    assert list(open_store(url, s3=settings.s3).list(".apf/doctor/")) == []


@pytest.mark.parametrize(
    ("answer", "ok", "said"),
    [
        (None, True, "when_supported, as on AWS; a PUT with it works"),
        (StoreError("400"), False, "name it in APF_S3_ENDPOINT_URL"),
        (Forbidden("no right"), True, "not tried, as writing is refused"),
    ],
)
def test_the_checksum_mode_of_a_bucket_is_told(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, answer: StoreError | None, ok: bool, said: str
) -> None:
    """A store that is reached by AWS_ENDPOINT_URL is taken for AWS, and may refuse PUTs that carry a CRC32."""

    def refused(*_: object, **__: object) -> None:
        assert answer
        raise answer

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint_url)
    if answer:
        monkeypatch.setattr(S3Store, "put", refused)
    url = f"s3://{moto_server.new_bucket()}"
    # Clients are shared by their options: a region of its own makes a new one, which sees the variable.
    findings = found(url, Settings(s3_region="eu-west-3"))
    assert findings["checksums"][0] is ok
    assert said in findings["checksums"][1]


def test_a_folder_of_photos_is_left_as_it_was(tmp_path: Path) -> None:
    """It is the user's own: not even an empty folder stays there."""
    (tmp_path / "photo.jpg").write_bytes(b"x")
    assert all(ok for ok, _ in found(tmp_path.as_uri()).values())
    assert [path.name for path in tmp_path.rglob("*")] == ["photo.jpg"]


def test_a_ledger_beside_it_stays(tmp_path: Path) -> None:
    """A worker may be writing there: of its folders none is taken away."""
    (tmp_path / ".apf" / "tmp").mkdir(parents=True)
    examine_store(tmp_path.as_uri(), Settings())
    assert (tmp_path / ".apf" / "tmp").is_dir()
    assert not (tmp_path / ".apf" / "doctor").exists()


def test_a_missing_bucket_or_folder_is_told_at_once(tmp_path: Path) -> None:
    (finding,) = examine_store(str(tmp_path / "none"), Settings())
    assert not finding.ok and "does not exist" in finding.detail


def test_a_store_that_may_not_be_written_serves_as_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise Forbidden("access denied")

    monkeypatch.setattr(MemoryStore, "put", refused)
    findings = found("memory://doctor-read-only")
    assert findings["writing"][0] and "source alone" in findings["writing"][1]


@pytest.mark.parametrize(
    ("method", "answer", "check"),
    [
        ("put", StoreError("the disk is full: free some space"), "writing"),
        ("get", StoreUnavailable("503"), "reading back"),
        ("clock", datetime.now(UTC) - timedelta(minutes=10), "clock"),
    ],
)
def test_what_is_ill_is_named(monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, check: str) -> None:
    def ill(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(MemoryStore, method, ill)
    assert not found("memory://doctor-ill")[check][0]


def test_etags_that_do_not_move_are_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that changed after planning would be protected as the old one, and never again."""
    put = MemoryStore.put

    def same(store: MemoryStore, key: str, data: bytes, **options: Any) -> Any:
        return put(store, key, b"one", **options)

    monkeypatch.setattr(MemoryStore, "put", same)
    assert not found("memory://doctor-etags")["ETags"][0]


def test_a_broken_promise_of_conditional_writes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.doctor.store_checks.put_if_absent", lambda *_: True)
    ok, detail = found("memory://doctor-conditional")["conditional writes"]
    assert ok and detail.startswith("8 of 8 writers")


def listen(server: RedisServer) -> None:
    """Have Redis know a worker that listens to every queue."""
    with closing(redis.Redis(port=server.port)) as client:
        note(client, "", "w1", all_queues())


def test_a_real_redis_is_well_but_for_what_is_set_wrong(redis_server: RedisServer) -> None:
    listen(redis_server)
    settings = Settings(broker_url=redis_server.url, allowed_urls="*")
    checks = {f.check: f for f in doctor.examine(settings, [])}
    assert all(f.ok for f in checks.values()), checks
    assert {"queue", "queue eviction", "queue persistence", "queue latency", "queue clock"} <= checks.keys()
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            ill = {f.check for f in doctor.examine(settings, []) if not f.ok}
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
    assert ill == {"queue eviction", "queue persistence"}


def test_a_worker_that_cannot_ask_whether_its_queue_evicts_starts(redis_server: RedisServer) -> None:
    """What is down is waited for, and an ACL may forbid INFO; without a limit nothing is ever evicted."""
    doctor.check_eviction(Settings(broker_url="redis://127.0.0.1:1/0"))
    with closing(redis.Redis(port=redis_server.port)) as admin:
        admin.execute_command("ACL", "SETUSER", "apf", "on", ">pa55word", "~*", "&*", "+@all", "-info")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        try:
            doctor.check_eviction(Settings(broker_url=redis_server.url))
            admin.config_set("maxmemory", "1gb")
            doctor.check_eviction(Settings(broker_url=f"redis://apf:pa55word@127.0.0.1:{redis_server.port}/0"))
            with pytest.raises(SettingsError, match="set noeviction"):
                doctor.check_eviction(Settings(broker_url=redis_server.url))
        finally:
            admin.config_set("maxmemory", 0)
            admin.config_set("maxmemory-policy", "noeviction")
            admin.execute_command("ACL", "DELUSER", "apf")


def test_a_user_who_may_not_ask_for_info_is_told_so_and_the_rest_is_checked(redis_server: RedisServer) -> None:
    """Redis answers such a user: to say that it does not would send its operator the wrong way."""
    listen(redis_server)
    with closing(redis.Redis(port=redis_server.port)) as admin:
        admin.execute_command("ACL", "SETUSER", "apf", "on", ">pa55word", "~*", "&*", "+@all", "-info")
        try:
            url = f"redis://apf:pa55word@127.0.0.1:{redis_server.port}/0"
            checks = {f.check: f for f in doctor.examine(Settings(broker_url=url, allowed_urls="*"), [])}
        finally:
            admin.execute_command("ACL", "DELUSER", "apf")
    not_asked = {check for check, finding in checks.items() if "'info'" in finding.detail}
    assert not_asked == {"queue", "queue eviction", "queue persistence"}
    assert all(f.ok for f in checks.values()), checks
    assert checks["queue latency"].detail.startswith("answers in")


def test_a_login_that_cannot_work_is_told_without_its_password(redis_server: RedisServer) -> None:
    url = f"redis://apf:hunter2@127.0.0.1:{redis_server.port}/0"
    (queue,) = [f for f in doctor.examine(Settings(broker_url=url, allowed_urls="*"), []) if f.check == "queue"]
    assert not queue.ok
    assert "user and password" in queue.detail
    assert "hunter2" not in queue.detail


@pytest.mark.parametrize("harm", ["damaged", "missing", "foreign", "no sums"])
def test_weights_are_compared_with_what_was_shipped(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS_DIR, folder)
    check_weights(folder)
    path = folder / "universal.safetensors"
    match harm:
        case "damaged":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        case "missing":
            path.unlink()
        case "foreign":
            shutil.copy(path, folder / "more.safetensors")
        case _:
            (folder / SUMS).unlink()
    with pytest.raises(WeightsError, match="install the package again"):
        check_weights(folder)


def test_guides_that_are_not_here_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A guide that the environment names and that was not fetched is told with its cure; without steps none is."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("APF_GUIDES", "sface")
    assert [one for one in doctor.examine(Settings(), []) if one.check == "guides"] == []
    monkeypatch.setenv("APF_STEPS", "3")
    (found,) = [one for one in doctor.examine(Settings(), []) if one.check == "guides"]
    assert not found.ok and "apf guides pull sface" in found.detail


def test_torch_is_asked_only_where_a_gpus_driver_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver no process is started for it; with one, or where the settings say a GPU, torch answers."""
    asked: list[object] = []

    def run(command: object, **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess([], 0, "A GPU, 1.0 of 2.0 GiB free\n", "")

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setattr(doctor, "has_gpu_driver", lambda: False)
    assert doctor._gpu(Settings()) == Finding("GPU", True, "none: the CPU does the work")
    assert asked == []
    assert doctor._gpu(Settings(device="cuda")).detail.startswith("A GPU")
    monkeypatch.setattr(doctor, "has_gpu_driver", lambda: True)
    assert doctor._gpu(Settings()).detail.startswith("A GPU")
    assert len(asked) == 2
