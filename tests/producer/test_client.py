"""A platform's own code at the queue, with a real Redis and a worker whose filter is cheap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from apf.errors import RecipeError
from producer import AsyncClient, Client, NotDone
from producer.client import MAX_NAMED
from producer.events.routes import Route
from producer.events.submit import submitter
from tests.conftest import RedisServer
from tests.faults.world import World, closing_world, photos
from workers.batches.rescue import resume
from workers.broker.client import Broker, BrokerError
from workers.broker.queues import all_queues
from workers.config.settings import Settings
from workers.core.records import ShardJob, ShardReport
from workers.errors import BadRequest, LedgerError, NotAllowed, NotFound, SettingsError, StoreGone
from workers.ledger.open_batches import open_batches, roots


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    place = World(tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(), photos(10))
    with closing_world(place):
        yield place


@pytest.fixture
def client(world: World) -> Client:
    return Client(world.settings)


def queued(world: World) -> dict[str, int]:
    with redis.Redis(port=world.redis.port) as server:
        return {name: length for name in all_queues() if (length := server.llen(name))}


def nothing_submitted(world: World) -> bool:
    """No batch in the ledger, none registered, no message, no output."""
    registered = list(open_batches(roots(world.settings), world.settings))
    return not (world.ledger.batches() or registered or queued(world) or list(world.destination.list()))


def test_named_photos_are_protected_and_no_others(world: World, client: Client) -> None:
    names = sorted(world.photos)[:3]
    upload = client.submit(world.source_url, world.destination_url, photos=[*names, names[0]], tenant="ann")
    assert upload.photos == 3, "a photo that is named twice is one"
    (queue,) = queued(world)
    assert queue.startswith("interactive.")
    with pytest.raises(NotDone, match="3 photos are pending"):
        client.wait(upload.destination, upload.batch, timeout_s=0.3)
    world.start_worker()
    summary = client.wait(upload.destination, upload.batch, timeout_s=60)
    assert (summary.photos, summary.failed + summary.protected + summary.no_face) == (3, 3)
    assert summary.batch.tenant == "ann"
    assert {info.key for info in world.destination.list()} <= set(names)


def test_a_whole_source_is_planned_by_a_worker(world: World, client: Client) -> None:
    """The call returns at once, whatever there is to list; its message overtakes the shards that wait."""
    upload = client.submit(world.source_url, world.destination_url)
    assert upload.photos is None
    assert queued(world) == {"interactive": 1}
    world.start_worker()
    world.batch_id = upload.batch
    assert client.wait(upload.destination, upload.batch, timeout_s=60).done
    world.check()


def test_asyncio_code_waits_without_a_thread(world: World) -> None:
    client = AsyncClient(world.settings)

    async def protect() -> int:
        upload = await client.submit(world.source_url, world.destination_url, photos=sorted(world.photos)[:2])
        with pytest.raises(NotDone):
            await client.wait(upload.destination, upload.batch, timeout_s=0.2)
        waiting = asyncio.create_task(client.wait(upload.destination, upload.batch))
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.05)
            ticks += 1
            if ticks == 5:
                await client.cancel(upload.destination, upload.batch)
        assert (await waiting).cancelled
        return (await client.status(upload.destination, upload.batch)).pending

    assert asyncio.run(protect()) == 2


def test_a_batch_id_is_submitted_once(world: World, client: Client) -> None:
    """Whoever does not know whether its call came through makes it again."""
    name = next(iter(world.photos))
    first = client.submit(world.source_url, world.destination_url, photos=[name], batch_id="order-7")
    assert client.submit(world.source_url, world.destination_url, photos=[name], batch_id="order-7") == first
    assert sum(queued(world).values()) == 1
    whole = client.submit(world.source_url, world.destination_url, batch_id="order-8")
    assert client.submit(world.source_url, world.destination_url, batch_id="order-8") == whole
    assert queued(world)["interactive"] == 1


def test_a_batch_id_is_of_one_batch(world: World, client: Client) -> None:
    """Other photos under it would be taken for done."""
    first, second, *_ = sorted(world.photos)
    client.submit(world.source_url, world.destination_url, photos=[first], batch_id="order-7")
    for keys in ([second], None):
        with pytest.raises(BadRequest, match="'order-7' is another one already"):
            client.submit(world.source_url, world.destination_url, photos=keys, batch_id="order-7")


def test_a_private_call_makes_a_private_batch(world: World, client: Client) -> None:
    """Its id is no other batch's, though source and keys be the same; asyncio's client says as much."""
    world.source.put("a.safetensors", b"no gradients, but nobody looks here")
    asked = {"photos": ["a.safetensors"], "private": True, "batch_id": "order-7"}
    first = client.submit(world.source_url, world.destination_url, **asked)  # type: ignore[arg-type]
    assert client.status(first.destination, first.batch).batch.private
    with pytest.raises(BadRequest, match="'order-7' is another one already"):
        client.submit(world.source_url, world.destination_url, photos=["a.safetensors"], batch_id="order-7")
    again = AsyncClient(world.settings).submit(world.source_url, world.destination_url, **asked)  # type: ignore[arg-type]
    assert asyncio.run(again) == first


def test_a_call_that_fails_takes_back_no_other_calls_batch(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls with one id at once, as a gateway's repetition: the first was told that it is in."""
    name = next(iter(world.photos))

    def another_was_quicker(job: object) -> None:
        record = world.ledger.read_batch("order-7")
        world.ledger.write_batch(record.model_copy(update={"planner": "the other call"}))
        raise BrokerError("the queue is full")

    monkeypatch.setattr(client._broker, "send", another_was_quicker)
    with pytest.raises(BrokerError):
        client.submit(world.source_url, world.destination_url, photos=[name], batch_id="order-7")
    assert world.ledger.batches() == ["order-7"]
    assert len(list(open_batches(roots(world.settings), world.settings))) == 1


