"""The `apf listen` process with real parts: Redis, moto's S3 and SQS, workers whose filter is cheap, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
import urllib3
from standardwebhooks.webhooks import Webhook

from tests.conftest import RedisServer, S3Server, _free_ports
from tests.faults import cheap_output
from tests.faults.world import QUICK, ROOT
from tests.producer.events import samples
from tests.producer.events.test_auth import SECRET, TOKEN
from tests.waiting import until
from workers.batches.create import find_ledger
from workers.broker.queues import all_queues
from workers.config.settings import Settings
from workers.errors import LedgerError

pytestmark = pytest.mark.timeout(240)

#: The command, with queues that give messages back sooner than in production.
LISTEN = [
    sys.executable, "-c",
    "import producer.events.sources.sqs as sqs; sqs.VISIBILITY_S, sqs.POLL_S = 4, 1\n"
    "from producer.cli import main; main()", "listen",
]  # fmt: skip
#: A queue that is never asked.
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/uploads"


class Platform:
    """A bucket with uploads under in/ and outputs under out/, and a listener that can be killed."""

    def __init__(self, folder: Path, broker: RedisServer, s3: S3Server) -> None:
        self.folder, self.broker, self.s3 = folder, broker, s3
        self.bucket = s3.new_bucket("photos")
        self.source, self.destination = f"s3://{self.bucket}/in", f"s3://{self.bucket}/out"
        self.variables = {
            **QUICK,
            "APF_BROKER_URL": broker.url,
            "APF_S3_ENDPOINT_URL": s3.endpoint_url,
            "APF_ALLOWED_URLS": f"s3://{self.bucket}",
            "APF_LISTEN_SECRET": SECRET,
            "APF_LISTEN_TOKEN": TOKEN,
            "APF_SHUTDOWN_GRACE_S": "10",
            "CHEAP_REPORTING": str(folder / "reporting"),
        }
        names = {name.removeprefix("APF_").lower(): v for name, v in self.variables.items() if name.startswith("APF_")}
        self.settings = Settings.model_validate(names)
        self.log = folder / "listen.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A listener that has begun to listen."""
        before = self.said("events ")
        command = [*LISTEN, "--route", f"{self.source}={self.destination}", "--recipe", "light", *options]
        process = self._process(command, self.log)
        until(lambda: self.said("events ") > before or process.poll() is not None, 60, f"it listens; {self.log}")
        assert process.poll() is None, self.log.read_text()
        return process

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", "tests.faults.celeryapp", "worker", "--loglevel", "INFO"]
        log = self.folder / "worker.log"
        self._process([*command, "-Q", ",".join(all_queues())], log)
        until(lambda: b" ready." in log.read_bytes(), 60, f"the worker is ready; {log}")

    def _process(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "REMAP_SIGTERM": "SIGQUIT", **self.variables}
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(process)
        return process

    def said(self, text: str) -> int:
        return self.log.read_text().count(text) if self.log.exists() else 0

    def upload(self, key: str, text: str = "face") -> bytes:
        """Put a photo; returns its bytes."""
        data = f"{text} {key} ".encode() * 500
        self.s3.client.put_object(Bucket=self.bucket, Key=f"in/{key}", Body=data)
        return data

    def event(self, key: str, etag: str = samples.ETAG) -> str:
        """An event about an upload."""
        record = samples.s3_record(f"in/{key}", eTag=etag)
        record["s3"]["bucket"]["name"] = self.bucket
        return json.dumps({"Records": [record]})

    def submitted(self) -> list[str]:
        """Keys in all plans, as often as they are planned."""
        ledger = find_ledger(self.destination, self.settings)
        found = []
        for batch_id in ledger.batches():
            batch = ledger.read_batch(batch_id)
            assert batch.lane == "interactive"
            for shard in range(batch.shards):
                with suppress(LedgerError):  # it is just being written, or its listener was killed at it
                    found += [ref.key for ref in ledger.read_plan(batch_id, shard)]
        return sorted(found)

    def outputs(self) -> dict[str, bytes]:
        listing = self.s3.client.list_objects_v2(Bucket=self.bucket, Prefix="out/").get("Contents", [])
        keys = [item["Key"] for item in listing if "/.apf/" not in item["Key"]]
        bodies = (self.s3.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys)
        return {key.removeprefix("out/"): body for key, body in zip(keys, bodies, strict=True)}

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def platform(tmp_path: Path, redis_server: RedisServer, moto_server: S3Server) -> Iterator[Platform]:
    place = Platform(tmp_path, redis_server, moto_server)
    try:
        yield place
    finally:
        place.close()


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[Any]:
    with closing(redis.Redis(port=redis_server.port)) as client:
        yield client


