"""Sending shards to the queue, and what waits there. A message names its shard; what it is to do lies in the ledger."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError

from workers.app import BULK, EMBEDDED_BROKER, INTERACTIVE, TASK
from workers.errors import JobError, WorkerError
from workers.job import ShardJob
from workers.logs import masked
from workers.reconcile import Waiting


class BrokerError(WorkerError):
    """Raised when the queue does not answer or refuses. The batch stays in the ledger: `apf resume` sends it again."""

    transient = True


class Sender:
    """Sends shards by the task's name, so that the worker's code is not loaded here."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, job: ShardJob) -> None:
        """Raises BrokerError when the broker cannot be reached after the app's bounded retries, or refuses."""
        with _explained(self._app):
            self._app.send_task(TASK, args=[job.encode()], queue=BULK)


def waiting(app: Celery) -> Waiting:
    """What Redis holds: messages in the queues, and shards given to workers and not acknowledged.

    Raises:
        BrokerError: it does not answer, or refuses.
    """
    if app.conf.broker_url == EMBEDDED_BROKER:
        return _waiting_here(app)
    with _explained(app), app.connection_for_read() as connection:
        channel: Any = connection.default_channel  # kombu's own, which knows key prefixes and priorities
        queued = sum(channel._size(name) for name in (INTERACTIVE, BULK))
        with channel.conn_or_acquire() as client:
            # Shards alone: who asks may be a task itself, and not be acknowledged yet.
            key = channel.global_keyprefix + channel.unacked_key  # kombu puts it before simple commands alone
            taken = sum(TASK.encode() in message for _, message in client.hscan_iter(key))
        return Waiting(queued=queued, taken=taken, jobs=lambda: held(app))


def held(app: Celery) -> list[ShardJob]:
    """What `waiting` counts, message by message; raises BrokerError."""
    with _explained(app):
        return list(_jobs(app))


def _waiting_here(app: Celery) -> Waiting:
    """As `waiting`, where the worker runs in this process."""
    from celery.worker import state  # noqa: PLC0415  much to load, and here it is loaded already

    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        queued = sum(channel._size(name) for name in (INTERACTIVE, BULK))
    return Waiting(queued=queued, taken=len(state.reserved_requests))


def _jobs(app: Celery) -> Iterator[ShardJob]:
    """The shards of all messages in Redis; what is none is passed over."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        with channel.conn_or_acquire() as client:
            prefix = channel.global_keyprefix
            for name in (INTERACTIVE, BULK):
                for step in channel.priority_steps:
                    yield from _decoded(client.lrange(prefix + channel._q_for_pri(name, step), 0, -1))
            taken = (message for _, message in client.hscan_iter(prefix + channel.unacked_key))
            yield from _decoded(json.loads(message)[0] for message in taken)


def _decoded(messages: Iterable[Any]) -> Iterator[ShardJob]:
    for message in messages:
        with suppress(JobError, ValueError, KeyError, TypeError, IndexError):
            record = message if isinstance(message, dict) else json.loads(message)
            if record["headers"]["task"] == TASK:
                yield ShardJob.decode(json.loads(base64.b64decode(record["body"]))[0][0])


def queue_fault(error: BaseException, prefix: str) -> str:
    """What is wrong with the queue, and its cure, from what Redis or the way to it said.

    Args:
        error: an error of redis-py, or Kombu's around one.
        prefix: APF_BROKER_KEY_PREFIX.
    """
    cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
    said = masked(str(error))
    match cause:
        case AuthenticationError():
            return f"does not accept the login ({said}): correct user and password in APF_BROKER_URL"
        case NoPermissionError():
            return (f"lets this user do too little ({said}): give its ACL the keys ~{prefix}* and the commands that "
                    "SECURITY.md lists, or set APF_BROKER_KEY_PREFIX to the prefix that it may use")  # fmt: skip
        case OutOfMemoryError():
            return f"is full ({said}): raise its maxmemory, or let workers empty it"
        case _:
            return f"does not answer ({said}): start Redis or correct the URL"


@contextmanager
def _explained(app: Celery) -> Iterator[None]:
    """Turns what Redis or the way to it says into a BrokerError."""
    try:
        yield
    except (OperationalError, RedisError, OSError) as error:
        prefix = app.conf.broker_transport_options.get("global_keyprefix", "")
        raise BrokerError(f"the queue at APF_BROKER_URL {queue_fault(error, prefix)}") from error
