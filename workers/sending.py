"""Sending shards to the queue, and what waits there. A message names its shard; what it is to do lies in the ledger."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from workers.app import BULK, INTERACTIVE, TASK
from workers.errors import WorkerError
from workers.job import ShardJob
from workers.reconcile import Waiting


class BrokerError(WorkerError):
    """Raised when the queue does not answer. The batch stays in the ledger: `apf resume` sends it again."""

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
            raise _broker_error(error) from error


def waiting(app: Celery) -> Waiting:
    """What Redis holds: messages in the queues, and shards given to workers and not acknowledged.

    Raises:
        BrokerError: it does not answer.
    """
    try:
        with app.connection_for_read() as connection:
            channel: Any = connection.default_channel  # kombu's own, which knows key prefixes and priorities
            queued = sum(channel._size(name) for name in (INTERACTIVE, BULK))
            with channel.conn_or_acquire() as client:
                # Shards alone: who asks may be a task itself, and not be acknowledged yet.
                key = channel.global_keyprefix + channel.unacked_key  # kombu puts it before simple commands alone
                taken = sum(TASK.encode() in message for _, message in client.hscan_iter(key))
            return Waiting(queued=queued, taken=taken)
    except (OperationalError, OSError) as error:
        raise _broker_error(error) from error


def _broker_error(error: Exception) -> BrokerError:
    return BrokerError(f"the queue at APF_BROKER_URL does not answer ({error}): start Redis or correct the URL")