@contextmanager
def a_queue(platform: Platform) -> Iterator[tuple[Any, str]]:
    """An SQS queue, and a client for it."""
    with closing(boto3.client("sqs", endpoint_url=platform.s3.endpoint_url)) as client:
        yield client, client.create_queue(QueueName=f"uploads-{uuid.uuid4().hex[:8]}")["QueueUrl"]


def none_waits(client: Any, url: str) -> bool:
    name = "ApproximateNumberOfMessages"
    return int(client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name]) == 0


def empty(client: Any, url: str) -> bool:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return all(int(found[name]) == 0 for name in names)


def test_what_is_uploaded_is_protected(platform: Platform) -> None:
    """From the bucket's notifications by SQS and Redis to the output, and no output comes round as an upload."""
    with a_queue(platform) as (client, url):
        arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        platform.s3.client.put_bucket_notification_configuration(
            Bucket=platform.bucket, NotificationConfiguration={"QueueConfigurations": [told]}
        )
        platform.start_worker()
        platform.start("--sqs", url, "--gather", "0.2")
        photos = {key: platform.upload(key) for key in ("a b+c%41 é.jpg", "teamA/1.jpg", "x//y.png")}
        platform.upload("notes.txt")
        wanted = {key: cheap_output(data) for key, data in photos.items()}
        until(lambda: platform.outputs() == wanted, 40, "all outputs are there")
        until(lambda: empty(client, url), 30, "the events of outputs, too, are read")
        assert platform.submitted() == sorted(photos)


def test_a_private_route_makes_private_batches(platform: Platform) -> None:
    """Of gradient files below it, and of nothing else; the route of photos beside it goes on as ever."""
    platform.upload("a.jpg")
    for key in ("private/b.safetensors", "private/c.jpg"):
        platform.upload(key)
    answers = f"s3://{platform.bucket}/answers"
    port, route = _free_ports([0]), f"{platform.source}/private={answers}"
    platform.start("--http", f"127.0.0.1:{port}", "--gather", "0", "--private-route", route)
    until(lambda: _answers(port), 30, "it serves")
    for key in ("a.jpg", "private/b.safetensors", "private/c.jpg"):
        assert post(port, platform.event(key)) == 200
    assert platform.submitted() == ["a.jpg"]
    ledger = find_ledger(answers, platform.settings)
    until(lambda: len(ledger.batches()) == 1, 30, "and the gradient file")
    batch = ledger.read_batch(ledger.batches()[0])
    assert (batch.private, [ref.key for ref in batch.named]) == (True, ["b.safetensors"])
    ledger = find_ledger(platform.destination, platform.settings)
    assert [ledger.read_batch(batch_id).private for batch_id in ledger.batches()] == [False]


def test_a_killed_listener_loses_no_message_of_a_queue(platform: Platform) -> None:
    """SIGKILL when messages are taken and not yet submitted: they come again after the visibility time-out."""
    keys = [f"{number:02}.jpg" for number in range(12)]
    with a_queue(platform) as (client, url):
        for key in keys:
            platform.upload(key)
            client.send_message(QueueUrl=url, MessageBody=platform.event(key, etag=key))
        first = platform.start("--sqs", url, "--gather", "20", "--photos", "100")

        until(lambda: none_waits(client, url), 30, "all messages are taken")
        os.killpg(first.pid, signal.SIGKILL)
        assert platform.submitted() == []
        platform.start("--sqs", url)
        until(lambda: set(platform.submitted()) == set(keys), 60, "all are submitted")
        until(lambda: empty(client, url), 30, "and deleted")


def post(port: int, body: str) -> int:
    """A signed POST, as the documentation shows it."""
    now = datetime.now(UTC)
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Webhook(SECRET).sign("msg_1", now, body),
    }
    url = f"http://127.0.0.1:{port}/events"
    return int(urllib3.request("POST", url, body=body, headers=headers, timeout=60, retries=False).status)


