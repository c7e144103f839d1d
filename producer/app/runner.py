"""Runner: protects one album after the other, as `apf protect` does, with the worker inside this process."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass

from apf.errors import ApfError
from producer.app.albums import Album, Albums
from producer.app.words import told
from workers.access.sources import find_source
from workers.batches.create import BatchOptions, check_recipe, find_ledger, new_batch, write_alone
from workers.batches.rescue import periodic_rescuer, plan_and_send, resume
from workers.batches.retry import retry
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.broker.embedded import EmbeddedWorker, embedded_worker
from workers.config.settings import Settings
from workers.errors import BadRequest, WorkerError
from workers.ledger.batch_ledger import Ledger, new_batch_id
from workers.ledger.lifecycle import cancel, close
from workers.status.batch_status import BatchMonitor, BatchSummary

log = logging.getLogger(__name__)

#: Between two looks at the batch.
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Job:
    album_id: str
    #: Whether failed photos are tried again.
    again: bool = False


class Runner:
    """Protects albums in a thread of its own; what it cannot do is kept as a reason for people."""

    def __init__(self, albums: Albums, settings: Settings) -> None:
        self._albums, self._settings = albums, settings
        self._celery = make_app(settings)
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._waiting: set[str] = set()
        #: Albums that were stopped, perhaps before their batch was there.
        self._stopped: set[str] = set()
        self._lock = threading.RLock()
        #: By album: how far its batch is, and why it stopped.
        self.progress: dict[str, BatchSummary] = {}
        self._errors: dict[str, str] = {}
        #: Why no album can be protected any more.
        self._broken = ""

    def start(self) -> None:
        """Begin, and go on with what an earlier process was killed at."""
        for album in reversed(list(self._albums.all())):
            summary = self.look(album)
            if album.batch and (summary is None or not (summary.done or summary.stopped)):
                self.add(album.id)
        threading.Thread(target=self._run, name="runner", daemon=True).start()

    def add(self, album_id: str, *, again: bool = False) -> None:
        """Have an album protected, unless it waits already."""
        with self._lock:
            if album_id in self._waiting:
                return
            self._waiting.add(album_id)
            self._stopped.discard(album_id)
        self._errors.pop(album_id, None)
        self._jobs.put(Job(album_id, again))

    def error(self, album_id: str) -> str:
        """Return why an album's work has stopped; empty where it has not."""
        return self._errors.get(album_id, self._broken if self.is_at(album_id) else "")

    def is_at(self, album_id: str) -> bool:
        """Return whether an album is being protected, or waits for it."""
        return album_id in self._waiting

    def look(self, album: Album) -> BatchSummary | None:
        """Return how far an album's batch is; None where it is not in the ledger yet."""
        if album.id in self.progress and self.is_at(album.id):
            return self.progress[album.id]
        ledger = self._ledger(album)
        return BatchMonitor(ledger, album.batch).poll() if album.batch and ledger.has_batch(album.batch) else None

    def begin(self, album: Album, recipe: str) -> None:
        """Have an album protected anew. Its batch has an id before it is there, so that no kill makes a second one.

        A button that is pressed twice begins once.

        Raises:
            BadRequest: it is being protected otherwise.
        """
        with self._lock:
            if self.is_at(album.id):
                now = self._albums.get(album.id)
                if now.batch and now.recipe == recipe:
                    return
                raise BadRequest("This album is still being protected: wait a moment, or press “Stop” first")
            self._albums.change(album.id, recipe=recipe, batch=new_batch_id(), chosen=True, confirmed=False)
            self.add(album.id)

    def stop(self, album: Album) -> None:
        """Have an album's batch end early; what is done stays, and `add` goes on with it."""
        self._stopped.add(album.id)
        ledger = self._ledger(album)
        if album.batch and ledger.has_batch(album.batch):
            summary = BatchMonitor(ledger, album.batch).poll()
            if not summary.done:
                cancel(ledger, summary.batch, self._settings)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # else the page would wait for ever
            log.exception("the worker has ended")
            self._broken = f"The program cannot work any more ({error}): end it, and start it again"

    def _work(self) -> None:
        sender = Broker(self._celery)
        with embedded_worker(self._celery) as worker:
            while True:
                job = self._jobs.get()
                try:
                    self._protect(job, sender, worker)
                except Exception as error:  # one album must not end the thread for all others
                    if not isinstance(error, (WorkerError, ApfError)):
                        log.exception("album %s stopped, in a way that nobody foresaw", job.album_id)
                    self._errors[job.album_id] = told(error)
                finally:
                    with self._lock:
                        self._waiting.discard(job.album_id)
                    self.progress.pop(job.album_id, None)

    def _protect(self, job: Job, sender: Broker, worker: EmbeddedWorker) -> None:
        album = self._albums.get(job.album_id)
        if album.id in self._stopped:
            return
        ledger = self._ledger(album)
        self._send(ledger, album, job, sender)
        if album.id in self._stopped:  # meanwhile, when there was no batch to be stopped yet
            self.stop(album)
        watch = BatchMonitor(ledger, album.batch)
        rescue = periodic_rescuer(ledger, album.batch, sender, self._settings)
        while True:
            worker.check()
            rescue()
            summary = self.progress[album.id] = watch.poll(running=True)
            if summary.done or summary.stopped:
                break
            worker.wait(LOOK_EVERY_S)
        if summary.done:
            close(ledger, summary.batch, self._settings)

    def _send(self, ledger: Ledger, album: Album, job: Job, sender: Broker) -> None:
        if not ledger.has_batch(album.batch):
            source = find_source(str(self._albums.source(album)), self._settings)
            asked = BatchOptions(recipe=album.recipe)
            destination = str(self._albums.destination(album))
            ledger, batch = new_batch(source.url, destination, asked, self._settings, batch_id=album.batch)
            write_alone(ledger, batch, self._settings)
            plan_and_send(ledger, batch.id, sender, self._settings)
        elif job.again:
            retry(ledger, album.batch, sender, self._settings)
        else:
            check_recipe(ledger, ledger.read_batch(album.batch), self._settings)
            resume(ledger, album.batch, sender, self._settings)

    def _ledger(self, album: Album) -> Ledger:
        self._albums.destination(album).mkdir(exist_ok=True)
        return find_ledger(str(self._albums.destination(album)), self._settings)
