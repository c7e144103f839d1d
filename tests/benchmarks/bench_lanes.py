"""`python -m tests.benchmarks.bench_lanes`: how long an upload takes while a million keys are queued.

A real Redis, a real `apf worker` with the real filter, one recipe for uploads and bulk work. The bulk batch's first
shards are real photos of one megapixel with a face, the worker is at one of them when each upload comes, and 7,813
shards wait. Next to it: the same uploads on an idle worker.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import skimage.data
from PIL import Image

from apf.recipe import DEFAULT_RECIPE
from producer import Client
from tests.benchmarks.processes import unwind_when_ended
from tests.benchmarks.record import record, table
from tests.conftest import RedisServer, _free_ports
from workers.batches.create import BatchOptions, new_batch
from workers.batches.rescue import job_of
from workers.broker.app import make_app
from workers.broker.client import Broker, choose_queue, queue_snapshot
from workers.config.settings import load_settings
from workers.core.records import PhotoRef
from workers.ledger.open_batches import register
from workers.store import open_store

REAL, SHARD = 512, 128


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="ten thousand keys")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    asked = parser.parse_args(arguments)
    keys, uploads = (10_000 if asked.short else 1_000_000), 9
    unwind_when_ended()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sub in ("bulk", "bulk-out", "up", "up-out", "redis"):
            (folder / sub).mkdir()
        binary = shutil.which("redis-server")
        if binary is None:
            raise SystemExit("redis-server is not on PATH: install it")
        server = RedisServer(binary, folder / "redis", _free_ports([0]))
        server.start()
        os.environ |= {"APF_BROKER_URL": server.url, "APF_ALLOWED_URLS": folder.as_uri()}
        worker = subprocess.Popen(
            [sys.executable, "-m", "producer", "worker", "--loglevel", "WARNING"], start_new_session=True
        )
        try:
            figures = {"recipe": asked.recipe, **measure(folder, keys, uploads, asked.recipe)}
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            server.kill()
    record("lanes", figures)


def measure(folder: Path, keys: int, uploads: int, recipe: str) -> dict[str, object]:
    photo = a_photo()
    client = Client()
    upload(client, folder, photo, "warm up", recipe)  # models load
    idle = [upload(client, folder, photo, f"idle {n}", recipe) for n in range(uploads)]
    started = time.monotonic()
    queue_many(folder, photo, keys, recipe)
    messages = sum(queue_snapshot(make_app(load_settings())).queued.values())
    queued_s = time.monotonic() - started
    print(f"{keys:,} keys planned and queued in {queued_s:.0f} s: {messages:,} messages\n")
    busy = []
    for n in range(uploads):
        time.sleep(5)  # the worker is at the bulk shard again
        busy.append(upload(client, folder, photo, f"busy {n}", recipe))
    print(f"{table([upload_row('idle', idle), upload_row(f'behind {keys:,} keys', busy)])}\n")
    return {"keys": keys, "messages": messages, "queued_s": queued_s, "idle_s": idle, "busy_s": busy}


def upload_row(worker: str, seconds: list[float]) -> dict[str, object]:
    spread = {"median, s": statistics.median(seconds), "min, s": min(seconds), "max, s": max(seconds)}
    return {"upload, worker": worker, **spread, "uploads": len(seconds)}


def upload(client: Client, folder: Path, photo: bytes, name: str, recipe: str) -> float:
    """Seconds from the call until the protected photo is there and reported."""
    (folder / "up" / f"{name}.jpg").write_bytes(photo + name.encode())
    started = time.monotonic()
    sent = client.submit((folder / "up").as_uri(), (folder / "up-out").as_uri(), photos=[f"{name}.jpg"], recipe=recipe)
    summary = client.wait(sent.destination, sent.batch, timeout_s=300)
    if summary.protected != 1:
        raise SystemExit(f"not protected: {summary.failures}")
    return time.monotonic() - started


def queue_many(folder: Path, photo: bytes, keys: int, recipe: str) -> None:
    """A batch whose plans name so many keys; the first ones are there."""
    settings = load_settings()
    app = make_app(settings)
    refs = []
    for number in range(keys):
        key = f"{number:07}.jpg"
        if number < REAL:
            (folder / "bulk" / key).write_bytes(photo + key.encode())
        refs.append(PhotoRef(key=key, etag="", size=0))
    source = (folder / "bulk").as_uri()
    asked = BatchOptions(queue=choose_queue(app, "bulk", "library"), tenant="library", recipe=recipe)
    ledger, batch = new_batch(source, (folder / "bulk-out").as_uri(), asked, settings)
    real = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in open_store(source).list()]
    refs[:REAL] = real
    shards = range((keys + SHARD - 1) // SHARD)
    for shard in shards:
        ledger.write_plan(batch.id, shard, refs[shard * SHARD : (shard + 1) * SHARD])
    batch = batch.model_copy(update={"planned": True, "shards": len(shards), "photos": keys})
    register(ledger, batch, settings)
    ledger.write_batch(batch)
    sender = Broker(app)
    for shard in shards:
        sender.send(job_of(ledger, batch, shard))


def a_photo() -> bytes:
    picture = Image.fromarray(skimage.data.astronaut()).resize((1000, 1000))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    return data.getvalue()


if __name__ == "__main__":
    main()
