"""Platforms for tests of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.producer.server.platform import Platform, platform


@pytest.fixture
def place(tmp_path: Path, redis_server: RedisServer) -> Iterator[Platform]:
    """A platform without a server or a worker."""
    with platform(tmp_path, redis_server) as made:
        yield made


@pytest.fixture
def working(place: Platform) -> Platform:
    """The same with a worker that protects cheaply."""
    place.world.start_worker()
    return place
