"""Connections to a real Redis: opened once for each process, and made anew where they are lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis
from celery import Celery

from tests.conftest import RedisServer
from tests.producer.server.conftest import place  # noqa: F401  a fixture
from tests.producer.server.platform import Platform
from workers.broker.app import make_app
from workers.broker.client import choose_queue, held, queue_snapshot, should_yield
from workers.config.settings import Settings


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    with closing(make_app(Settings(broker_url=redis_server.url, allowed_urls="*"))) as made:
        yield made


def opened(server: RedisServer) -> int:
    """Connections that Redis has taken so far."""
    with closing(redis.Redis(port=server.port)) as client:
        return int(client.info("stats")["total_connections_received"])


def test_the_queue_is_asked_on_one_connection(redis_server: RedisServer, app: Celery) -> None:
    """Thirty questions of all kinds open none that the first did not."""
    choose_queue(app, "bulk", "ann")
    before = opened(redis_server)
    for number in range(10):
        choose_queue(app, "bulk", f"tenant {number}")
        queue_snapshot(app)
        should_yield(app, ["interactive.01"])
        held(app, ["bulk.01.1"])
    assert opened(redis_server) - before == 1, "the count's own"


def test_many_threads_ask_at_once(redis_server: RedisServer, app: Celery) -> None:
    """Each has its answer, from the very first moment on, and no more connections are open than threads."""
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda number: choose_queue(app, "interactive", f"t{number % 8}"), range(400)))
    assert len(found) == 400 and all(one.startswith("interactive.") for one in found)
    with closing(redis.Redis(port=redis_server.port)) as client:
        assert int(client.info("clients")["connected_clients"]) <= 2 * 40 + 10


def test_a_redis_that_was_started_anew_is_asked_again(redis_server: RedisServer, app: Celery) -> None:
    """Connections that broke in the meantime are no error."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: choose_queue(app, "bulk", str(number)), range(40)))
        redis_server.kill()
        redis_server.start()
        assert len(list(pool.map(lambda number: choose_queue(app, "bulk", str(number)), range(40)))) == 40


def test_submissions_and_estimates_open_no_connections(place: Platform) -> None:  # noqa: F811
    """A server's second submission and estimate do on the connections of the first."""
    body = {"source": place.source, "destination": place.destination, "recipe": "light"}
    named = {**body, "photos": sorted(place.world.photos)[:1]}
    with place.server() as (api, _):

        def ask() -> None:
            assert api("POST", "/v1/batches", named).status == 202
            assert api("POST", "/v1/estimate", body).status == 200

        ask()
        before = opened(place.world.redis)
        for _ in range(5):
            ask()
        assert opened(place.world.redis) - before == 1, "the count's own"
