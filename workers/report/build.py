"""Build the page of a batch. `producer.cli.report` loads this module by name: it brings image libraries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apf.recipe import Recipe
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoReport
from workers.errors import BadRequest, NotFound
from workers.execution.byte_budget import ByteBudget
from workers.execution.engine import photo_limits, shared_decoder
from workers.ledger.batch_ledger import Ledger
from workers.report.card import Card
from workers.report.compare_photo import BlindViewer, Viewer
from workers.report.output_files import Target
from workers.report.page import Scope, render
from workers.report.selection import measured, shown
from workers.report.single_file import embedded
from workers.status.batch_status import BatchMonitor
from workers.store import Store, open_store

if TYPE_CHECKING:
    from apf.protect.viewer import CpuEyes

#: An album of so many photos is one file, which can be sent and kept like a photo: about 10 MB, with originals 40. A
#: larger one keeps its pictures in a folder beside the page, so that a browser loads only those that are looked at.
SINGLE_FILE_PHOTOS = 50


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of a report."""

    with_originals: bool = False
    #: Photos whose faces are found anew and measured: each takes about a third of a second.
    measure: int = 200
    #: Photos on the page.
    limit: int = 5000


@dataclass(frozen=True)
class WrittenReport:
    """A page that was written."""

    page: Path
    #: Of the pictures; None where they are in the page itself.
    folder: Path | None
    photos: int
    measured: int
    size_bytes: int


def build(
    ledger: Ledger,
    batch_id: str,
    target: Target,
    asked: ReportOptions,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WrittenReport:
    """Look at every photo of a batch and write its page.

    Args:
        progress: told how many photos of how many are looked at.

    Raises:
        TargetError: the page cannot be written there.
        BadRequest: originals are asked for of a private batch.
        LedgerError, StoreError: the batch or its outputs cannot be read.
        ApfError: the detector cannot be loaded; `measure=0` does without.
    """
    watch = BatchMonitor(ledger, batch_id)
    summary = watch.poll()
    batch = summary.batch
    if batch.private and asked.with_originals:
        raise BadRequest("the photos of a private batch are with their owners: leave --with-originals away")
    target.check(apart=(batch.source, batch.destination))
    reports = watch.photos()
    chosen = shown(reports, asked.limit)
    keys = measured(chosen, 0 if batch.private else asked.measure)
    beside = len(chosen) > SINGLE_FILE_PHOTOS
    place = target.place if beside else lambda _, data: embedded(data)
    viewer = make_viewer(batch, asked, settings, look=bool(keys))
    records: list[dict[str, Any]] = []
    wanted = with_measure = 0
    try:
        for card in cards(viewer, chosen, keys, settings.read_threads):
            records.append(card.record(len(records) + 1, place))
            wanted += card.outcome in (Outcome.protected, Outcome.skipped) and bool(card.face_count)
            with_measure += card.measured
            progress(len(records), len(chosen))
        scope = Scope(
            shown=len(chosen),
            of=len(reports),
            measured=with_measure,
            unmeasured=max(0, wanted - with_measure),
            with_originals=asked.with_originals,
            beside=beside,
            private=batch.private,
        )
        target.publish(render(summary, records, scope))
    finally:
        target.discard()
    return WrittenReport(target.page, target.folder if beside else None, len(chosen), with_measure, target.size_bytes)


def cards(
    viewer: Viewer | BlindViewer, reports: Sequence[PhotoReport], measure: frozenset[str], threads: int
) -> Iterator[Card]:
    """Yield the photos' cards in order. Photos are decoded ahead of the one in hand, two a thread at most."""
    waiting = iter(reports)
    with ThreadPoolExecutor(threads, thread_name_prefix="album") as pool:

        def begun(count: int) -> list[Future[Card]]:
            photos = islice(waiting, count)
            return [pool.submit(viewer.card, photo, measure=photo.key in measure) for photo in photos]

        ahead = deque(begun(2 * threads))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(begun(1))
        finally:
            for future in ahead:
                future.cancel()


def make_viewer(batch: Batch, asked: ReportOptions, settings: Settings, *, look: bool) -> Viewer | BlindViewer:
    """Return what looks at the batch's photos, where they are here; without `look` no detector is loaded."""
    if batch.private:
        return BlindViewer(batch, open_store(batch.destination, s3=settings.s3))
    if settings.allowed_urls:  # a ledger in a shared bucket could name any source
        check_allowed(batch.source, settings.allowed, what="source")
    return Viewer(
        batch=batch,
        source=_source(batch, settings),
        destination=open_store(batch.destination, s3=settings.s3),
        decoder=shared_decoder(settings),
        limits=photo_limits(settings),
        eyes=_eyes(batch.recipe) if look else None,
        with_originals=asked.with_originals,
        budget=ByteBudget(settings.photo_buffer_bytes),
    )


def _source(batch: Batch, settings: Settings) -> Store | None:
    try:
        return open_store(batch.source, s3=settings.s3)
    except NotFound:
        return None


def _eyes(recipe: Recipe) -> CpuEyes:
    from apf.protect.viewer import CpuEyes  # noqa: PLC0415  ONNX Runtime loads where something is looked at

    # The probe of this installation measures all: numbers of older weights' batches compare with today's.
    return CpuEyes(recipe)
