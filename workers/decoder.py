"""Decoding in processes of its own: a photo that crashes its decoder, or never ends, costs itself and nothing else.

Each process is limited in time and in memory, has neither torch nor a connection, and forgets the environment as it
starts. That is no sandbox: it runs as the worker's user, and the worker unpickles what it answers (see SECURITY.md).
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import resource
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from multiprocessing import current_process, get_context
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool

from apf.errors import CorruptPhoto
from workers import metrics
from workers.lending import BYTES_PER_PIXEL, Filled, Lent, lent

if TYPE_CHECKING:
    from apf.photo import Header, Limits, Photo

log = logging.getLogger(__name__)

#: A decoder that died could have been killed by the system for its neighbours' memory: try again, then give up.
TRIES = 3

#: Variables that a decoder keeps; all others could hold a secret.
HARMLESS = re.compile(
    r"PATH|LANG|LC_[A-Z]+|TMPDIR|[A-Z]+_NUM_THREADS|PYTHON[A-Z]*|PILLOW_[A-Z_]+|ORT_DISABLE_TELEMETRY"
)

P = ParamSpec("P")
Result = TypeVar("Result")


class Decoder:
    """`apf.photo`'s reading half, at a distance. Safe to share between threads; starts with the first photo."""

    def __init__(self, *, processes: int, limit_s: float, memory_bytes: int) -> None:
        self._processes = processes
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._pool: ProcessPool | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the processes, without waiting for them; else the first photo does."""
        for _ in range(self._processes):
            self._running().schedule(_load_libraries)

    def header(self, data: bytes, limits: Limits) -> Header:
        """As `apf.photo.read_header`."""
        return self._ask(_header, data, limits)

    def decode(self, data: bytes, limits: Limits, keep_metadata: tuple[str, ...]) -> Photo:
        """As `apf.photo.decode`.

        Raises:
            CorruptPhoto: besides, that decoding took too long or killed its process each time.
            MemoryError: it needs more than a decoder may have.
        """
        with lent(BYTES_PER_PIXEL * limits.max_pixels) as memory:
            if memory is None:
                return self._ask(_decode, data, limits, keep_metadata)
            return memory.take(self._ask(_decode_into, memory, data, limits, keep_metadata))

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            if self._pool:
                self._pool.stop()  # type: ignore[no-untyped-call]
                self._pool.join()
                self._pool = None

    def _ask(self, function: Callable[P, Result], *args: P.args, **_: P.kwargs) -> Result:
        for _attempt in range(TRIES):
            future = self._running().schedule(function, args=list(args), timeout=self._limit_s)
            try:
                result: Result = future.result()
            except TookTooLong as error:
                metrics.add("apf_decoder_failures_total", reason="timeout")
                raise CorruptPhoto(
                    f"decoding took longer than {self._limit_s:g} s: save it again, or raise APF_DECODE_LIMIT_S"
                ) from error
            except ProcessExpired as error:
                metrics.add("apf_decoder_failures_total", reason="died")
                log.warning("a decoder died with status %s", error.exitcode)
                continue
            return result
        raise CorruptPhoto(f"its decoder died {TRIES} times over it: the file is damaged or malicious, save it again")

    def _running(self) -> ProcessPool:
        with self._lock:
            _may_have_children()
            if self._pool is None or not self._pool.active:
                self._pool = ProcessPool(
                    self._processes, initializer=_limit, initargs=[self._memory_bytes], context=get_context("spawn")
                )
            return self._pool


def _may_have_children() -> None:
    """A worker's child is one of billiard's, Celery's own multiprocessing: a daemon, with a key that cannot be sent.

    Daemons may have no children lest these outlive them; ours end with the process that asks (there is a test).
    """
    config = current_process()._config  # type: ignore[attr-defined]
    config["daemon"] = False
    if type(config.get("authkey")) is not AuthenticationString:
        config["authkey"] = AuthenticationString(os.urandom(32))


def _limit(memory_bytes: int) -> None:
    """In the new process: no secret variables, no more memory than this, and no core dump of somebody's photo."""
    _forget_environment()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _forget_environment() -> None:
    """Spawned processes start with all of their parent's variables, and pebble has no way to give them others."""
    kept = {name: value for name, value in os.environ.items() if HARMLESS.fullmatch(name)}
    os.environ.clear()
    with suppress(OSError, ValueError):  # without /proc nothing shows them
        # /proc/<pid>/environ shows the memory that the variables were handed over in, whatever became of them.
        start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47:49])
        ctypes.memset(start, 0, end - start)
    os.environ.update(kept)


def _load_libraries() -> None:
    import apf.photo  # noqa: F401, PLC0415


def _header(data: bytes, limits: Limits) -> Header:
    from apf.photo import read_header  # noqa: PLC0415

    return read_header(data, limits)


def _decode(data: bytes, limits: Limits, keep_metadata: tuple[str, ...]) -> Photo:
    from apf.photo import decode  # noqa: PLC0415

    return decode(data, limits, keep_metadata=keep_metadata)


def _decode_into(memory: Lent, data: bytes, limits: Limits, keep_metadata: tuple[str, ...]) -> Filled:
    return memory.fill(_decode(data, limits, keep_metadata))
