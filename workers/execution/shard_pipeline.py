"""The pipeline of one shard: reading, the filter and writing overlap, with bytes in flight bounded.

A photo's way: reader thread (HEAD of the output, GET, decode) -> a lane (detect and filter: one with batches across
photos on a GPU; without, one for each core, with a photo at a time) -> writer thread (encode, PUT). Compressed bytes
are admitted by one budget, decoded photos by another; a holder of the first may wait for the second and never the other
way round, so they cannot lock each other up. Gradient files go the same way, by another engine.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from apf.errors import DeviceMemoryError, PhotoError
from apf.runtime.stage_clock import StageClock
from workers.access.output_claims import Outputs, SourceOf, check_original
from workers.config.settings import Settings
from workers.core.failure_codes import FailureCode, code_of
from workers.core.log_context import current_context, inherit_context
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport
from workers.errors import BadCredentials, Changed, NotFound, ObjectTooLarge, StoreError, StoreFull, StoreGone
from workers.execution.byte_budget import BudgetClosed, ByteBudget
from workers.execution.engine import Cost, Engine, Result
from workers.execution.jury_verdicts import jury_fields, refusal
from workers.store import Blob, ObjectInfo, Store
from workers.store.listing import Absent
from workers.store.output_metadata import (
    BATCH,
    FACES,
    OUTCOME,
    RECIPE,
    SOURCE,
    SOURCE_ETAG,
    WEAK,
    carries,
    source_mark,
    weak_faces,
)
from workers.telemetry import metrics

logger = logging.getLogger(__name__)

#: Raised by a write, these are of the destination and not of the photo: no other photo can be written either.
DESTINATION_GONE = (StoreFull, StoreGone, BadCredentials)

#: A batch of the filter takes no longer than that, where it holds several photos; and the size of a shard's first one.
BATCH_S, FIRST_BATCH_MEGAPIXELS = 2.0, 4.0


class ShardPreempted(Exception):
    """Raised when a bulk shard is preempted by an upload; what it has written stays."""


@dataclass(frozen=True)
class Loaded:
    """A decoded photo, or gradient file, holding its share of the photo budget."""

    ref: PhotoRef
    #: As the engine has it.
    photo: Any
    weight: Cost
    bytes_in: int
    #: The output that it replaces.
    over: ObjectInfo | None


@dataclass
class ShardRunner:
    """Protects the photos of one shard. One instance runs one shard once."""

    batch: Batch
    source: Store
    destination: Store
    settings: Settings
    #: Called with the first photo that needs it; may take seconds.
    engine: Callable[[], Engine]
    #: Asked between batches of the filter: whether the rest should wait for something more urgent.
    overtaken: Callable[[], bool] = lambda: False
    #: Keys that are known to have no output yet, so that none is asked for.
    absent: Absent | None = None
    #: For outputs that do not say themselves of which photo they are.
    source_of: SourceOf = lambda _batch_id: None
    clock: StageClock = field(default_factory=StageClock)

    def __post_init__(self) -> None:
        self._reading = ByteBudget(self.settings.read_buffer_bytes)
        self._photos = ByteBudget(self.settings.photo_buffer_bytes)
        self._ready: queue.SimpleQueue[Loaded | None] = queue.SimpleQueue()
        self._reports: list[PhotoReport] = []
        self._lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._failure: BaseException | None = None
        self._outputs = Outputs(self.batch, self.destination, self.absent, self.source_of)
        #: Items that no lane of the filter has taken yet.
        self._left = 0
        #: As the engine has it, once it is loaded.
        self._lanes = 1
        #: Of the filter's last batch; 0 before the first.
        self._megapixels_per_s = 0.0

    def run(self, refs: Sequence[PhotoRef]) -> list[PhotoReport]:
        """Bring every photo to an outcome; the reports come in the order of `refs`.

        Raises:
            ApfError: the filter itself cannot be loaded, so that no photo can be protected.
        """
        readers, writers = _pool("read", self.settings.read_threads), _pool("write", self.settings.write_threads)
        try:
            for ref in refs:
                readers.submit(self._read, ref)
            self._left = len(refs)
            self._filter_all(writers)
            writers.shutdown(wait=True)
        finally:
            self._reading.close()
            self._photos.close()
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True, cancel_futures=True)
        if self._failure:
            raise self._failure
        return in_order(self._reports, refs)

    def stop(self, reason: BaseException) -> None:
        """Give the shard up, from any thread: what the filter has done is written, then `run` raises `reason`."""
        self._failure = self._failure or reason
        self._reading.close()
        self._photos.close()
        for _ in range(self._lanes):
            self._ready.put(None)

    @property
    def reports(self) -> list[PhotoReport]:
        """The outcomes so far, in the order of their completion."""
        with self._lock:
            return list(self._reports)

    # Reading threads

    def _read(self, ref: PhotoRef) -> None:
        """Put exactly one item into the queue: the photo, or None once its report is written."""
        loaded = None
        try:
            loaded = self._load(ref)
        except BudgetClosed:
            pass
        except Exception as error:  # every photo must end with an outcome
            self._fail(ref, error)
        finally:
            self._ready.put(loaded)

    def _load(self, ref: PhotoRef) -> Loaded | None:
        there = self._outputs.found(ref)
        if done := already_done(ref, self.batch, there):
            self._report(done)
            return None
        self._outputs.check_free(ref, there)
        self._reading.acquire(ref.size)
        try:
            with self.clock.stage("read"):
                blob = self.source.get(ref.key, etag=ref.etag, max_bytes=self.settings.max_photo_bytes)
            metrics.add("apf_read_bytes_total", len(blob.data))
            if not self.batch.private and not _may_be_photo(ref.key, blob.data):
                self._report(_report(ref, Outcome.skipped, reason="not a photo"))
                return None
            check_original(ref, self.batch, blob.info)
            return self._decode(ref, blob, over=there)
        finally:
            self._reading.release(ref.size)

    def _decode(self, ref: PhotoRef, blob: Blob, *, over: ObjectInfo | None) -> Loaded:
        engine = self._loaded_engine()
        weight = engine.estimate_cost(blob.data)
        self._photos.acquire(weight.held)
        try:
            with self.clock.stage("decode"):
                photo = engine.decode(blob.data)
        except BaseException:
            self._photos.release(weight.held)
            raise
        return Loaded(ref, photo, weight, len(blob.data), over)

    def _loaded_engine(self) -> Engine:
        with self._engine_lock:
            try:
                return self.engine()
            except BaseException as error:
                self._failure = self._failure or error
                raise

    # The filter's threads: this one, and others where the engine works on several photos side by side

    def _filter_all(self, writers: ThreadPoolExecutor) -> None:
        with ExitStack() as stack:
            others: list[Future[None]] = []
            try:
                while photos := self._next_batch():
                    if not others and self._take_lanes() > 1:
                        pool = stack.enter_context(_pool("filter", self._lanes - 1))
                        others = [pool.submit(self._lane, writers) for _ in range(self._lanes - 1)]
                    self._filter_batch(photos, writers)
                for other in others:
                    other.result()
            except BaseException as error:
                self.stop(error)  # the others end after their photo
                raise

    def _take_lanes(self) -> int:
        self._lanes = self.engine().lanes
        return self._lanes

    def _lane(self, writers: ThreadPoolExecutor) -> None:
        while photos := self._next_batch():
            self._filter_batch(photos, writers)

    def _filter_batch(self, photos: list[Loaded], writers: ThreadPoolExecutor) -> None:
        work = sum(photo.weight.work for photo in photos)
        if self._lanes == 1:
            metrics.observe("apf_batch_fill_ratio", work / self._batch_megapixels())
        started = time.monotonic()
        self._filter(photos, writers)
        self._megapixels_per_s = work / max(time.monotonic() - started, 1e-6)
        if self._left and self.overtaken():
            self.stop(ShardPreempted("an upload waits"))

    def _batch_megapixels(self) -> float:
        """As many as the filter does in `BATCH_S`, so that uploads and stops are seen to soon; few at first."""
        within_s = BATCH_S * self._megapixels_per_s if self._megapixels_per_s else FIRST_BATCH_MEGAPIXELS
        return min(self.settings.batch_megapixels, within_s)

    def _next_batch(self) -> list[Loaded]:
        """Wait for a photo; where there is one lane, take what else is ready, up to the batch's megapixels.

        None are left, or the shard is given up, where it is empty.
        """
        photos: list[Loaded] = []
        most = self._batch_megapixels() if self._lanes == 1 else 0.0
        while not self._failure and (not photos or sum(photo.weight.work for photo in photos) < most):
            if not self._claim():
                break
            try:
                item = self._ready.get(block=not photos)
            except queue.Empty:
                self._claim(-1)
                break
            if item:
                photos.append(item)
        return photos

    def _claim(self, items: int = 1) -> bool:
        """Take one of the items that are still to come from the reading threads; whether there is one."""
        with self._lock:
            if items > self._left:
                return False
            self._left -= items
            return True

    def _filter(self, photos: list[Loaded], writers: ThreadPoolExecutor) -> None:
        engine = self.engine()
        try:
            protected = engine.protect([item.photo for item in photos], self.clock)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            if len(photos) == 1:
                self._photos.release(photos[0].weight.held)
                self._fail(photos[0].ref, error)
                return
            # One photo must not take its neighbours with it.
            for item in photos:
                self._filter([item], writers)
            return
        for item, result in zip(photos, protected, strict=True):
            writers.submit(self._write, item, result)

    # Writing threads

    def _write(self, item: Loaded, result: Result) -> None:
        try:
            self._report(self._publish(item, result))
        except DESTINATION_GONE as error:
            self._report(_report(item.ref, Outcome.failed, reason=str(error), code=code_of(error)))
            self.stop(error)
        except Exception as error:  # every photo must end with an outcome
            self._fail(item.ref, error)
        finally:
            self._photos.release(item.weight.held)

    def _publish(self, item: Loaded, result: Result) -> PhotoReport:
        outcome = Outcome(result.outcome)
        facts = {"faces": len(result.faces), "megapixels": item.weight.megapixels, "bytes_in": item.bytes_in}
        if outcome is Outcome.no_face and self.batch.no_face == "skip":
            return _report(item.ref, outcome, reason="left out: --no-face skip", **facts)
        said = jury_fields(result)
        if reason := refusal(said["weak"], len(result.faces), self.batch):
            return _report(item.ref, Outcome.failed, reason=reason, code=FailureCode.weak, **said)
        with self.clock.stage("encode"):
            data = self.engine().encode(result)
        metadata = {
            SOURCE: source_mark(self.batch.source, item.ref.key),
            SOURCE_ETAG: item.ref.etag,
            RECIPE: self.batch.recipe.id,
            BATCH: self.batch.id,
            OUTCOME: outcome.value,
            FACES: str(len(result.faces)),
            **({WEAK: str(said["weak"])} if said["weak"] else {}),
        }

        def put(over: str | None) -> ObjectInfo:
            content_type = item.weight.content_type
            return self.destination.put(item.ref.key, data, content_type=content_type, metadata=metadata, over=over)

        with self.clock.stage("write"):
            self._outputs.write(item.ref, put, item.over)
        metrics.add("apf_written_bytes_total", len(data))
        note = "; ".join(getattr(item.photo, "notes", ())) or None
        if note:
            logger.warning("published without some of its metadata: %s", note)
        return _report(item.ref, outcome, bytes_out=len(data), note=note, **facts, **said)

    # Reports

    def _report(self, report: PhotoReport) -> None:
        with self._lock:
            self._reports.append(report)

    def _fail(self, ref: PhotoRef, error: Exception) -> None:
        if error is self._failure:
            return
        reason, transient = explain(error)
        if not isinstance(error, (PhotoError, StoreError)):
            logger.exception("unexpected error while a photo was processed", exc_info=error)
        self._report(_report(ref, Outcome.failed, reason=reason, code=code_of(error), transient=transient))


def _pool(name: str, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        threads, thread_name_prefix=name, initializer=inherit_context, initargs=(current_context(),)
    )


def in_order(reports: Sequence[PhotoReport], refs: Sequence[PhotoRef]) -> list[PhotoReport]:
    """Return the reports in the order of the plan."""
    order = {ref.key: index for index, ref in enumerate(refs)}
    return sorted(reports, key=lambda report: order[report.key])


def already_done(ref: PhotoRef, batch: Batch, info: ObjectInfo | None) -> PhotoReport | None:
    """Return the report of a photo whose output, as it was found, already carries this source and this recipe."""
    if not info or not carries(info.metadata, ref.etag, batch.recipe.id):
        return None
    with suppress(ValueError):  # as below
        weak, faces = weak_faces(info.metadata), int(info.metadata.get(FACES, "0"))
        if reason := refusal(weak, faces, batch, is_there=True):
            return _report(ref, Outcome.failed, reason=reason, code=FailureCode.weak, weak=weak)
    if info.metadata.get(BATCH) != batch.id:
        return _report(ref, Outcome.skipped, reason="already protected", bytes_out=info.size)
    # An earlier attempt of this very batch wrote it: its outcome counts, not "skipped".
    with suppress(ValueError):  # metadata that no worker wrote: protect it anew
        return _own_report(ref, info)
    return None


def explain(error: Exception) -> tuple[str, bool]:
    """Why a photo failed, in words for its owner, and whether a later try may help."""
    match error:
        case Changed():
            return "changed while the batch ran: run the command again to protect the new version", False
        case NotFound() if not isinstance(error, StoreGone):
            return "deleted while the batch ran", False
        case PhotoError() | ObjectTooLarge():
            cure = ": raise APF_MAX_PHOTO_BYTES" if isinstance(error, ObjectTooLarge) else ""
            return f"{error}{cure}", False
        case StoreError() | DeviceMemoryError():
            return str(error), error.transient
        case MemoryError():
            return "out of memory: lower APF_PHOTO_BUFFER_BYTES or APF_MAX_PHOTO_PIXELS", False
        case _:
            return f"unexpected {type(error).__name__}: {error}", False


def _own_report(ref: PhotoRef, info: ObjectInfo) -> PhotoReport:
    faces = info.metadata.get(FACES, "0")
    outcome = Outcome(info.metadata.get(OUTCOME, Outcome.protected.value))
    weak = weak_faces(info.metadata)
    return _report(ref, outcome, faces=int(faces), weak=weak, bytes_in=ref.size, bytes_out=info.size)


def _may_be_photo(key: str, data: bytes) -> bool:
    """Return whether it is a photo: a name with a suffix was chosen by the planner; one without is a photo only if its
    bytes say so.
    """
    if "." in key.rsplit("/", 1)[-1]:
        return True
    from apf.photo import looks_like_photo  # noqa: PLC0415  image libraries load with the first photo

    return looks_like_photo(data)


def _report(ref: PhotoRef, outcome: Outcome, **facts: object) -> PhotoReport:
    return PhotoReport.model_validate({"key": ref.key, "etag": ref.etag, "outcome": outcome, **facts})
