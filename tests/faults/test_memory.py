"""A worker and a producer that run on and on need no more memory: `make soak` looks for an hour (APF_SOAK_S seconds).

A real worker with the real filter, `apf listen` that submits a batch for each handful of uploads, and `apf beat`; all
on a real Redis and an S3 server.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import urllib3

from tests.benchmarks.memory import Curves, growth
from tests.benchmarks.processes import APF, a_photo, await_that, running
from tests.benchmarks.record import record, table
from tests.conftest import RedisServer, S3Server, _free_ports
from tests.producer.events import samples
from tests.producer.events.test_auth import TOKEN

SOAK = os.environ.get("APF_SOAK") == "1"
#: Read while tests are collected: once they run, no APF_ variable is left.
SOAK_S = float(os.environ.get("APF_SOAK_S", "3600"))

EVERY_S = 3.0
#: Uploads of a round, which the listener submits as one or two batches; sides of the photos, in pixels.
UPLOADS, SIDES = 8, (384, 512, 640, 800)
#: What each process below a worker is: Celery's child runs the filter, and has the decoders.
BELOW = {"worker": ("its child", "its decoders")}
#: Over the last two thirds of the run, a process may gain so many mebibytes, and such a share of what it holds. A leak
#: of 2 kB a photo, one photo's plan, report and messages, would gain 16 MiB in 8,000 photos: half an hour on two cores.
MOST_MIB, MOST_SHARE = 16.0, 0.03


@pytest.mark.timeout(SOAK_S + 600)
@pytest.mark.skipif(not SOAK, reason="memory settles in minutes, and grows in hours: make soak")
def test_memory_does_not_grow(
    tmp_path: Path, redis_server: RedisServer, moto_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the last two thirds of the run no process gains more than the bound; every upload was protected."""
    caplog.set_level(logging.WARNING, "werkzeug")  # a line for each request, for an hour
    bucket, curves, photos = moto_server.new_bucket("soak"), Curves(), 0
    port = _free_ports([0])
    with service(tmp_path, redis_server, moto_server, bucket, port) as parents:
        for number in rounds(curves.started):
            protect_uploads(number, bucket, moto_server, port)
            photos += UPLOADS
            if not curves.samples or time.monotonic() - curves.started - curves.samples[-1][0] >= EVERY_S:
                curves.sample(parents, BELOW)
    rows = [row(role, curves) for role in curves.samples[-1][1]]
    print(f"\n{photos} photos in {curves.samples[-1][0]:.0f} s; MiB:\n\n{table(rows)}\n")
    record("memory", {"photos": photos, "seconds": curves.samples[-1][0], "mib": rows, "samples": curves.samples[::10]})
    too_much = [row for row in rows if row["gained"] > max(MOST_MIB, MOST_SHARE * row["at the end"])]
    assert too_much == []


@contextmanager
def service(folder: Path, broker: RedisServer, s3: S3Server, bucket: str, port: int) -> Iterator[dict[str, int]]:
    """A worker, a listener and a clock that have begun; their process ids by role."""
    places = f"s3://{bucket}/in", f"s3://{bucket}/out"
    variables = {
        "APF_BROKER_URL": broker.url,
        "APF_S3_ENDPOINT_URL": s3.endpoint_url,
        "APF_ALLOWED_URLS": f"s3://{bucket}",
        "APF_RECONCILE_EVERY_S": "10",
        "APF_SCHEDULE_EVERY_S": "10",
        "APF_LISTEN_TOKEN": TOKEN,
        # A few, so that their code runs and many photos pass.
        "APF_STEPS": "3",
    }
    listen = ("listen", "--route", "=".join(places), "--http", f"127.0.0.1:{port}", "--photos", str(UPLOADS))
    started = {"worker": ("worker",), "listener": listen, "clock": ("beat",)}
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(running(APF, folder / f"{role}.log", variables, *command)).pid
            for role, command in started.items()
        }


def rounds(started: float) -> Iterator[int]:
    """Numbers, until the time is up."""
    number = 0
    while time.monotonic() - started < SOAK_S:
        yield number
        number += 1


def protect_uploads(number: int, bucket: str, s3: S3Server, port: int) -> None:
    """Upload some photos, tell of them, wait until they are protected, and take them away again."""
    keys = [f"{number:06}/{upload}.jpg" for upload in range(UPLOADS)]
    records = []
    for upload, key in enumerate(keys):
        data = a_photo(number * UPLOADS + upload, SIDES[(number + upload) % len(SIDES)])
        etag = s3.client.put_object(Bucket=bucket, Key=f"in/{key}", Body=data)["ETag"].strip('"')
        event = samples.s3_record(f"in/{key}", eTag=etag)
        event["s3"]["bucket"]["name"] = bucket
        records.append(event)
    url, headers = f"http://127.0.0.1:{port}/events", {"Authorization": f"Bearer {TOKEN}"}
    until_it_serves = urllib3.Retry(connect=20, backoff_factor=0.2)
    answer = urllib3.request(
        "POST", url, json={"Records": records}, headers=headers, timeout=60, retries=until_it_serves
    )
    assert answer.status == 200
    prefix = f"out/{number:06}/"

    def protected() -> bool:
        return int(s3.client.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"]) == len(keys)

    await_that(protected, 180, f"round {number} is protected", every_s=0.1)
    for key in keys:
        for place in ("in", "out"):
            s3.client.delete_object(Bucket=bucket, Key=f"{place}/{key}")


def row(role: str, curves: Curves) -> dict[str, object]:
    """Of one process, or of the decoders together: what it held along the run, and what the last two thirds added."""
    curve = curves.curve(role)
    parts = {f"at {share:.0%}": curve[int(share * (len(curve) - 1))][1] for share in (0.33, 0.5, 0.67, 0.83)}
    return {
        "process": role,
        **parts,
        "at the end": curve[-1][1],
        "gained": growth(curves.curve(role, after=1 / 3)),
    }


def test_growth_is_told_from_noise() -> None:
    """A peak and a settled curve gain nothing; what grows a little each second is told by its whole gain."""
    flat = [(float(at), 100.0 + at % 3) for at in range(300)]
    assert abs(growth(flat)) < 1
    assert abs(growth([*flat[:200], (200.0, 400.0), *flat[201:]])) < 1
    assert growth([(at, held + at / 10) for at, held in flat]) == pytest.approx(29.9, abs=1)
