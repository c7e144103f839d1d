"""Events from an SQS queue. A message is deleted when all its photos lie in a ledger; until then it comes again."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from producer.events.backoff import Backoff
from producer.events.batcher import EventBatcher, Stopping, Taken
from producer.events.in_flight import InFlightLimit
from producer.events.metrics import REFUSED
from producer.events.models import MalformedEvent, unforeseen
from workers.errors import SettingsError

log = logging.getLogger(__name__)

NAME = "sqs"
#: The most that SQS gives and deletes at once.
BATCH = 10
#: A long poll. Stopping may have to wait for its end.
POLL_S = 10
#: A message that is not deleted comes again after so long; submitting takes a second or two, or a store's time-outs.
VISIBILITY_S = 120
#: After a failure it comes again after the first, twice as long each time, up to the second.
FIRST_RETRY_S, LONGEST_RETRY_S = 5, 900
#: Messages taken and not yet done with.
PLACES = 200

_REGION = re.compile(r"^sqs[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.|^([a-z]{2}(?:-[a-z]+)+-\d)\.queue\.")

Receipt = str


class SqsSource:
    """One queue, polled by one thread."""

    def __init__(
        self,
        queue_url: str,
        batcher: EventBatcher,
        stop: threading.Event,
        *,
        endpoint_url: str | None,
        region: str | None,
    ) -> None:
        self._url = queue_url
        self._batcher = batcher
        self._stop = stop
        self._pause = Backoff(stop)
        self._room = InFlightLimit(PLACES, NAME)
        self._done: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._client = sqs_client(queue_url, endpoint_url=endpoint_url, region=region)
        #: Whether the queue itself puts aside what comes too often.
        self._has_dead_letters = self._redrives()

    def run(self) -> None:
        """Poll until the stop; returns when nothing is in flight any more."""
        deleter = threading.Thread(target=self._delete, name="sqs-delete", daemon=True)
        deleter.start()
        while not self._pause.wait():
            if self._room.wait_for(BATCH, within_s=1):
                self._poll()
        self._room.wait_until_empty(VISIBILITY_S)
        deleter.join()

    def _poll(self) -> None:
        try:
            answer = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=POLL_S,
                VisibilityTimeout=VISIBILITY_S,
                AttributeNames=["ApproximateReceiveCount"],
            )
        except (BotoCoreError, ClientError) as error:
            log.error("the queue %s cannot be read, and is asked again soon: %s", self._url, error)
            self._pause.failed()
            return
        for message in answer.get("Messages", []):
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        receipt = message["ReceiptHandle"]
        self._room.enter()
        try:
            future = self._batcher.take(message["Body"], NAME)
        except MalformedEvent as error:
            self._refuse(message, str(error), "malformed")
        except Stopping:
            self._give_back(receipt, 0)
        except Exception as error:  # or it would come back, and end each listener that gets it
            self._refuse(message, unforeseen(error), "unforeseen")
        else:
            times = int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1"))
            future.add_done_callback(partial(self._settle, receipt, times))

    def _settle(self, receipt: Receipt, times: int, future: Future[Taken]) -> None:
        if future.exception() is None:
            self._pause.succeeded()
            self._done.put(receipt)  # its place is free when it is deleted
        else:
            self._pause.failed()
            self._give_back(receipt, min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(times - 1, 10)))

    def _refuse(self, message: dict[str, Any], why: str, reason: str) -> None:
        REFUSED.labels(NAME, reason).inc()
        kept = "left to the queue's dead letters" if self._has_dead_letters else "deleted"
        log.warning("message %s of %s is refused and %s: %s", message["MessageId"], self._url, kept, why)
        if self._has_dead_letters:
            self._room.leave()
        else:
            self._done.put(message["ReceiptHandle"])

    def _give_back(self, receipt: Receipt, after_s: int) -> None:
        try:
            self._client.change_message_visibility(QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=after_s)
        except (BotoCoreError, ClientError) as error:
            log.warning("a message comes again only after %d s: %s", VISIBILITY_S, error)
        self._room.leave()

    def _delete(self) -> None:
        """Delete in tens until the stop, and until nothing is in flight any more."""
        while not (self._stop.is_set() and self._room.wait_until_empty(0)):
            if receipts := list(self._next_receipts()):
                self._delete_batch(receipts)

    def _next_receipts(self) -> Iterator[Receipt]:
        wait_s = 0.5
        for _ in range(BATCH):
            try:
                yield self._done.get(timeout=wait_s)
            except queue.Empty:
                return
            wait_s = 0.02

    def _delete_batch(self, receipts: list[Receipt]) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        try:
            answer = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
            for failure in answer.get("Failed", []):
                log.warning("a message that is done comes again: %s", failure.get("Message", failure["Code"]))
        except (BotoCoreError, ClientError) as error:
            log.warning("%d messages that are done come again, and are known then: %s", len(receipts), error)
            time.sleep(0.5)
        for _ in receipts:
            self._room.leave()

    def _redrives(self) -> bool:
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["RedrivePolicy"])
        except ClientError as error:
            if "NonExistentQueue" in error.response["Error"]["Code"] or "QueueDoesNotExist" in str(error):
                raise SettingsError(f"there is no queue {self._url}: correct --sqs") from error
            log.warning(
                "whether %s has dead letters cannot be asked, so refused messages are deleted: %s", self._url, error
            )
            return False
        except BotoCoreError as error:
            log.warning("the queue %s does not answer yet: %s", self._url, error)
            return False
        return "RedrivePolicy" in answer.get("Attributes", {})


def sqs_client(queue_url: str, *, endpoint_url: str | None, region: str | None) -> Any:
    """Return a client for the queue's own region and host.

    Raises:
        SettingsError: the URL is none, or nothing says the region.
    """
    host = urlsplit(queue_url).hostname
    if not host or not queue_url.startswith(("https://", "http://")):
        raise SettingsError(
            f"--sqs {queue_url!r} is no queue's URL, such as https://sqs.eu-west-1.amazonaws.com/1234/uploads"
        )
    found = _REGION.match(host)
    if found is None and endpoint_url is None:
        parts = urlsplit(queue_url)
        endpoint_url = f"{parts.scheme}://{parts.netloc}"  # an SQS other than AWS's
    region = (found[1] or found[2]) if found else region
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=5,
        read_timeout=POLL_S + 10,
        max_pool_connections=16,
        user_agent_extra="apf-protect",
    )
    try:
        return boto3.session.Session().client("sqs", endpoint_url=endpoint_url, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"no client for the queue {queue_url}: {error} (set AWS_REGION?)") from error
