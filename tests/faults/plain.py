"""For comparison: the same photos as a plain Celery job, one message a photo, with Celery's default settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil
import redis
from botocore.config import Config
from celery import Celery

from tests.conftest import RedisServer, S3Server
from tests.faults import cheap_output

PROTECT_S = 0.15
#: Nothing new for so long: nothing comes any more. boto3's and Celery's own waits are shorter.
STILL_S = 25

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER", "memory://"))


@app.task(name="plain.protect")
def protect(bucket: str, key: str) -> None:
    """Download, protect, upload: what a first version would do."""
    # The two settings without which boto3 does not talk to Swift at all.
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    with closing(boto3.client("s3", endpoint_url=os.environ["PLAIN_STORE"], config=config)) as s3:
        data = s3.get_object(Bucket=bucket, Key=f"in/{key}")["Body"].read()
        time.sleep(PROTECT_S)
        s3.put_object(Bucket=bucket, Key=f"out/{key}", Body=cheap_output(data))


@dataclass
class PlainWorld:
    """The job's worker, its queue and its bucket. Close it: workers are processes."""

    folder: Path
    redis: RedisServer
    swift: S3Server
    #: Where workers reach the store: the server, or a fault proxy before it.
    endpoint_url: str
    photos: Mapping[str, bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bucket = self.swift.new_bucket()
        for key, data in self.photos.items():
            self.swift.client.put_object(Bucket=self.bucket, Key=f"in/{key}", Body=data)

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", "tests.faults.plain", "worker", "-c", "1"]
        environment = {**os.environ, "PLAIN_BROKER": self.redis.url, "PLAIN_STORE": self.endpoint_url}
        with (self.folder / "plain.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.workers.append(process)

    def child(self) -> int:
        return int(psutil.Process(self.workers[-1].pid).children()[-1].pid)

    def submit(self) -> None:
        app.conf.broker_url = self.redis.url
        for key in self.photos:
            protect.delay(self.bucket, key)

    def written(self) -> dict[str, str]:
        """ETags of the outputs by key."""
        listed = self.swift.client.list_objects_v2(Bucket=self.bucket, Prefix="out/").get("Contents", [])
        return {item["Key"].removeprefix("out/"): item["ETag"] for item in listed}

    def losses(self) -> tuple[int, int]:
        """Wait until nothing comes any more: photos without output, and those of them that Redis would send later.

        Celery sends again what a dead worker had fetched after an hour, its default visibility timeout.
        """
        count, since = -1, time.monotonic()
        while time.monotonic() - since < STILL_S and count < len(self.photos):
            if (now := len(self.written())) != count:
                count, since = now, time.monotonic()
            time.sleep(0.5)
        with closing(redis.Redis(port=self.redis.port)) as client:
            later = int(client.hlen("unacked"))
        missing = len(self.photos) - count
        return missing, min(later, missing)

    def close(self) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
