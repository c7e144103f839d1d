"""Heartbeat of a worker: its parent writes `workers.broker.presence` to Redis until it stops or dies, and reads the
weights of tenants there.

Celery's signals start it; a worker inside the `apf` command sends none of them. It has a thread of its own: a pool
without processes blocks the worker's own clock while a shard runs.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from celery.signals import worker_ready

from workers.broker.presence import BEAT_S, can_be_asked, note
from workers.broker.queues import FairQueueOrder
from workers.broker.weights import row_weights
from workers.config.redis_url import open_redis
from workers.config.settings import Settings, load_settings

logger = logging.getLogger(__name__)

#: A Redis that is down does not hold up a worker's end for longer.
LAST_WORD_S = 5.0


class Heartbeat:
    """Says that a worker listens, and asks whose turns are how many, every few seconds until `stop`."""

    def __init__(self, worker: str, queues: Callable[[], Iterable[str]], settings: Settings) -> None:
        """`queues`: those that it listens to now; remote control may change them."""
        self._worker, self._queues, self._settings = worker, queues, settings
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say that it stops."""
        self._ended.set()
        self._thread.join(LAST_WORD_S)

    def _beat(self) -> None:
        options = {"socket_timeout": LAST_WORD_S, "socket_connect_timeout": LAST_WORD_S}
        with closing(open_redis(str(self._settings.broker_url), self._settings, **options)) as client:
            ended = False
            while not ended:
                self._say(client, stopped=False)
                self._weigh(client)
                ended = self._ended.wait(BEAT_S)
            self._say(client, stopped=True)

    def _say(self, client: Any, *, stopped: bool) -> None:
        try:
            note(client, self._settings.broker_key_prefix, self._worker, self._queues(), stopped=stopped)
        except Exception as error:  # a worker that works must not be taken for gone
            logger.debug("not said that this worker listens: %s", error)

    def _weigh(self, client: Any) -> None:
        try:
            FairQueueOrder.weights = row_weights(client, self._settings.broker_key_prefix)
        except Exception as error:  # those from before go on
            logger.debug("tenants' weights are not known: %s", error)


@worker_ready.connect
def begin(sender: Any = None, **_: object) -> None:
    """In the parent, once it takes messages."""
    settings = load_settings()
    if can_be_asked(settings):
        queues = sender.app.amqp.queues
        heartbeat = Heartbeat(str(sender.hostname), lambda: list(queues.consume_from), settings)
        # Celery has no signal of a cold shutdown's end. A worker that is killed says nothing, and is missed.
        atexit.register(heartbeat.stop)
