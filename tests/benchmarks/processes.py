"""Real processes to measure: a Redis, workers, and what they and all below them have computed and hold."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import skimage.data
from PIL import Image

from producer.cli.services import EACH_FOR_ITSELF
from tests.benchmarks.record import ROOT
from tests.conftest import RedisServer, _free_ports

#: The `apf` command; and what `apf worker` becomes, with the filter of `tests.benchmarks.simulated`.
APF = (sys.executable, "-m", "producer")
SIMULATED = (
    *(sys.executable, "-m", "celery", "-A", "tests.benchmarks.celeryapp", "worker", "--loglevel", "INFO"),
    *EACH_FOR_ITSELF,
)


def unwind_when_ended() -> None:
    """From now on SIGTERM ends this process by an exception, so that what it has started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """A Redis of its own, with its append-only file in `folder`."""
    beside_python = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    binary = shutil.which("redis-server", path=beside_python)
    if binary is None:
        raise SystemExit("redis-server is not on PATH: install it")
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(binary, folder, _free_ports([0]))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running(
    command: Sequence[str], log: Path, variables: Mapping[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process from its start until the block ends, in a group of its own; what it says is added to `log`."""
    environment = {**os.environ, "REMAP_SIGTERM": "SIGQUIT", "PYTHONPATH": str(ROOT), **variables}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_that(happened: Callable[[], object], within_s: float, what: str, *, every_s: float = 0.02) -> None:
    """Until something is so; raises TimeoutError, which names it."""
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it that live; empty where it is gone."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def processor_s(pid: int) -> float:
    """Seconds that a process, all that live below it, and those that it has waited for have computed."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def a_photo(seed: int, side: int = 512) -> bytes:
    """A JPEG of a face, another one for each seed; made without the filter's libraries, which grow a process."""
    picture = Image.fromarray(skimage.data.astronaut()).resize((side, side)).rotate(seed % 97 / 50)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, comment=str(seed).encode())
    return buffer.getvalue()
