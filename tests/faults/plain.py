"""For comparison: the same photos as a plain Celery job, one message a photo, with Celery's default settings.

python -m tests.faults.plain REDIS_PORT FOLDER      a worker; `lost` sends, strikes and counts
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery import Celery

from tests.faults import cheap_output

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER", "memory://"))


@app.task(name="plain.protect")
def protect(source: str, destination: str) -> None:
    """Read, protect, write: what a first version would do."""
    data = Path(source).read_bytes()
    time.sleep(0.15)
    if data.startswith(b"corrupt"):
        raise ValueError("corrupt")
    Path(destination).write_bytes(cheap_output(data))


def lost(folder: Path, broker: str, photos: dict[str, bytes], strike: Callable[[subprocess.Popen[bytes]], None]) -> int:
    """Send all, strike in the middle, start a worker again where it died, and count what never came.

    Returns the number of photos that should have an output and have none, or a wrong one.
    """
    environment = {**os.environ, "PLAIN_BROKER": broker}
    command = [sys.executable, "-m", "celery", "-A", "tests.faults.plain", "worker", "-c", "1", "--loglevel", "ERROR"]
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    app.conf.broker_url = broker
    names = {}
    for number, data in enumerate(photos.values()):
        source, destination = folder / "in" / f"{number}.jpg", folder / "out" / f"{number}.jpg"
        source.write_bytes(data)
        names[destination] = data
        protect.delay(str(source), str(destination))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, start_new_session=True)

    workers = [start()]
    try:
        deadline = time.monotonic() + 60
        while not any((folder / "out").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        strike(workers[-1])
        if workers[-1].poll() is not None:
            workers.append(start())
        count, still = -1, 0.0
        while still < 12 and time.monotonic() < deadline + 60:  # nothing new for so long: nothing comes any more
            now = len(list((folder / "out").iterdir()))
            still = still + 0.5 if now == count else 0
            count = now
            time.sleep(0.5)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    wanted = {path: data for path, data in names.items() if not data.startswith(b"corrupt")}
    return sum(not path.exists() or path.read_bytes() != cheap_output(data) for path, data in wanted.items())
