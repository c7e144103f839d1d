"""What runs out or was set up wrong: a clear error at once, with the cure; nothing half done, and all done after it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OWN_SETTINGS, RedisServer, S3Server
from tests.faults.proxy import FaultProxy
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until
from workers.broker.client import queue_snapshot
from workers.broker.queue_state import QueueSnapshot
from workers.errors import Forbidden

READER = {"AWS_ACCESS_KEY_ID": "apf:reader", "AWS_SECRET_ACCESS_KEY": "readerreader"}
WRONG = {"AWS_SECRET_ACCESS_KEY": "wrong"}


def apf(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    clean = {n: value for n, value in os.environ.items() if n in OWN_SETTINGS or not n.startswith("APF_")}
    return subprocess.run(
        [sys.executable, "-m", "producer", *arguments],
        cwd=ROOT, env={**clean, **variables}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def is_refused(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2, one line that says it, and no stack trace."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    for word in words:
        assert word in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)


def test_a_full_disk_is_told_at_once(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"face")
    with (small_disk / "fill").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    is_refused(apf("protect", f"{tmp_path}/in", f"{small_disk}/out"), "the disk is full: free some space")


@pytest.mark.rotating
@pytest.mark.parametrize("ledger", ["beside", "elsewhere"])
def test_a_disk_that_fills_up_on_the_way(
    small_disk: Path, tmp_path: Path, redis_server: RedisServer, ledger: str
) -> None:
    """Photos that found no room have failed with the cure, or are pending where not even that could be written."""
    variables = {} if ledger == "beside" else {"APF_LEDGER_URL": (tmp_path / "ledger").as_uri()}
    source, out = (tmp_path / "in").as_uri(), (small_disk / "out").as_uri()
    with closing_world(World(tmp_path, redis_server, source, out, photos(24, special={}), variables)) as world:
        world.start_worker()
        world.submit()
        until(lambda: "disk is full" in world.log.read_text() or world.summary().failed, 60, "it is full", world.log)
        if ledger == "elsewhere":
            world.wait()
            reasons = {failure.reason for failure in world.summary().failures}
            assert reasons
            assert {"the disk is full: free some space" in reason for reason in reasons} == {True}, reasons
        written = [path for path in (small_disk / "out").rglob("*.jpg") if ".apf" not in path.parts]
        assert all(path.read_bytes().startswith(b"protected ") for path in written), "none is half written"
        grow(small_disk)
        world.wait()
        world.retry()
        world.wait()
        world.check()


@pytest.fixture
def bucket(swift: S3Server) -> str:
    """A bucket that `READER` may list and read."""
    name = swift.new_bucket()
    login = urllib.request.Request(f"{swift.endpoint_url}/auth/v1.0")
    login.add_header("X-Auth-User", os.environ["AWS_ACCESS_KEY_ID"])
    login.add_header("X-Auth-Key", os.environ["AWS_SECRET_ACCESS_KEY"])
    with urllib.request.urlopen(login) as answer:
        url, token = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
    allow = urllib.request.Request(f"{url}/{name}", method="POST")
    allow.add_header("X-Auth-Token", token)
    allow.add_header("X-Container-Read", "apf:reader,.rlistings")
    urllib.request.urlopen(allow).close()
    return name


@pytest.fixture
def in_bucket(tmp_path: Path, redis_server: RedisServer, swift: S3Server, bucket: str) -> Iterator[World]:
    variables = {"APF_S3_ENDPOINT_URL": swift.endpoint_url}
    world = World(tmp_path, redis_server, f"s3://{bucket}/in", f"s3://{bucket}/out", photos(8), variables)
    with closing_world(world):
        yield world


@pytest.mark.rotating
@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (READER, ["access denied", "s3:PutObject"]),
        (WRONG, ["does not accept the credentials", "AWS_SECRET_ACCESS_KEY"]),
    ],
    ids=["read-only", "wrong"],
)
def test_a_producer_without_the_rights_is_told_at_once(
    in_bucket: World, credentials: dict[str, str], words: list[str]
) -> None:
    variables = {**in_bucket.variables, **credentials}
    is_refused(apf("protect", in_bucket.source_url, in_bucket.destination_url, "--no-wait", **variables), *words)
    assert list(in_bucket.destination.list(".apf/")) == []


def test_a_missing_bucket_is_told_at_once(in_bucket: World) -> None:
    variables = {**in_bucket.variables, "APF_ALLOWED_URLS": "*"}
    for source, destination in [
        ("s3://no-such-bucket", "s3://nor-this-one"),
        (in_bucket.source_url, "s3://no-such-bucket"),
    ]:
        is_refused(apf("protect", source, destination, "--no-wait", **variables), "the bucket does not exist")


@pytest.mark.rotating
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (WRONG, ["does not accept the credentials", "AWS_SECRET_ACCESS_KEY"]),
        ({"APF_ALLOWED_URLS": "s3://no-such-bucket"}, ["s3://no-such-bucket", "the bucket does not exist"]),
        ({"APF_ALLOWED_URLS": "file:///no/such/folder"}, ["/no/such/folder"]),
    ],
    ids=["wrong credentials", "missing bucket", "missing folder"],
)
def test_a_worker_that_can_do_nothing_does_not_start(
    in_bucket: World, variables: dict[str, str], words: list[str]
) -> None:
    """It would take messages from those that can."""
    is_refused(apf("worker", **{**in_bucket.variables, **variables}), "this worker cannot work", *words)


def expires(world: World, proxy: FaultProxy) -> None:
    proxy.set("expired")
    until(lambda: "the credentials have expired" in world.log.read_text(), 30, "it is told", world.log)


def test_a_token_that_expires_costs_no_photo(
    tmp_path: Path, redis_server: RedisServer, swift: S3Server, bucket: str
) -> None:
    """Nobody can report either: the shards stay open, and are done by whoever has a new token."""
    proxy = FaultProxy(int(swift.endpoint_url.rpartition(":")[2]))
    variables = {"APF_S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "CHEAP_SECONDS": "0.1"}
    world = World(tmp_path, redis_server, f"s3://{bucket}/in", f"s3://{bucket}/out", photos(12), variables)
    with closing_world(world):
        world.start_worker()
        world.submit()
        until(world.is_mid_shard, 60, "mid-shard", world.log)
        expires(world, proxy)
        with pytest.raises(Forbidden, match="the credentials have expired: get new ones"):
            world.resume()
        proxy.set("pass")
        world.wait()
        world.retry()
        world.wait()
        world.check()
        proxy.close()


def is_idle(found: QueueSnapshot) -> bool:
    return not any(found.queued.values()) and not found.taken


def test_a_worker_that_may_only_read_leaves_the_shards_to_others(in_bucket: World) -> None:
    in_bucket.start_worker(**READER)
    in_bucket.submit()
    until(lambda: is_idle(queue_snapshot(in_bucket.app)), 60, "all are given up", in_bucket.log)
    assert "access denied" in in_bucket.log.read_text()
    assert list(in_bucket.destination.list()) == []
    assert in_bucket.summary().pending == 8
    in_bucket.close()
    in_bucket.start_worker()
    in_bucket.wait()
    in_bucket.check()


def test_a_destination_that_vanishes_fails_photos_with_the_cure(
    tmp_path: Path, redis_server: RedisServer, swift: S3Server
) -> None:
    """The ledger lies elsewhere, so that it can be said; a retry, once the bucket is there again, does it all."""
    kept, gone = swift.new_bucket(), swift.new_bucket()
    variables = {"APF_S3_ENDPOINT_URL": swift.endpoint_url, "APF_LEDGER_URL": f"s3://{kept}/ledger"}
    album = photos(8, special={})
    with closing_world(World(tmp_path, redis_server, f"s3://{kept}/in", f"s3://{gone}", album, variables)) as world:
        world.submit()
        swift.client.delete_bucket(Bucket=gone)
        world.start_worker()
        world.wait()
        failures = world.summary().failures
        assert len(failures) == 8
        assert {"the bucket does not exist" in failure.reason for failure in failures} == {True}, failures
        swift.client.create_bucket(Bucket=gone)
        world.retry()
        world.wait()
        world.check()


HOSTILE = ["../up.jpg", "a/../b.jpg", "..", "/lead.jpg", "a//b.jpg", "./x.jpg", "new\nline.jpg", "tab\there.jpg",
           "back\\slash.jpg", "%2e%2e/%00.jpg", "snowman ☃.jpg", "x" * 1015 + ".jpg", "<script>.jpg", "'; rm -rf.jpg",
           "-rf.jpg", "con.jpg", "\u202egpj.exe.jpg"]  # fmt: skip


def test_hostile_keys_pass_as_they_are(tmp_path: Path, redis_server: RedisServer, swift: S3Server) -> None:
    """Under the same key in the destination, and nowhere else; the log has none of them."""
    inbox, outbox = swift.new_bucket(), swift.new_bucket()
    variables = {"APF_S3_ENDPOINT_URL": swift.endpoint_url, "APF_LEDGER_URL": f"s3://{swift.new_bucket()}"}
    album = {key: b"face %d" % number for number, key in enumerate(HOSTILE)}
    with closing_world(World(tmp_path, redis_server, f"s3://{inbox}", f"s3://{outbox}", album, variables)) as world:
        world.start_worker()
        world.submit()
        world.wait()
        world.check()
        log = world.log.read_text()
    assert not [key for key in HOSTILE if len(key) > 4 and key in log]


def test_hostile_names_on_disk_stay_below_their_folder(tmp_path: Path, redis_server: RedisServer) -> None:
    """Names that are no UTF-8 cannot be keys and are left out; links are not followed out of the folder."""
    inbox, secret = tmp_path / "in", tmp_path / "secret"
    album = {"new\nline.jpg": b"face 1", "con.jpg": b"face 2", "%2e%2e.jpg": b"face 3", "-rf.jpg": b"face 4"}
    secret.mkdir()
    (secret / "private.jpg").write_bytes(b"face of a stranger")
    world = World(tmp_path, redis_server, inbox.as_uri(), (tmp_path / "out").as_uri(), album)
    (inbox / "link.jpg").symlink_to(secret / "private.jpg")
    (inbox / "folder").symlink_to(secret)
    Path(os.fsdecode(os.fsencode(inbox) + b"/\xff.jpg")).write_bytes(b"face 5")
    with closing_world(world):
        world.start_worker()
        world.submit()
        world.wait()
        world.check()
    assert sorted(path.name for path in secret.iterdir()) == ["private.jpg"]
