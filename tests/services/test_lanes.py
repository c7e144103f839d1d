"""Lanes on a real Redis, with a real worker: uploads overtake, and tenants take turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Client
from tests.conftest import RedisServer
from tests.faults.strikes import SOAK
from tests.faults.world import World, closing_world, photos
from tests.waiting import until
from workers.broker.app import make_app
from workers.broker.client import Broker, choose_queue, should_yield
from workers.broker.queues import all_queues
from workers.config.settings import Settings
from workers.core.records import ShardJob
from workers.status.batch_status import BatchMonitor

SECONDS_A_PHOTO = 0.2


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    for name in ("in", "out", "up", "public"):
        (tmp_path / name).mkdir()
    variables = {
        "APF_ALLOWED_URLS": tmp_path.as_uri(),
        "APF_SHARD_PHOTOS": "60",
        "APF_BATCH_MEGAPIXELS": "0.002",
        "CHEAP_SECONDS": str(SECONDS_A_PHOTO),
    }
    place = World(
        tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(), photos(60), variables
    )
    with closing_world(place):
        yield place


def test_an_upload_overtakes_the_shard_that_runs(world: World) -> None:
    """One worker, at a bulk shard of twelve seconds: it gives way between two photos, and goes on where it was."""
    client = Client(world.settings)
    world.start_worker()
    world.submit()
    until(world.is_mid_shard, 30, "the worker is at the bulk shard", world.log)
    (world.folder / "up" / "me.jpg").write_bytes(b"face me " * 100)
    upload = client.submit((world.folder / "up").as_uri(), (world.folder / "public").as_uri(), photos=["me.jpg"])
    started = time.monotonic()
    assert client.wait(upload.destination, upload.batch, timeout_s=60).protected == 1
    took = time.monotonic() - started
    left = world.summary().pending
    print(f"\nthe upload was done after {took:.1f} s, with {left} bulk photos to go")
    assert took < len(world.photos) * SECONDS_A_PHOTO
    assert left, "the bulk shard was not waited for"
    world.wait()
    world.check()
    report = world.ledger.read_report(world.batch_id, 0)
    assert report is not None
    assert {photo.attempts for photo in report.photos} == {1}, "giving way is no death"


def test_a_worker_for_bulk_work_alone_gives_way_to_nothing(world: World) -> None:
    """It could not take the upload, and whoever can would be told of it no more."""
    client = Client(world.settings)
    world.start_worker("-Q", ",".join(all_queues(["bulk"])))
    world.submit()
    until(world.is_mid_shard, 30, "the worker is at the bulk shard", world.log)
    (world.folder / "up" / "me.jpg").write_bytes(b"face me " * 100)
    upload = client.submit((world.folder / "up").as_uri(), (world.folder / "public").as_uri(), photos=["me.jpg"])
    until(lambda: world.summary().done, 60, "the bulk shard is done in one go", world.log)
    assert "upload waits" not in world.log.read_text()
    assert client.status(upload.destination, upload.batch).pending == 1
    client.cancel(upload.destination, upload.batch)


@pytest.mark.rotating("fairness on a real queue")
def test_a_tenants_long_batch_starves_no_other(world: World, tmp_path: Path) -> None:
    """Ann's thirty shards wait when Bob's two come: his are done when few of hers are."""
    slow = world.settings.model_copy(update={"shard_photos": 2})
    client = Client(slow)
    (tmp_path / "bob").mkdir()
    for name in "abcd":
        (tmp_path / "up" / f"{name}.jpg").write_bytes(f"face {name} ".encode() * 100)
    ann = client.submit(world.source_url, world.destination_url, photos=sorted(world.photos), tenant="ann", lane="bulk")
    bob = client.submit(
        (tmp_path / "up").as_uri(), (tmp_path / "bob").as_uri(),
        photos=[f"{name}.jpg" for name in "abcd"], tenant="bob", lane="bulk",
    )  # fmt: skip
    world.start_worker()
    client.wait(bob.destination, bob.batch, timeout_s=60)
    done = client.status(ann.destination, ann.batch)
    assert done.reported_shards <= 5, "they took turns"
    client.cancel(ann.destination, ann.batch)


def test_one_worker_at_a_time_gives_way(redis_server: RedisServer) -> None:
    app = make_app(Settings(broker_url=redis_server.url, allowed_urls="*", broker_key_prefix="p:"))
    mine = all_queues(["interactive"])[1:]
    assert not should_yield(app, mine)
    Broker(app).send(ShardJob(batch_url="memory://x", shard=0, queue="bulk.01.2"))
    assert not should_yield(app, mine), "bulk work overtakes nobody"
    Broker(app).send(ShardJob(batch_url="memory://x", shard=0, queue="interactive.05"))
    assert not should_yield(app, ["interactive.06"])
    assert [should_yield(app, mine) for _ in range(3)] == [True, False, False]
    app.close()


def test_producers_find_rows_for_their_tenants(redis_server: RedisServer) -> None:
    """The first tenant's row has messages, so the next one gets another; its own next batch another column."""
    app = make_app(Settings(broker_url=redis_server.url, allowed_urls="*", broker_key_prefix="p:"))
    sender = Broker(app)
    queues = []
    for tenant in [*"abcdefgh", "a", "a"]:
        queues.append(choose_queue(app, "bulk", tenant))
        sender.send(ShardJob(batch_url="memory://x", shard=0, queue=queues[-1]))
    assert len(set(queues)) == len(queues)
    rows = [queue.split(".")[1] for queue in queues]
    assert len(set(rows)) == 8
    assert {rows[0]} == {rows[8], rows[9]}
    with redis.Redis(port=redis_server.port) as server:
        assert {key.decode() for key in server.keys("*") if b"_kombu" not in key} <= {
            *(f"p:{name}" for name in all_queues()),
            "p:apf-tenants.bulk",
        }
    app.close()