def test_what_is_left_of_a_batch_that_was_taken_back_counts_for_nothing(world: World, client: Client) -> None:
    """A worker may have reported into it before; under the same id the photo is looked at anew."""
    name = next(key for key, data in world.photos.items() if data.startswith(b"face"))
    stale = ShardReport(
        shard=0, photos=(), stage_seconds={}, wall_seconds=1, worker="w", finished_at="", peak_memory_bytes=1
    )
    world.ledger.write_report("order-7", stale)
    upload = client.submit(world.source_url, world.destination_url, photos=[name], batch_id="order-7")
    assert client.status(upload.destination, upload.batch).pending == 1


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"photos": ["album 0/000.jpg", "no.jpg"]}, NotFound, "1 of 2 photos are not in .*'no.jpg'"),
        ({"photos": []}, BadRequest, "none of the photos"),
        ({"photos": ["no.jpg"], "missing": "ignore"}, BadRequest, "none of the photos"),
        ({"photos": [f"{n}.jpg" for n in range(MAX_NAMED + 1)]}, BadRequest, f"{MAX_NAMED + 1} photos are named"),
        ({"lane": "express"}, BadRequest, "lane"),
        ({"tenant": "x" * 201}, BadRequest, "tenant"),
        ({"batch_id": "../x"}, LedgerError, "no batch's id"),
        ({"source": "file:///etc"}, NotAllowed, "APF_ALLOWED_URLS"),
        ({"recipe": "none"}, RecipeError, "recipe"),
        ({"photos": "album 0/000.jpg"}, BadRequest, "give a list of keys"),
        ({"photos": ["album 0/000.jpg"], "private": True}, BadRequest, "is a photo by its suffix"),
    ],
)
def test_what_makes_no_sense_is_refused_whole(
    world: World, client: Client, asked: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        client.submit(**{"source": world.source_url, "destination": world.destination_url, **asked})  # type: ignore[arg-type]
    assert nothing_submitted(world)


def test_a_source_that_is_not_there_is_told_at_once(world: World, client: Client) -> None:
    """And not by the log of the worker that was to list it."""
    with pytest.raises(StoreGone):
        client.submit(f"{world.source_url}/gone", world.destination_url)
    assert nothing_submitted(world)


def test_missing_photos_may_be_left_out(world: World, client: Client) -> None:
    name = next(iter(world.photos))
    upload = client.submit(world.source_url, world.destination_url, photos=["no.jpg", name], missing="ignore")
    assert (upload.photos, upload.missing) == (1, ("no.jpg",))


def test_what_events_tell_of_and_is_not_there_is_named(world: World, client: Client) -> None:
    """The listener's answer is about each key, also where none of them is there."""
    route = Route(world.source_url, world.destination_url)
    submit = submitter(world.settings, recipe="light", no_face="copy")
    assert submit(route, ["no.jpg", next(iter(world.photos))], tenant="") == {"no.jpg"}
    assert submit(route, ["no.jpg", "nor.jpg"], tenant="") == {"no.jpg", "nor.jpg"}


@pytest.mark.parametrize("named", [True, False])
def test_with_redis_down_nothing_is_half_submitted(world: World, client: Client, named: bool) -> None:
    """Before the first request, and between the ledger's record and the message."""
    keys = sorted(world.photos)[:2] if named else None
    world.redis.kill()
    started = time.monotonic()
    with pytest.raises(BrokerError, match="start Redis"):
        client.submit(world.source_url, world.destination_url, photos=keys)
    assert time.monotonic() - started < 15
    world.redis.start()
    assert nothing_submitted(world)


def test_what_redis_refuses_midway_is_taken_back(world: World, client: Client) -> None:
    """Full after the first of three messages: the ones that were sent find no batch."""
    sent = []
    send = client._broker.send

    def refuse_the_second(job: ShardJob) -> None:
        if sent:
            raise BrokerError("the queue is full")
        sent.append(job)
        send(job)

    client._broker.send = refuse_the_second  # type: ignore[method-assign]
    with pytest.raises(BrokerError):
        client.submit(world.source_url, world.destination_url, photos=sorted(world.photos))
    assert (len(sent), world.ledger.batches()) == (1, [])
    assert list(open_batches(roots(world.settings), world.settings)) == []
    client._broker.send = send  # type: ignore[method-assign]
    world.start_worker()
    upload = client.submit(world.source_url, world.destination_url, photos=sorted(world.photos))
    world.batch_id = upload.batch
    client.wait(upload.destination, upload.batch, timeout_s=60)
    world.check()


def test_a_torn_plan_of_named_photos_is_made_anew_from_the_batch(world: World, client: Client) -> None:
    """The source holds others, too, which nobody asked for."""
    names = sorted(world.photos)[1:8]
    upload = client.submit(world.source_url, world.destination_url, photos=names)
    for shard in (0, 1):
        key = world.ledger.key(upload.batch, "plan", f"{shard:05}.jsonl")
        world.ledger.store.put(key, world.ledger.store.get(key).data[:-9])
    assert resume(world.ledger, upload.batch, Broker(world.app), world.settings) == 2
    planned = [ref.key for shard in (0, 1) for ref in world.ledger.read_plan(upload.batch, shard)]
    assert planned == names


def test_a_client_needs_a_queue() -> None:
    with pytest.raises(SettingsError, match="APF_BROKER_URL"):
        Client(Settings())
