"""The obvious design, for comparison: a Celery app with one message a photo. `celery -A tests.benchmarks.plain_celery`.

Everything is as Celery and boto3 have it by default, but for two settings without which boto3 does not talk to Swift.
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from celery import Celery

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER", "memory://"))


@app.task
def protect(bucket: str, key: str) -> None:
    """Download, protect, upload, with a filter that the process has loaded."""
    _through_the_store(bucket, key, _loaded())


@app.task
def protect_loading(bucket: str, key: str) -> None:
    """The same, with a filter that each call loads: what is written first."""
    _through_the_store(bucket, key, _load())


def _through_the_store(bucket: str, key: str, filter: Any) -> None:
    import apf  # noqa: PLC0415  the submitting side needs none of it

    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    with closing(boto3.client("s3", endpoint_url=os.environ["PLAIN_STORE"], config=config)) as s3:
        data = s3.get_object(Bucket=bucket, Key=f"in/{key}")["Body"].read()
        s3.put_object(Bucket=bucket, Key=f"plain/{key}", Body=apf.protect_photo(data, filter).data)


def _load() -> Any:
    import apf  # noqa: PLC0415  as above

    return apf.load_filter()


_loaded = cache(_load)
