"""Send shards to the queues, and read the queues' state. A message names its shard; all else lies in the ledger."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from workers.broker.app import EMBEDDED_BROKER
from workers.broker.queue_state import QueueSnapshot
from workers.broker.queues import TENANTS, all_queues, chosen, occupant, queue_of
from workers.core.records import INTERACTIVE, Batch, Lane, ShardJob
from workers.core.task_names import CALLBACK, PLAN, TASK
from workers.errors import JobError, WorkerError
from workers.telemetry.redaction import masked

#: A key in Redis, under the prefix: that a worker gives way to an upload.
GIVEN_WAY = "apf-given-way"
#: `Broker.queue_state` reads the queue no more often.
GOOD_FOR_S = 2.0
#: In that time one worker gives way, and takes the upload.
GIVE_WAY_EVERY_S = 2
#: Connections of one app that are asked something at the same moment, and how a lost one is made anew: for six seconds.
MOST_CONNECTIONS = 1000
_RETRIES = Retry(ExponentialBackoff(cap=2, base=0.2), 5, supported_errors=(RedisConnectionError, ConnectionError))

#: Of each app the client, the prefix of its keys, and the Kombu connection that keeps the client's pool open.
_clients: WeakKeyDictionary[Celery, tuple[Redis, str, Any]] = WeakKeyDictionary()
_keeping = threading.Lock()


class BrokerError(WorkerError):
    """Raised when the queue does not answer or refuses. The batch stays in the ledger: `apf resume` sends it again."""

    transient = True


class Broker:
    """The queue of an app. Tasks are sent by their names, so that the worker's code is not loaded here.

    Every method raises BrokerError when Redis cannot be reached after the app's bounded retries, or refuses.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._state: QueueSnapshot | None = None
        self._read_at = 0.0

    @property
    def embedded(self) -> bool:
        """Whether the worker runs in this process: no other plans a batch or delivers a callback."""
        return bool(self._app.conf.broker_url == EMBEDDED_BROKER)

    def send(self, job: ShardJob) -> None:
        """Have a worker run a shard."""
        self._send(TASK, job.encode(), job.queue)

    def plan(self, batch_url: str, queue: str = INTERACTIVE) -> None:
        """Have a worker plan a batch for some seconds and send its shards."""
        self._send(PLAN, batch_url, queue)

    def callback(self, batch_url: str) -> None:
        """Have a worker deliver the callback of a batch that is done."""
        self._send(CALLBACK, batch_url, INTERACTIVE)

    def queue_state(self) -> QueueSnapshot:
        """Return what the queue holds, as of the last `GOOD_FOR_S`: a pass over many batches asks once."""
        if self._state is None or time.monotonic() - self._read_at > GOOD_FOR_S:
            self._state, self._read_at = queue_snapshot(self._app), time.monotonic()
        return self._state

    def choose_queue(self, lane: Lane, tenant: str) -> str:
        """As the function `choose_queue`."""
        return choose_queue(self._app, lane, tenant)

    def keep_row(self, batch: Batch) -> None:
        """Note whose row the batch's queue is in, where Redis does not know it any more: the tenant's weight counts."""
        lane, _, rest = queue_of(batch).partition(".")
        if rest and not self.embedded:
            with _client(self._app) as (client, prefix):
                client.hsetnx(f"{prefix}{TENANTS}.{lane}", str(int(rest.partition(".")[0])), occupant(batch.tenant))

    def _send(self, task: str, argument: object, queue: str) -> None:
        with explained(self._app):
            self._app.send_task(task, args=[argument], queue=queue)


def choose_queue(app: Celery, lane: Lane, tenant: str) -> str:
    """Return the queue for a new batch of this tenant: in a row of its own, where one is free, and there the emptiest.

    Two producers that choose in the same moment may choose the same one, which costs fairness and nothing else.

    Raises:
        BrokerError: Redis does not answer, or refuses.
    """
    if app.conf.broker_url == EMBEDDED_BROKER:
        return lane
    who = occupant(tenant)
    with _client(app) as (client, prefix):
        rows = {int(row): name.decode() for row, name in client.hgetall(f"{prefix}{TENANTS}.{lane}").items()}
        lengths = _lengths(client, prefix, all_queues([lane]))
        row, queue, is_own = chosen(lane, who, rows, lengths)
        if is_own:
            client.hset(f"{prefix}{TENANTS}.{lane}", str(row), who)
    return queue


