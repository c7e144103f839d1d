"""The operator's tutorial, run as it stands: real Redis, real Swift, a real worker and a real clock."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests import tutorials
from tests.conftest import RedisServer, S3Server
from workers.batches.plan import in_fraction

PAGE = Path(__file__).parents[1] / "docs" / "operator.md"
BUCKETS = ("library", "library-protected", "library-ledger")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def buckets(swift: S3Server) -> Iterator[S3Server]:
    """The page's two buckets, the first with eight photos: two of them in the page's fraction, one without a face."""
    names = [f"2026/IMG_{number:04}.jpg" for number in range(1, 200)]
    chosen = [name for name in names if in_fraction(name, "library", 0.05)][:2]
    others = [name for name in names if not in_fraction(name, "library", 0.05)][:6]
    for bucket in BUCKETS:
        swift.client.create_bucket(Bucket=bucket)
    for number, name in enumerate([*chosen, *others]):
        picture = skimage.data.coffee() if name == others[-1] else skimage.data.astronaut()[number:]
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=90)
        swift.client.put_object(Bucket=BUCKETS[0], Key=name, Body=data.getvalue())
    yield swift
    for bucket in BUCKETS:
        for page in swift.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", []):
                swift.client.delete_object(Bucket=bucket, Key=item["Key"])
        with suppress(swift.client.exceptions.ClientError):
            swift.client.delete_bucket(Bucket=bucket)


def test_every_command_of_the_page_does_what_the_page_says(
    buckets: S3Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    """From two buckets to a rollout, its way back and its end; the clock is faster than the page's."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "APF_BROKER_URL": redis_server.url,
        "APF_S3_ENDPOINT_URL": buckets.endpoint_url,
        "APF_ALLOWED_URLS": " ".join(f"s3://{name}" for name in BUCKETS[:2]),
        "APF_LEDGER_URL": f"s3://{BUCKETS[2]}",
        "APF_SCHEDULE_EVERY_S": "2",
        "APF_RECONCILE_EVERY_S": "5",
    }
    ran = tutorials.run(tutorials.commands(PAGE), environment=environment, folder=tmp_path, timeout_s=500)
    tutorials.check(PAGE, ran)
    statuses = {one.command.text: one.status for one in ran}
    assert set(statuses.values()) == {0}, statuses
