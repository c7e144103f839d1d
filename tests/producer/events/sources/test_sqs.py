"""Events from an SQS queue (moto's server): deleted when their photos are submitted, and not before."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import boto3
import pytest

from producer.events.batcher import EventBatcher
from producer.events.sources import sqs
from producer.events.sources.sqs import SqsSource, sqs_client
from tests.conftest import S3Server
from tests.producer.events import samples
from tests.producer.events.helpers import Notes, an_intake, event, running
from tests.waiting import until
from workers.errors import SettingsError, StoreUnavailable


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs, "POLL_S", 1)
    monkeypatch.setattr(sqs, "FIRST_RETRY_S", 1)
    monkeypatch.setattr("producer.events.backoff.FIRST_S", 0.2)


@pytest.fixture
def client(moto_server: S3Server) -> Iterator[Any]:
    made = boto3.client("sqs", endpoint_url=moto_server.endpoint_url)
    yield made
    made.close()


@pytest.fixture
def queue_url(client: Any) -> str:
    return str(client.create_queue(QueueName=f"uploads-{uuid.uuid4().hex[:8]}")["QueueUrl"])


def source(queue_url: str, batcher: EventBatcher, stop: threading.Event) -> SqsSource:
    return SqsSource(queue_url, batcher, stop, endpoint_url=None, region="us-east-1")


def left(client: Any, queue_url: str) -> tuple[int, int]:
    """How many messages wait, and how many somebody holds."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])


def test_messages_are_submitted_and_deleted(client: Any, queue_url: str) -> None:
    """More than one poll gives, wrapped by SNS or not, with tests and other matters in between."""
    bodies = [event(f"{number}.jpg") for number in range(25)]
    bodies += [json.dumps(body) for body in (samples.SNS, samples.AWS_TEST, samples.EVENTBRIDGE)] + [event("a.txt")]
    for body in bodies:
        client.send_message(QueueUrl=queue_url, MessageBody=body)
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as batcher, running(source(queue_url, batcher, stop), batcher, stop):
        until(lambda: left(client, queue_url) == (0, 0), 30, "the queue is empty")
    assert notes.keys == sorted([*(f"{number}.jpg" for number in range(25)), "red floweré+1.jpg", "a b+c%41.jpg"])


def test_a_message_stays_until_its_photos_are_submitted(client: Any, queue_url: str) -> None:
    """It is neither deleted nor given to another while it is submitted; after a failure it comes again."""
    client.send_message(QueueUrl=queue_url, MessageBody=event("a.jpg"))
    notes, stop = Notes(failing=StoreUnavailable("down")), threading.Event()
    notes.open.clear()
    with an_intake(notes) as batcher, running(source(queue_url, batcher, stop), batcher, stop):
        until(lambda: notes.tries == 1, 20, "it is being submitted")
        assert left(client, queue_url) == (0, 1)
        notes.open.set()
        until(lambda: notes.tries == 2, 20, "it is tried again")
        notes.failing = None
        until(lambda: left(client, queue_url) == (0, 0), 20, "it is deleted")
    assert notes.keys == ["a.jpg"]


def test_a_stop_gives_back_what_is_not_submitted(client: Any, queue_url: str) -> None:
    """The next listener sees it soon, and not after the visibility time-out."""
    client.send_message(QueueUrl=queue_url, MessageBody=event("a.jpg"))
    notes, stop = Notes(failing=StoreUnavailable("down")), threading.Event()
    with an_intake(notes) as batcher, running(source(queue_url, batcher, stop), batcher, stop):
        until(lambda: notes.tries, 20, "it is tried")
    until(lambda: left(client, queue_url) == (1, 0), 20, "it waits in the queue")


def test_what_is_no_event_is_deleted_or_left_to_the_dead_letters(client: Any, queue_url: str) -> None:
    """A queue with a redrive policy puts it aside; without one it would come for days."""
    dead = client.create_queue(QueueName=f"dead-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    strict = client.create_queue(QueueName=f"strict-{uuid.uuid4().hex[:8]}", Attributes={"RedrivePolicy": policy})
    for url, kept in ((queue_url, (0, 0)), (strict["QueueUrl"], (0, 1))):
        client.send_message(QueueUrl=url, MessageBody="no event")
        client.send_message(QueueUrl=url, MessageBody=event("a.jpg"))
        notes, stop = Notes(), threading.Event()
        with an_intake(notes) as batcher, running(source(url, batcher, stop), batcher, stop):
            until(lambda notes=notes: notes.keys == ["a.jpg"], 20, "the good one is submitted")
            until(lambda url=url, kept=kept: left(client, url) == kept, 20, f"of the bad one {kept} is left")


def test_a_queue_that_is_down_is_asked_again(
    client: Any, queue_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on, and says what is wrong."""
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as batcher:
        reader = source(queue_url, batcher, stop)
        reader._url = queue_url + "-gone"
        with running(reader, batcher, stop):
            until(lambda: "cannot be read" in caplog.text, 20, "it says so")
            reader._url = queue_url
            client.send_message(QueueUrl=queue_url, MessageBody=event("a.jpg"))
            until(lambda: notes.keys == ["a.jpg"], 20, "it is read again")


def test_a_queue_that_is_not_there_is_told_at_the_start(queue_url: str) -> None:
    """With the option to correct."""
    with an_intake(Notes()) as batcher, pytest.raises(SettingsError, match=r"there is no queue .*: correct --sqs"):
        source(queue_url + "-gone", batcher, threading.Event())


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1234/q", "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://sqs.us-gov-west-1.amazonaws.com/1/q", "https://sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("http://localhost:9324/000000000000/q", "http://localhost:9324", "us-east-1"),
    ],
)
def test_the_queues_url_says_where_to_ask(url: str, endpoint: str, region: str) -> None:
    """Its region need not be the bucket's, and an SQS of one's own needs no further setting."""
    made = sqs_client(url, endpoint_url=None, region="us-east-1")
    assert (made.meta.endpoint_url, made.meta.region_name) == (endpoint, region)
    made.close()


@pytest.mark.parametrize("url", ["", "uploads", "arn:aws:sqs:eu-west-1:1234:uploads", "ftp://host/q"])
def test_what_is_no_queues_url_is_refused(url: str) -> None:
    """A name or an ARN is what one has at hand, and not what SQS is asked by."""
    with pytest.raises(SettingsError, match="no queue's URL"):
        sqs_client(url, endpoint_url=None, region=None)


def test_no_message_stops_the_listener(client: Any, queue_url: str) -> None:
    """What nobody foresaw is refused like what is no event, and what comes after it is submitted."""
    notes, stop = Notes(), threading.Event()
    with an_intake(notes) as batcher:
        take = batcher.take

        def breaks(body: bytes | str, source: str) -> Future[int]:
            if body == "bug":
                raise ValueError("nobody foresaw it")
            return take(body, source)

        batcher.take = breaks  # type: ignore[method-assign]
        for body in ("bug", event("a.jpg", eTag="\ud800"), event("b.jpg")):
            client.send_message(QueueUrl=queue_url, MessageBody=body)
        with running(source(queue_url, batcher, stop), batcher, stop):
            until(lambda: left(client, queue_url) == (0, 0), 30, "the queue is empty")
    assert notes.keys == ["b.jpg"]
