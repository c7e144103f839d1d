"""Sending shards to the queue. A message names its shard; what it is to do lies in the ledger."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError

from workers.app import BULK, TASK
from workers.errors import WorkerError
from workers.job import ShardJob


class BrokerError(WorkerError):
    """Raised when the queue does not take a message. The batch stays in the ledger: `apf resume` sends it again."""

    transient = True


class Sender:
    """Sends shards by the task's name, so that the worker's code is not loaded here."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, job: ShardJob) -> None:
        """Raises BrokerError when the broker cannot be reached after the app's bounded retries."""
        try:
            self._app.send_task(TASK, args=[job.encode()], queue=BULK)
        except (OperationalError, OSError) as error:
            raise BrokerError(
                f"the queue at APF_BROKER_URL does not answer ({error}): start Redis or correct the URL"
            ) from error