def should_yield(app: Celery, queues: Sequence[str]) -> bool:
    """Return whether an upload waits in one of these queues, that this worker should see to before it goes on.

    One worker at a time is told so.
    """
    if app.conf.broker_url == EMBEDDED_BROKER:
        return False
    try:
        with _client(app) as (client, prefix):
            lengths = _lengths(client, prefix, queues)
            if not any(lengths.values()):
                return False
            return bool(client.set(f"{prefix}{GIVEN_WAY}", b"1", nx=True, ex=GIVE_WAY_EVERY_S))
    except BrokerError:
        return False


def queue_snapshot(app: Celery) -> QueueSnapshot:
    """Return what Redis holds: messages by queue, and shards given to workers and not acknowledged.

    Raises:
        BrokerError: it does not answer, or refuses.
    """
    if app.conf.broker_url == EMBEDDED_BROKER:
        return _embedded_snapshot(app)
    with _client(app) as (client, prefix):
        queued = _lengths(client, prefix, all_queues())
        taken = tuple(_decoded(json.loads(message)[0] for _, message in client.hscan_iter(f"{prefix}unacked")))
    return QueueSnapshot(queued=queued, taken=taken, jobs=lambda queues: held(app, queues))


def held(app: Celery, queues: Iterable[str]) -> list[ShardJob]:
    """Return the shards whose messages lie in these queues; what is none is passed over. Raises BrokerError."""
    with _client(app) as (client, prefix):
        return [job for name in queues for job in _decoded(client.lrange(f"{prefix}{name}", 0, -1))]


def _embedded_snapshot(app: Celery) -> QueueSnapshot:
    """As `queue_snapshot`, where the worker runs in this process."""
    from celery.worker import state  # noqa: PLC0415  much to load, and here it is loaded already

    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        queued = {name: int(channel._size(name)) for name in all_queues()}
    jobs = []
    for request in list(state.reserved_requests):
        with suppress(JobError, LookupError, TypeError):
            jobs.append(ShardJob.decode(request.args[0]))
    return QueueSnapshot(queued=queued, taken=tuple(jobs))


@contextmanager
def _client(app: Celery) -> Iterator[tuple[Any, str]]:
    """Provide the app's client, which any number of threads may use, and the prefix of its keys, which Kombu's own puts
    before some commands alone.

    Raises:
        BrokerError: Redis does not answer, or refuses.
    """
    with explained(app):
        if app not in _clients:
            opened = _opened(app)
            with _keeping:  # of two that opened one at the same moment both take the first
                _clients.setdefault(app, opened)
        client, prefix, _ = _clients[app]
        yield client, prefix


def _opened(app: Celery) -> tuple[Redis, str, Any]:
    """Open a client with the pool of a Kombu connection of its own, as Kombu knows all kinds of URLs."""
    connection = app.connection_for_read(transport_options={"max_connections": MOST_CONNECTIONS})
    channel: Any = connection.default_channel
    client = Redis(connection_pool=channel.pool)
    client.set_retry(_RETRIES)
    return client, channel.global_keyprefix, connection


def _lengths(client: Any, prefix: str, queues: Sequence[str]) -> dict[str, int]:
    with client.pipeline(transaction=False) as pipe:
        for name in queues:
            pipe.llen(f"{prefix}{name}")
        return dict(zip(queues, pipe.execute(), strict=True))


def _decoded(messages: Iterable[Any]) -> Iterator[ShardJob]:
    for message in messages:
        with suppress(JobError, ValueError, KeyError, TypeError, IndexError):
            record = message if isinstance(message, dict) else json.loads(message)
            if record["headers"]["task"] == TASK:
                yield ShardJob.decode(json.loads(base64.b64decode(record["body"]))[0][0])


def queue_fault(error: BaseException, prefix: str) -> str:
    """Return what is wrong with the queue, and its cure, from what Redis or the way to it said.

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
def explained(app: Celery) -> Iterator[None]:
    """Turn what Redis or the way to it says into a BrokerError."""
    try:
        yield
    except (OperationalError, RedisError, OSError) as error:
        prefix = app.conf.broker_transport_options.get("global_keyprefix", "")
        raise BrokerError(f"the queue at APF_BROKER_URL {queue_fault(error, prefix)}") from error
