"""Compare one photo's output with its source."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apf.errors import PhotoError
from apf.faces.alignment import Face, align, alignment
from apf.photo import Limits, Photo
from workers.core.records import Batch, Outcome, PhotoReport
from workers.decoding.decoder_pool import Decoder
from workers.errors import BadCredentials, Changed, NotFound, StoreError, StoreGone, StoreUnavailable
from workers.execution.byte_budget import ByteBudget
from workers.report import thumbnails
from workers.report.advice import cure
from workers.report.card import Card, FaceCard
from workers.report.published_objects import Output, published
from workers.store import Store

if TYPE_CHECKING:
    from apf.protect.quality import Eyes

#: Of the destination, these end the report: no other photo can be read either.
DESTINATION_GONE = (StoreGone, BadCredentials, StoreUnavailable)
#: Bytes a pixel: two photos with alpha, a difference, and what detection takes.
BYTES_PER_PIXEL = 24
#: Faces that are cut out of one photo; a crowd's would fill the page.
MAX_CROPS = 24


@dataclass(frozen=True)
class Viewer:
    """Makes cards; safe to share between threads."""

    batch: Batch
    #: None where the source is gone altogether.
    source: Store | None
    destination: Store
    decoder: Decoder
    limits: Limits
    #: Detector and probe; None where nothing is measured.
    eyes: Eyes | None
    with_originals: bool
    budget: ByteBudget
    # The detector uses all cores for one photo.
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def card(self, report: PhotoReport, *, measure: bool) -> Card:
        """All that the page shows of a photo; what cannot be shown is said instead.

        Raises:
            StoreGone, BadCredentials, StoreUnavailable: of the destination.
        """
        if report.outcome is Outcome.failed:
            return failed(report, self.destination)
        try:
            output = published(report.key, self.destination)
            if output is None:
                return Card(report.key, report.outcome.value, notes=(_why_nothing(report),), face_count=report.faces)
            return self._shown(report, output, measure=measure)
        except DESTINATION_GONE:
            raise
        except (StoreError, PhotoError, MemoryError) as error:
            return Card(report.key, report.outcome.value, notes=(f"It cannot be shown: {error or 'out of memory'}.",))

    def _shown(self, report: PhotoReport, output: Output, *, measure: bool) -> Card:
        data = self.destination.get(report.key, etag=output.info.etag, max_bytes=self.limits.max_bytes).data
        held = self.decoder.header(data, self.limits).pixels * BYTES_PER_PIXEL
        self.budget.acquire(held)
        try:
            after = self.decoder.decode(data, self.limits, ())
            return self._compared(report, output, after, measure=measure and output.outcome is Outcome.protected)
        finally:
            self.budget.release(held)

    def _compared(self, report: PhotoReport, output: Output, after: Photo, *, measure: bool) -> Card:
        notes = output.notes(self.batch, report.outcome)
        before = None
        if output.outcome is Outcome.protected and (measure or self.with_originals):
            before, why = self._before(report.key, output.source_etag, after)
            notes += [why] if why else []
        faces, psnr_db = self._measured(before, after) if measure else ((), None)
        if psnr_db is not None and math.isinf(psnr_db):
            notes.append("Its faces are the same before and after: they are not protected.")
        return Card(
            key=report.key,
            outcome=report.outcome.value,
            notes=tuple(notes),
            width=after.header.width,
            height=after.header.height,
            face_count=output.faces,
            weak=output.weak,
            likenesses=_likenesses(report) if output.batch_id == self.batch.id else (),
            faces=faces,
            measured=measure and before is not None,
            psnr_db=psnr_db if psnr_db is not None and math.isfinite(psnr_db) else None,
            pictures=self._pictures(before, after),
        )

    def _before(self, key: str, etag: str, after: Photo) -> tuple[Photo | None, str]:
        """Return the source that the output was made from, or why it is not to be had."""
        if self.source is None:
            return None, "Not measured: its source is gone."
        try:
            data = self.source.get(key, etag=etag, max_bytes=self.limits.max_bytes).data
            before = self.decoder.decode(data, self.limits, ())
        except Changed:
            return None, "Not measured: its source has changed since. Protect the album again."
        except NotFound:
            return None, "Not measured: its source is gone."
        except (StoreError, PhotoError, MemoryError) as error:
            return None, f"Not measured: its source cannot be read ({error or 'out of memory'})."
        if before.pixels.shape != after.pixels.shape:
            return None, "Not measured: source and output differ in size."
        return before, ""

    def _measured(self, before: Photo | None, after: Photo) -> tuple[tuple[FaceCard, ...], float | None]:
        """Faces as the detector finds them in the source, or else in the output; PSNR in dB where there is a source."""
        if self.eyes is None:
            return (), None
        from apf.protect.quality import compare  # noqa: PLC0415  image libraries load where they are used

        with self._looking:
            faces = self.eyes.detector.detect([(before or after).pixels])[0]
            compared = compare("", before, after, faces, self.eyes.embedding) if before else None
        similarities: Sequence[float | None] = compared.similarities if compared else [None] * len(faces)
        cards = [
            FaceCard(_part(face, after), similarity, self._crops(face, before, after) if place < MAX_CROPS else {})
            for place, (face, similarity) in enumerate(zip(faces, similarities, strict=True))
        ]
        return tuple(cards), compared.psnr_db if compared else None

    def _crops(self, face: Face, before: Photo | None, after: Photo) -> dict[str, bytes]:
        matrix = alignment(face.landmarks)
        crops = {"after": thumbnails.crop(align(after.pixels, matrix), after)}
        if before and self.with_originals:
            crops["before"] = thumbnails.crop(align(before.pixels, matrix), before)
        return crops

    def _pictures(self, before: Photo | None, after: Photo) -> dict[str, bytes]:
        made = {"thumb": thumbnails.thumb(after.pixels, after), "view": thumbnails.view(after.pixels, after)}
        if before and self.with_originals:
            from apf.protect.quality import difference  # noqa: PLC0415

            made["before-thumb"] = thumbnails.thumb(before.pixels, before)
            made["before"] = thumbnails.view(before.pixels, before)
            made["difference"] = thumbnails.plain(difference(before.pixels, after.pixels))
        return made


@dataclass(frozen=True)
class BlindViewer:
    """Makes the cards of a private batch, from reports and marks: its photos are with their owners."""

    batch: Batch
    destination: Store

    def card(self, report: PhotoReport, *, measure: bool) -> Card:
        """As `Viewer.card`, without pictures; nothing is read but what the store says of an output."""
        if report.outcome is Outcome.failed:
            return failed(report, self.destination)
        try:
            output = published(report.key, self.destination)
        except DESTINATION_GONE:
            raise
        except StoreError as error:
            return Card(report.key, report.outcome.value, notes=(f"Its output cannot be looked at: {error}.",))
        if output is None:
            return Card(report.key, report.outcome.value, notes=(_why_nothing(report),), face_count=report.faces)
        notes = output.notes(self.batch, report.outcome)
        return Card(report.key, report.outcome.value, notes=tuple(notes), face_count=output.faces)


def failed(report: PhotoReport, destination: Store) -> Card:
    """Return the card of a photo, or gradient file, that has no output."""
    reason = report.reason or "no reason was given"
    try:
        older = published(report.key, destination)
    except DESTINATION_GONE:
        raise
    except StoreError:
        older = None
    notes = ["An older version of it, from an earlier batch, is still published."] if older else []
    advice = cure(reason, transient=report.transient, code=report.code)
    return Card(
        key=report.key,
        outcome=report.outcome.value,
        notes=tuple(notes),
        reason=reason,
        code=report.code,
        cure=advice,
        weak=report.weak,
        likenesses=_likenesses(report),
    )


def _likenesses(report: PhotoReport) -> tuple[float, ...]:
    """Return what the jury saw in each face; none where it could not say of one."""
    found = [word.likeness for word in report.words]
    return tuple(one for one in found if one is not None) if None not in found else ()


def _why_nothing(report: PhotoReport) -> str:
    if report.outcome is Outcome.no_face and report.reason:
        return "No face was found, and photos without one are left out (--no-face skip): it is not published."
    if report.outcome is Outcome.skipped and report.reason == "not a photo":
        return "Its bytes are no photo's: it is not published."
    return "Its output is gone from the destination, or was replaced by something that no worker wrote."


def _part(face: Face, photo: Photo) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = face.box
    width, height = photo.header.width, photo.header.height
    return x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height