def test_an_event_that_comes_twice_is_submitted_once(platform: Platform) -> None:
    """Over HTTP; a photo that is gone harms no other; SIGTERM ends the process well; metrics tell."""
    port, metrics = _free_ports([0]), _free_ports([0])
    platform.upload("a.jpg")
    platform.upload("b.jpg")
    process = platform.start("--http", f"127.0.0.1:{port}", "--metrics-port", str(metrics))
    until(lambda: _answers(port), 30, "it serves")
    assert post(port, platform.event("a.jpg")) == 200
    assert post(port, platform.event("a.jpg")) == 200
    assert post(port, platform.event("b.jpg")) == 200
    assert platform.submitted() == ["a.jpg", "b.jpg"]
    assert post(port, platform.event("gone.jpg", etag="other")) == 207, "nothing but a photo that is gone"
    text = urllib3.request("GET", f"http://127.0.0.1:{metrics}/metrics").data.decode()
    assert "apf_build_info{" in text
    assert _answers(metrics), "health is told there, too"
    assert not _listens_everywhere(metrics), "and on APF_METRICS_HOST alone"
    assert 'apf_listen_events_total{result="duplicate",source="http"} 1.0' in text
    assert platform.submitted() == ["a.jpg", "b.jpg"]
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, platform.log.read_text()
    assert time.monotonic() - started < 11
    assert ".jpg" not in platform.log.read_text(), "a log tells no keys"
    assert TOKEN not in platform.log.read_text()


def _listens_everywhere(port: int) -> bool:
    """Whether somebody listens on that port of all addresses."""
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return any(f"{anybody}:{port:04X}" in table for anybody in ("0" * 8, "0" * 32))


def _answers(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/healthz", retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def test_while_the_queue_is_down_the_sender_is_asked_to_come_again(
    platform: Platform, redis_server: RedisServer
) -> None:
    """503, soon and with nothing half-submitted; the process lives, and takes the event once Redis is back."""
    port = _free_ports([0])
    platform.upload("a.jpg")
    platform.start("--http", f"127.0.0.1:{port}")
    until(lambda: _answers(port), 30, "it serves")
    redis_server.kill()
    started = time.monotonic()
    assert post(port, platform.event("a.jpg")) == 503
    assert time.monotonic() - started < 30
    assert _answers(port)
    assert platform.submitted() == []
    redis_server.start()
    until(lambda: post(port, platform.event("a.jpg")) == 200, 30, "it is taken")
    assert platform.submitted() == ["a.jpg"]


def test_a_stop_leaves_nothing_in_between(platform: Platform) -> None:
    """SIGTERM in the midst of gathering: each photo is submitted once, now or by the next listener."""
    with a_queue(platform) as (client, url):
        keys = [f"{number}.jpg" for number in range(5)]
        for key in keys:
            platform.upload(key)
            client.send_message(QueueUrl=url, MessageBody=platform.event(key, etag=key))
        process = platform.start("--sqs", url, "--gather", "30")
        until(lambda: none_waits(client, url), 30, "all messages are taken")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, platform.log.read_text()
        platform.start("--sqs", url, "--gather", "0")
        until(lambda: platform.submitted() == keys, 60, "all are submitted, each once")
        until(lambda: empty(client, url), 30, "and deleted")


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (["--route", "s3://a=s3://b"], None, "nothing to listen to"),
        (["--sqs", QUEUE], None, "no route"),
        (["--route", "s3://a=s3://a/b", "--sqs", QUEUE], None, "overlap"),
        (["--route", "s3://a=s3://b", "--sqs", QUEUE], {"APF_BROKER_URL": ""}, "set APF_BROKER_URL"),
        (["--route", "s3://a=s3://b", "--sqs", QUEUE], {"APF_ALLOWED_URLS": "s3://a"}, "s3://b lies under none"),
        (["--route", "s3://a=s3://b", "--sqs", QUEUE, "--recipe", "nope"], None, "nope"),
        (["--route", "s3://a=s3://b", "--http", "127.0.0.1:0"], None, "needs a secret"),
        (["--route", "s3://a=s3://b", "--http", "127.0.0.1:0"], {"APF_LISTEN_SECRET_FILE": "/no"}, "cannot be read"),
        (["--route", "s3://a=s3://b", "--http", "127.0.0.1:0"],
         {"APF_LISTEN_TOKEN": TOKEN, "APF_LISTEN_TOKEN_FILE": "/x"}, "both set"),
        (["--route", "s3://a=s3://b", "--sqs", "uploads"], None, "no queue's URL"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_at_the_start(options: list[str], change: dict[str, str] | None, message: str) -> None:
    """With its cure, and before the first event is taken."""
    variables = {"APF_BROKER_URL": "redis://127.0.0.1:1/0", **(change or {})}
    command = [sys.executable, "-m", "producer", "listen", *options]
    ended = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
