"""Requests to the store for each photo: `python -m tests.benchmarks.bench_requests [--photos 256] [--seconds 0.15]`.

A batch runs by `apf protect` with the worker inside, from a bucket into a bucket: real boto3, an HTTP server (moto),
and a filter that only takes its time. Each HTTP request is counted over the whole life of the batch: planning, the
worker with its renewals and reports, following it until it is done. The second run finds all outputs there. Photos of
12 megapixels make shards of 32, and take five times as long, so that a shard's own requests weigh more.

Then one upload, from `Client.submit` with one named photo to its delivered callback: each request with what it is for.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import typer
from moto.server import ThreadedMotoServer

from tests.benchmarks.record import record, table
from tests.conftest import ANY_PLACE, S3_KEY, S3_SECRET, S3Server
from tests.receivers import LOOPBACK, receiving

#: Threads of the worker, by their names; all others are the command's.
WORKERS_THREADS = ("embedded-worker", "read", "write", "filter", "lease")
KINDS = ("HEAD", "GET", "PUT", "LIST", "DELETE")
#: Ids of batches and of tries.
BATCH_ID = r"\d{8}-\d{6}-\d{6}-[0-9a-f]{6}"
LAST = "DELETE .apf/open/ID"

Requests = Counter[tuple[str, str]]


def kind_of(request: Any) -> str:
    """LIST is a GET of the bucket itself."""
    return "LIST" if request.method == "GET" and "list-type=2" in request.url else str(request.method)


@contextmanager
def counted() -> Iterator[Requests]:
    """Requests by who makes them (command, worker) and what they are, while the block runs."""
    from workers.config.settings import load_settings  # noqa: PLC0415  what it loads reads the environment
    from workers.store.s3 import _shared_client  # noqa: PLC0415

    found: Requests = Counter()

    def count(request: Any, **_: Any) -> None:
        is_worker = threading.current_thread().name.startswith(WORKERS_THREADS)
        found["worker" if is_worker else "command", kind_of(request)] += 1

    events = _shared_client(load_settings().s3).meta.events
    events.register("before-send.s3", count)
    try:
        yield found
    finally:
        events.unregister("before-send.s3", count)


def protect(source: str, destination: str) -> float:
    """The command, as typed; seconds."""
    from producer.cli import batches  # noqa: PLC0415

    started = time.monotonic()
    try:
        batches.protect(source, destination, as_json=True, lane=batches.LaneName.bulk)
    except typer.Exit as ended:
        if ended.exit_code:
            raise SystemExit("not all photos were protected") from ended
    return time.monotonic() - started


def runs(server: S3Server, megapixels: int, photos: int, seconds: float) -> Iterator[dict[str, object]]:
    """Two runs over the same photos, the first into an empty bucket."""
    bucket, out = server.new_bucket("in"), server.new_bucket("out")
    for number in range(photos):
        server.client.put_object(Bucket=bucket, Key=f"{number // 100}/{number:05}.jpg", Body=b"face %d" % number)
    shard = min(128, 384 // megapixels)
    variables = {"APF_SHARD_PHOTOS": str(shard), "CHEAP_SECONDS": str(seconds)}
    for run in ("first", "second"):
        with mock.patch.dict(os.environ, variables), counted() as found:
            wall_s = protect(f"s3://{bucket}", f"s3://{out}")
        yield row(f"{photos} of {megapixels} MP", run, shard, wall_s, found, photos)


def row(what: str, run: str, shard: int, wall_s: float, found: Requests, photos: int) -> dict[str, object]:
    by_kind = {kind: sum(n for (_, k), n in found.items() if k == kind) / photos for kind in KINDS}
    command = sum(count for (who, _), count in found.items() if who == "command") / photos
    return {
        "photos": what,
        "run": run,
        "photos a shard": shard,
        **by_kind,
        "by the worker": found.total() / photos - command,
        "by the command": command,
        "requests a photo": found.total() / photos,
        "seconds": wall_s,
    }


def of_an_upload(server: S3Server, *, callback: bool = True) -> list[str]:
    """The requests of one photo's way from `Client.submit` to its callback, or to its end, in their order."""
    from producer.client import Client  # noqa: PLC0415  what these load reads the environment
    from workers.broker.app import EMBEDDED_BROKER  # noqa: PLC0415
    from workers.broker.embedded import embedded_worker  # noqa: PLC0415
    from workers.config.settings import load_settings  # noqa: PLC0415
    from workers.store.s3 import _shared_client  # noqa: PLC0415

    found: list[str] = []

    def note(request: Any, **_: Any) -> None:
        found.append(f"{kind_of(request)} {re.sub(BATCH_ID, 'ID', urlsplit(request.url).path.split('/', 2)[-1])}")

    bucket, out = server.new_bucket("in"), server.new_bucket("out")
    server.client.put_object(Bucket=bucket, Key="ann/1.jpg", Body=b"face 1")
    with mock.patch.dict(os.environ, {f"APF_{name.upper()}": str(value) for name, value in LOOPBACK.items()}):
        client = Client(load_settings().model_copy(update={"broker_url": EMBEDDED_BROKER}))
        events = _shared_client(load_settings().s3).meta.events
        events.register("before-send.s3", note)
        try:
            with receiving() as receiver, embedded_worker(client._app):
                url = receiver.url if callback else None
                client.submit(f"s3://{bucket}", f"s3://{out}", photos=["ann/1.jpg"], callback=url)
                within_s(30, lambda: bool(receiver.got) or not callback)
                # The last requests take the batch off the index of open ones, and read its record once more.
                within_s(30, lambda: [one for one in found if "open/" in one][-1:] and found[-2:-1] == [LAST])
        finally:
            events.unregister("before-send.s3", note)
    return found


def within_s(seconds: float, happened: Callable[[], Any]) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise SystemExit("the upload did not end in time")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.15, help="what the filter takes for a photo of a megapixel")
    asked = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    threaded = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"APF_S3_ENDPOINT_URL": f"http://{host}:{port}", **ANY_PLACE}
    import tests.faults.cheap  # noqa: F401, PLC0415  from here on the worker has the cheap filter

    server = S3Server(os.environ["APF_S3_ENDPOINT_URL"])
    try:
        rows = [*runs(server, 1, asked.photos, asked.seconds), *runs(server, 12, asked.photos // 4, 5 * asked.seconds)]
        upload = of_an_upload(server)
    finally:
        threaded.stop()
    print(table(rows))
    print(f"\n{len(upload)} requests of one upload with a callback:", *upload, sep="\n  ")
    record("requests", {"rows": rows, "of an upload": len(upload)})


if __name__ == "__main__":
    main()
