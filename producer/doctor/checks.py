"""Checks of `apf doctor`: settings, queue, weights. Each finding names its cure."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import redis

from apf.errors import ApfError, WeightsError
from apf.extras import PURPOSES, extra_for, has_gpu_driver, lacking
from apf.guides.catalogue import DETECTORS, is_here
from apf.recipe import DEFAULT_RECIPE, load_recipe, other_guides
from apf.weight_files import check_weights, weights_digest
from producer.doctor.finding import Finding
from producer.doctor.store_checks import LARGEST_SKEW, examine_ledger, examine_store
from workers.batches.create import check_ledger_place
from workers.broker.client import BrokerError, queue_fault
from workers.broker.presence import find_unserved, listeners
from workers.broker.queues import all_queues
from workers.config.redis_url import ASKABLE, CERT_REQS, open_redis, redis_tls
from workers.config.settings import Settings, check_worker
from workers.decoding.decoder_process import look as look_at_cage
from workers.errors import SettingsError
from workers.store import is_bucket

#: The oldest major version that this was tried with.
OLDEST_REDIS = 6
SLOW_ANSWER_S = 0.05
#: Said of decoders that the cage does not hold, or not wholly.
UNCAGED = ": a decoder that is taken over, by a hole in an image library, reaches what a worker does (SECURITY.md)"


def examine(settings: Settings, urls: Iterable[str]) -> list[Finding]:
    """All checks, in the order in which a photo meets them. The settings have validated already."""
    urls = list(urls)
    findings = [_settings(settings), *_broker(settings), *_ledger(settings, urls)]
    for url in urls:
        findings += examine_store(url, settings)
    findings += [_weights(), *_guides(), *_detector(settings), *_worker_parts(settings), _extras()]
    return findings


def _settings(settings: Settings) -> Finding:
    try:
        if settings.broker_url:
            check_worker(settings)
    except SettingsError as error:
        return Finding("settings", False, f"fit for a producer, not for a worker: {error}")
    return Finding("settings", True, "all APF_ variables validate, and fit each other")


def _ledger(settings: Settings, urls: list[str]) -> list[Finding]:
    """Where ledgers lie, and whether they are public there."""
    if settings.ledger_root:
        return [examine_ledger(settings.ledger_root, settings)]
    buckets = [url for url in dict.fromkeys([*urls, *settings.allowed]) if is_bucket(url)]
    if settings.ledger_url:
        return [examine_ledger(url, settings) for url in urls if url in buckets]
    try:
        for url in buckets:
            check_ledger_place(url, settings)
    except SettingsError as error:
        return [Finding("ledger", False, str(error))]
    return []


def _broker(settings: Settings) -> list[Finding]:
    if not settings.broker_url:
        return [Finding("queue", True, "APF_BROKER_URL is not set: `apf protect` runs a worker of its own")]
    if not settings.broker_url.startswith(ASKABLE):
        return [Finding("queue", True, "not checked: only redis:// and rediss:// are")]
    prefix = settings.broker_key_prefix
    try:
        with closing(_client(settings.broker_url, settings)) as client:
            return list(_redis(client, settings))
    except redis.RedisError as error:
        return [Finding("queue", False, f"Redis {queue_fault(error, prefix)}")]


def check_eviction(settings: Settings) -> None:
    """Whether Redis keeps a queue when its memory is full; silent where it is down, or may not be asked.

    Raises:
        SettingsError: it would drop tasks.
    """
    if not settings.broker_url or not settings.broker_url.startswith(ASKABLE):
        return
    try:
        with closing(_client(settings.broker_url, settings)) as client:
            memory = client.info("memory")
    except redis.RedisError:
        return  # a worker waits for its queue
    found = _eviction(memory)
    if memory.get("maxmemory") and not found.ok:
        raise SettingsError(f"the queue at APF_BROKER_URL would lose tasks: {found.detail}")


def _client(url: str, settings: Settings) -> redis.Redis:
    return open_redis(url, settings, socket_timeout=5, socket_connect_timeout=5)


def _redis(client: redis.Redis, settings: Settings) -> Iterator[Finding]:
    client.ping()  # a login that is refused, and what may not even do this, end the checks
    asked: dict[str, Callable[[redis.Redis], Finding]] = {
        "queue": _version,
        "queue eviction": lambda client: _eviction(client.info("memory")),
        "queue persistence": _persistence,
        "queue latency": _latency,
        "queue clock": _clock,
        "queue workers": lambda client: _workers(client, settings),
    }
    for check, ask in asked.items():
        try:
            yield ask(client)
        except redis.exceptions.NoPermissionError as error:
            yield Finding(check, True, f"answers, but this user may not ask for it ({error}): not checked")
    if not (tls := redis_tls(settings)):
        yield Finding("queue encryption", True, "none: fine on a private network, else use rediss://")
    elif tls[CERT_REQS] == "none":
        yield Finding(
            "queue encryption", True, "with any server that answers: ssl_cert_reqs=none verifies no certificate"
        )


def _version(client: redis.Redis) -> Finding:
    version = str(client.info("server")["redis_version"])
    old = int(version.split(".", maxsplit=1)[0]) < OLDEST_REDIS
    return Finding("queue", not old, f"Redis {version} answers" + (f": use {OLDEST_REDIS} or newer" if old else ""))


def _eviction(memory: Mapping[str, Any]) -> Finding:
    policy = memory.get("maxmemory_policy")
    kept = "" if policy == "noeviction" else ": set noeviction, or Redis may drop a queue"
    return Finding("queue eviction", policy == "noeviction", f"maxmemory-policy is {policy}{kept}")


def _persistence(client: redis.Redis) -> Finding:
    aof = client.info("persistence").get("aof_enabled")
    off = "appendonly is off: a restart of Redis empties the queue (set appendonly yes)"
    return Finding("queue persistence", bool(aof), "appendonly is on" if aof else off)


def _latency(client: redis.Redis) -> Finding:
    seconds = min(_answer_time(client) for _ in range(5))
    quick = seconds < SLOW_ANSWER_S
    far = "" if quick else ": too far away for a queue, move one to the other"
    return Finding("queue latency", quick, f"answers in {seconds * 1000:.1f} ms{far}")


def _clock(client: redis.Redis) -> Finding:
    whole, micro = client.time()
    skew = abs(datetime.now(UTC) - datetime.fromtimestamp(whole + micro / 1e6, UTC))
    late = "" if skew < LARGEST_SKEW else ": set both by NTP"
    return Finding("queue clock", not late, f"{skew.total_seconds():.0f} s from this machine's{late}")


def _workers(client: redis.Redis, settings: Settings) -> Finding:
    """Return whether each queue has a worker that listens."""
    try:
        missing = find_unserved(client, all_queues(), settings)
    except BrokerError as error:
        return Finding("queue workers", True, f"not known, as workers cannot be asked: {error}")
    if missing:
        return Finding("queue workers", False, "; ".join(map(str, missing)) + ": start one with `apf worker`")
    count = sum(one.listens for one in listeners(client, settings.broker_key_prefix))
    return Finding("queue workers", True, f"{count or 'those of an older version'} listen, and every queue has one")


def _answer_time(client: redis.Redis) -> float:
    started = time.perf_counter()
    client.ping()
    return time.perf_counter() - started


def _weights() -> Finding:
    try:
        check_weights()
    except WeightsError as error:
        return Finding("weights", False, str(error))
    return Finding("weights", True, f"whole; digest {weights_digest()[:16]}")


def _guides() -> list[Finding]:
    """Return whether the guides of recipes that name none are here; none where `APF_STEPS` is 0."""
    try:
        recipe = load_recipe(DEFAULT_RECIPE)
    except ApfError as error:
        return [Finding("guides", False, str(error))]
    if not recipe.steps:
        return []
    reason = other_guides(recipe)
    names = ", ".join([*recipe.guides, *recipe.jury])
    return [Finding("guides", not reason, reason or f"{names}: here, as recipes without their own want them")]


def _detector(settings: Settings) -> list[Finding]:
    """Return whether the detector that `APF_DETECTOR` names is here, if it is one that is fetched."""
    known = DETECTORS.get(settings.detector or "")
    if not known:
        return []
    later = f"fetched on first use, from {known.url}; or by `apf guides pull {known.name} --from FILE`"
    return [Finding("detector", True, f"{known.name}: {'here' if is_here(known) else later}")]


def _worker_parts(settings: Settings) -> list[Finding]:
    extra = extra_for(settings.device)
    if reason := lacking(extra):
        alone = Finding("worker", True, f"this machine is a producer alone: {reason} to have a worker here")
        here = f"the recipe `standard` needs the extra `{extra}` on the device {settings.device}: {reason}"
        return [alone if settings.broker_url else Finding("worker", False, here)]
    return [
        _cage(settings),
        Finding("worker", True, f"the libraries of the extra {extra} are installed"),
        _gpu(settings),
    ]


def _extras() -> Finding:
    """Return which extras are not here, for what each would be, and how it is installed."""
    missing = [f"{purpose}: {reason}" for extra, purpose in PURPOSES.items() if (reason := lacking(extra))]
    return Finding("extras", True, "; ".join(missing) or f"{', '.join(PURPOSES)} are installed")


def _cage(settings: Settings) -> Finding:
    """Return what holds a decoder here: one is made, and asked."""
    try:
        cage = look_at_cage(settings.decoder_cage)
    except SettingsError as error:
        return Finding("decoder cage", False, str(error))
    # Without a queue the user protects photos of their own.
    well = cage.whole or not settings.broker_url
    return Finding("decoder cage", well, str(cage) + ("" if cage.whole else UNCAGED))


def _gpu(settings: Settings) -> Finding:
    if reason := lacking("gpu"):
        return Finding("GPU", True, f"not looked for, the CPU does the work: {reason}")
    if not has_gpu_driver() and not settings.device.startswith("cuda"):
        return Finding("GPU", True, NO_GPU)
    # In a process of its own: this one never loads torch.
    command = [sys.executable, "-c", _ASK_TORCH]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  nothing of a user's
    if ended.returncode:
        return Finding("GPU", False, f"torch cannot be loaded: {ended.stderr.strip().splitlines()[-1:]}")
    if found := ended.stdout.strip():
        return Finding("GPU", True, found)
    if settings.device.startswith("cuda"):
        return Finding("GPU", False, f"APF_DEVICE is {settings.device}, but torch finds none: check the driver")
    return Finding("GPU", True, NO_GPU)


NO_GPU = "none: the CPU does the work"
_ASK_TORCH = """
import torch
if torch.cuda.is_available():
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    print(f"{torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GiB free")
"""
