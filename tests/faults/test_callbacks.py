"""Callbacks from real workers on a real queue: whatever dies, the receiver hears of the batch's end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer
from tests.faults import DEADLY_REPORT, FASTER
from tests.faults.strikes import flush_redis
from tests.faults.world import World, closing_world, photos
from tests.receivers import SECRETS, Receiver, receiving, status
from tests.waiting import until
from workers.callbacks.retry_policy import REFUSED_TRIES
from workers.ledger.callback_state import read_callback

pytestmark = pytest.mark.timeout(180)

CALLS = {
    "APF_CALLBACK_SECRETS": " ".join(SECRETS),
    "APF_CALLBACK_ALLOWED_HOSTS": "127.0.0.0/8",
    "APF_CALLBACK_ALLOW_HTTP": "true",
    "APF_CALLBACK_TIMEOUT_S": "2",
    # Half a second until the second try.
    FASTER: "10",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer, receiver: Receiver) -> Iterator[World]:
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    made = World(tmp_path, redis_server, source, out, photos(10), dict(CALLS), callback=receiver.url)
    with closing_world(made) as world:
        yield world


def is_settled(world: World) -> bool:
    return read_callback(world.ledger, world.ledger.read_batch(world.batch_id)).settled


def kill_all(world: World) -> None:
    """The machine is gone, parent and child."""
    os.killpg(world.workers[-1].pid, signal.SIGKILL)
    world.workers[-1].wait()


def heard(world: World, receiver: Receiver, within_s: float = 60) -> Any:
    """Reconciling all along, until it is delivered; the event, of which there was no other."""

    def is_delivered() -> bool:
        world.reconcile()
        return is_settled(world)

    until(is_delivered, within_s, "the callback is delivered", world.log, every_s=0.5)
    assert len({got.id for got in receiver.got}) == 1
    assert len({got.body for got in receiver.got}) == 1
    until(lambda: not world.is_registered(), 30, "nobody looks after it any more", world.log)
    world.check()
    return receiver.got[-1].verified()


def test_a_callback_comes_with_the_end_and_once(world: World, receiver: Receiver) -> None:
    """No periodic pass is needed, and two workers that end side by side post one callback."""
    world.start_worker()
    world.start_worker()
    world.submit()
    until(lambda: receiver.got, 60, "the callback", world.log)
    assert world.summary().done
    until(lambda: not world.is_registered(), 30, "nobody looks after it any more", world.log)
    time.sleep(1)
    (got,) = receiver.got
    data = got.verified(SECRETS[1])["data"]
    assert got.verified(SECRETS[0])["data"] == data
    assert (data["batch"], data["photos"], data["failed"]) == (world.batch_id, 10, 1)
    assert SECRETS[0] not in world.log.read_text()
    assert "hunter2" not in world.log.read_text()


def test_a_receiver_that_fails_is_tried_again_by_the_queue(world: World, receiver: Receiver) -> None:
    """After the first delay, with nobody's help."""
    receiver.answers = [status(500), status(200)]
    world.start_worker()
    world.submit()
    until(lambda: len(receiver.got) == 2, 60, "the second try", world.log)
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    until(lambda: is_settled(world), 30, "it is noted", world.log)


def test_a_worker_that_dies_after_its_last_report_is_stood_in_for(
    world: World, receiver: Receiver, tmp_path: Path
) -> None:
    """Between the report that ends the batch and asking for the callback."""
    deadly = tmp_path / "deadly"
    world.photos = {key: data for key, data in world.photos.items() if key.endswith(("000.jpg", "001.jpg"))}
    for info in world.source.list():
        if info.key not in world.photos:
            world.source.delete(info.key)
    deadly.touch()
    world.start_worker(**{DEADLY_REPORT: str(deadly)})
    world.submit()
    until(lambda: not deadly.exists(), 60, "the worker died after its report", world.log)
    assert receiver.got == []
    assert heard(world, receiver)["data"]["photos"] == 2


def test_a_worker_that_dies_while_it_posts_is_stood_in_for(world: World, receiver: Receiver) -> None:
    """The receiver may have it twice, under one id."""

    def strike() -> None:
        if len(receiver.got) == 1:
            kill_all(world)

    receiver.before = strike
    world.start_worker()
    world.submit()
    until(lambda: receiver.got, 60, "the first try", world.log)
    until(lambda: world.workers[-1].poll() is not None, 30, "the worker is dead", world.log)
    world.start_worker()
    heard(world, receiver)
    assert len(receiver.got) == 2


def test_a_flushed_queue_loses_no_callback(world: World, receiver: Receiver) -> None:
    """While the next try waited in Redis and in a worker: both are gone."""
    receiver.answers = [status(503), status(200)]
    world.start_worker()
    world.submit()
    until(lambda: receiver.got, 60, "the first try", world.log)
    kill_all(world)
    flush_redis(world)
    world.start_worker()
    heard(world, receiver)
    assert len(receiver.got) == 2


def test_without_a_secret_the_batch_is_done_and_the_callback_is_not(
    world: World, receiver: Receiver, tmp_path: Path
) -> None:
    """It says why, and goes out once a worker has one."""
    world.start_worker(APF_CALLBACK_SECRETS="")
    world.submit()
    world.wait(60)
    until(lambda: (c := world.summary().callback) and c.last_error, 30, "a try", world.log)
    callback = world.summary().callback
    assert callback is not None
    assert "APF_CALLBACK_SECRETS" in callback.last_error
    until(lambda: "APF_CALLBACK_SECRETS" in world.log.read_text(), 30, "it is logged", world.log)
    assert receiver.got == []
    kill_all(world)
    world.start_worker()
    heard(world, receiver)


@pytest.mark.rotating
@pytest.mark.parametrize(("last", "state"), [(status(200), "delivered"), (status(404), "gave_up")])
def test_a_receiver_that_refuses_is_tried_eight_times_by_the_queue_alone(
    world: World, receiver: Receiver, last: Any, state: str
) -> None:
    """Its answer to the eighth try counts, and no other try follows."""
    receiver.answers = [*[status(404)] * (REFUSED_TRIES - 1), last]
    world.start_worker(**{FASTER: "500"})
    world.submit()
    until(lambda: is_settled(world), 90, "the callback is settled", world.log)
    callback = read_callback(world.ledger, world.ledger.read_batch(world.batch_id))
    assert (callback.state, callback.tries, len(receiver.got)) == (state, REFUSED_TRIES, REFUSED_TRIES)
    assert len({got.id for got in receiver.got}) == 1