@pytest.mark.rotating("fairness on a real queue")
@pytest.mark.timeout(240)
def test_a_shard_that_gives_way_many_times_loses_no_photo(world: World) -> None:
    """Giving way is no try: neither Celery's three nor any other limit ends it, and what was done is not done again."""
    times = 12 if SOAK else 5
    client = Client(world.settings)
    for number in range(60, 60 + 12 * times):
        world.photos[key := f"more/{number}.jpg"] = f"face {number} ".encode() * 5000
        world.source.put(key, world.photos[key])
    world.settings = world.settings.model_copy(update={"shard_photos": 400})
    world.start_worker()
    world.submit()
    until(world.is_mid_shard, 30, "the worker is at the bulk shard", world.log)

    def given_way() -> int:
        return world.log.read_text().count("ShardPreempted('an upload waits')")

    seen = []
    for number in range(2 * times):
        if given_way() >= times:
            break
        (world.folder / "up" / f"{number}.jpg").write_bytes(f"face {number} ".encode() * 100)
        upload = client.submit(
            (world.folder / "up").as_uri(), (world.folder / "public").as_uri(), photos=[f"{number}.jpg"]
        )
        assert client.wait(upload.destination, upload.batch, timeout_s=60).protected == 1
        seen.append(BatchMonitor(world.ledger, world.batch_id).poll(running=True).running.photos)
        time.sleep(1.1)
    assert given_way() >= times
    assert seen == sorted(seen), "what is done stays done, also while nobody is at the shard"
    assert seen[-1] > 2.5 * times
    until(lambda: world.summary().done, 120, "the bulk shard is done", world.log)
    world.check()


@pytest.mark.rotating("fairness on a real queue")
@pytest.mark.timeout(240)
def test_bulk_work_gets_its_share_however_many_uploads_wait(world: World) -> None:
    """One worker, twenty seconds of uploads that all wait at once: a quarter of it goes to the bulk shard."""
    client = Client(world.settings)
    world.start_worker(CHEAP_SECONDS="0.5")
    world.submit()
    until(world.is_mid_shard, 30, "the worker is at the bulk shard", world.log)
    for number in range(40):
        (world.folder / "up" / f"{number}.jpg").write_bytes(f"face {number} ".encode() * 100)
    watch = BatchMonitor(world.ledger, world.batch_id)
    uploads = [
        client.submit(
            (world.folder / "up").as_uri(), (world.folder / "public").as_uri(),
            photos=[f"{number}.jpg"], tenant=f"user {number % 2}",
        )
        for number in range(40)
    ]  # fmt: skip
    started, before = time.monotonic(), watch.poll(running=True).running.photos
    for upload in uploads:
        assert client.wait(upload.destination, upload.batch, timeout_s=120).protected == 1
    took = time.monotonic() - started
    done = watch.poll(running=True).running.photos - before
    share = done * 0.5 / took
    print(f"\n{done} bulk photos in {took:.1f} s beside 40 uploads: {share:.0%}")
    assert 0.12 < share < 0.45, "in whole turns of five seconds, and less the seconds that beginning again takes"
    world.wait()
    world.check()
