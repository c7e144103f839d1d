"""Forgetting on a real queue: a worker that is at the photo, a callback, a retry, a schedule and an event's mark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from apf.recipe import recipe_fields
from producer.client import Client
from tests.conftest import RedisServer
from tests.faults.test_callbacks import CALLS, is_settled
from tests.faults.world import ROOT, World, closing_world, photos
from tests.receivers import Receiver, receiving
from tests.waiting import until
from tests.workers.deletion.test_forget import forms, unpacked
from workers.broker.client import Broker
from workers.broker.event_marks import how, mark_name
from workers.ledger.leases import attempts_at, is_live
from workers.schedules.edit import add_schedule, trigger
from workers.schedules.fire import run_due
from workers.status.batch_status import BatchMonitor
from workers.store import open_store

pytestmark = pytest.mark.timeout(300)

FAILED, SLOW = "anna müller/005.jpg", "anna müller/klinik.jpg"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer, receiver: Receiver) -> Iterator[World]:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    own = {**photos(8), FAILED: b"corrupt anna " * 900, SLOW: b"face anna " * 900}
    made = World(tmp_path, redis_server, source, out, own, dict(CALLS), callback=receiver.url)
    with closing_world(made) as one:
        yield one


def apf(world: World, *arguments: str, given: str = "") -> tuple[int, str, str]:
    environment = {**os.environ, **world.variables}
    command = [sys.executable, "-m", "producer", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, timeout=200, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


def naming(world: World, key: str) -> list[str]:
    """Files of destination and ledger, and what Redis holds, that name a photo in some way."""
    info = world.source.head(key)
    wanted = forms(key, [info.etag] if info else [])
    found = []
    root = world.folder / "out"
    for path in root.rglob("*"):
        data = b"\n".join(unpacked(path.read_bytes())) if path.is_file() else b""
        name = str(path.relative_to(root)).encode() if path.is_file() else b""
        found += [str(path)] if any(form in name + b"\0" + data for form in wanted) else []
    client = redis.Redis(port=world.redis.port)
    for name in client.keys("*"):
        kind = client.type(name)
        values = client.lrange(name, 0, -1) if kind == b"list" else []
        values = client.hvals(name) if kind == b"hash" else values
        found += [repr(name)] if any(form in b" ".join([name, *values]) for form in wanted) else []
    return found


def test_nothing_of_a_forgotten_photo_is_left_anywhere(world: World, receiver: Receiver) -> None:
    """Batch, failures, callback, retry, upload and schedule first, each by real processes; then no file, no name and no
    key in Redis tells of the two photos, the other photos' records are whole, and later runs leave them out.
    """
    world.start_worker()
    world.submit()
    world.wait()
    until(lambda: is_settled(world), 60, "the callback is delivered", world.log)
    world.retry()
    world.wait()
    until(lambda: is_settled(world), 60, "the second callback is delivered", world.log)
    client = Client(world.settings)
    upload = client.submit(world.source_url, world.destination_url, photos=[FAILED, SLOW], recipe="light")
    client.wait(world.destination_url, upload.batch, timeout_s=60)
    fields = {
        "name": "nightly", "source": world.source_url, "destination": world.destination_url,
        "recipe": recipe_fields("light"), "trigger": trigger(None, "UTC", "1s"), "on_change": ("new",),
    }  # fmt: skip
    add_schedule(fields, world.settings)
    first = run_due(world.settings, Broker(world.app))[0].run.parts[0].batch
    world.batch_id, batch = first, world.batch_id
    world.wait()
    run_due(world.settings, Broker(world.app))
    assert len(naming(world, FAILED)) >= 6
    assert len(naming(world, SLOW)) >= 5

    code, _, said = apf(world, "forget", world.destination_url, FAILED, "--dry-run", "--from", "-", given=f"{SLOW}\n")
    assert (code, "would be deleted" in said) == (0, True)
    assert world.destination.head(SLOW)
    code, _, said = apf(world, "forget", world.destination_url, FAILED, "--from", "-", "--yes", given=f"{SLOW}\n")
    assert (code, said.count("left:")) == (0, 0), said
    assert naming(world, FAILED) == []
    assert naming(world, SLOW) == []
    assert world.source.get(SLOW).data.startswith(b"face anna"), "originals stay"

    summary = BatchMonitor(world.ledger, batch).poll()
    assert (summary.photos, summary.missing, summary.pending) == (8, 0, 0)
    assert not world.ledger.has_batch(upload.batch), "no photo is left of it"
    world.source.put(FAILED, b"face anna, newer")
    world.source.put("bert.jpg", b"face bert")
    fired = run_due(world.settings, Broker(world.app))
    assert len(fired) == 1, "for the other new photo"
    world.batch_id = fired[0].run.parts[0].batch
    world.wait()
    assert world.destination.head("bert.jpg")
    assert world.destination.head(FAILED) is None
    assert naming(world, FAILED) == naming(world, SLOW) == []
    code, out, _ = apf(world, "audit", world.destination_url, "--json")
    assert [json.loads(line)["act"] for line in out.splitlines()] == ["submit", "forget"]
    assert apf(world, "forget", world.destination_url, "bert.jpg", "--yes")[0] == 0
    code, _, said = apf(world, "protect", f"{world.folder}/in/bert.jpg", world.destination_url, "--no-wait")
    assert (code, "apf remember" in said) == (2, True)


def test_a_worker_that_has_the_photo_in_hand_is_waited_for(world: World) -> None:
    """It writes its output after the command has begun, and nothing of it is there when the command ends."""
    world.start_worker(CHEAP_SECONDS="1.5")
    world.submit()
    shard = next(
        number for number in range(world.summary().batch.shards)
        if any(ref.key == SLOW for ref in world.ledger.read_plan(world.batch_id, number))
    )  # fmt: skip
    at_it = lambda: any(is_live(one) for one in attempts_at(world.ledger, world.batch_id, shard))  # noqa: E731
    until(at_it, 60, "a worker is at the photo's shard", world.log)
    code, _, said = apf(world, "forget", world.destination_url, SLOW, "--yes")
    assert (code, said.count("left:")) == (0, 0), said
    assert naming(world, SLOW) == []
    world.wait()
    assert naming(world, SLOW) == []
    summary = world.summary()
    assert (summary.photos, summary.pending, summary.missing) == (9, 0, 0)


def test_a_listeners_mark_of_it_goes(world: World) -> None:
    """Which is a digest in Redis; the event may come again, and is taken for one of a photo that is not there."""
    world.start_worker()
    client = Client(world.settings)
    upload = client.submit(world.source_url, world.destination_url, photos=[SLOW], recipe="light")
    client.wait(world.destination_url, upload.batch, timeout_s=60)
    batch = world.ledger.read_batch(upload.batch)
    assert urlsplit(batch.source).scheme == "file", "a listener's are of buckets: as if it were one"
    bucket_batch = batch.model_copy(update={"source": "s3://uploads/in"})
    world.ledger.write_batch(bucket_batch)
    done = how(batch.recipe.id, batch.no_face, batch.on_weak)
    names = [mark_name("", "uploads", f"in/{key}", batch.destination, done) for key in (SLOW, FAILED)]
    store = redis.Redis(port=world.redis.port)
    for name in names:
        store.set(name, "etag", ex=100)
    code, _, said = apf(world, "forget", world.destination_url, SLOW, "--yes")
    assert code == 0, said
    assert [store.exists(name) for name in names] == [0, 1]
    assert open_store(world.destination_url).head(SLOW) is None
