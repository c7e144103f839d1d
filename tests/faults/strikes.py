"""Faults: what is done to worker processes and to Redis. Those of the store are the fault proxy's modes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import redis

from tests.conftest import RedisServer
from tests.faults.proxy import Mode

SOAK = os.environ.get("APF_SOAK") == "1"
#: Seconds that a service is away.
REDIS_STOP_S, STORE_DOWN_S = (30, 20) if SOAK else (5, 4)


class Struck(Protocol):
    """Whoever lives through it."""

    redis: RedisServer
    workers: list[subprocess.Popen[bytes]]

    def start_worker(self) -> Any: ...

    def child(self) -> int: ...


Fault = Callable[[Struck], None]


def kill_child(world: Struck) -> None:
    os.kill(world.child(), signal.SIGKILL)


def kill_parent(world: Struck) -> None:
    """Its child, an orphan, may even finish its shard; a supervisor starts another worker."""
    world.workers[-1].kill()
    world.workers[-1].wait()
    world.start_worker()


def ask_to_stop(number: signal.Signals) -> Fault:
    def stop(world: Struck) -> None:
        world.workers[-1].send_signal(number)
        world.workers[-1].wait(60)
        world.start_worker()

    return stop


def restart_redis(world: Struck) -> None:
    world.redis.kill()
    world.redis.start()


def flush_redis(world: Struck) -> None:
    with redis.Redis(port=world.redis.port) as client:
        client.flushall()


def stop_redis(world: Struck) -> None:
    assert world.redis.process is not None
    world.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(REDIS_STOP_S)
    world.redis.process.send_signal(signal.SIGCONT)


PROCESS_FAULTS: dict[str, Fault] = {
    "worker child SIGKILL": kill_child,
    "worker parent SIGKILL": kill_parent,
    "worker SIGTERM": ask_to_stop(signal.SIGTERM),
    "worker SIGQUIT": ask_to_stop(signal.SIGQUIT),
    "Redis restart": restart_redis,
    "Redis FLUSHALL": flush_redis,
    "Redis SIGSTOP": stop_redis,
}

STORE_MODES: tuple[Mode, ...] = ("down", "500", "503", "slow", "cut_get", "cut_put")
