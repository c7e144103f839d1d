"""The callback's JSON. docs/callback.schema.json is made from this: change both together (a test compares them)."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.core.clock import now
from workers.core.records import Batch, Outcome, PhotoReport
from workers.ledger.batch_ledger import Ledger
from workers.status.as_json import BatchCounts
from workers.status.final_status import FinalStatus, final_status

#: Of the body; raised when a receiver of an older one would misread a newer one. New fields do not raise it.
VERSION: Literal[1] = 1
#: Receivers refuse large bodies: more failures, and longer reasons, are cut off.
MOST_FAILURES = 100
LONGEST_REASON = 300
#: A batch with no more photos says what became of each: it is an upload, and its sender wants to know.
FEW_PHOTOS = 10


def _open(schema: dict[str, Any]) -> None:
    """Make an unknown field an error here; for receivers it is one of a newer version."""
    schema.pop("additionalProperties", None)


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True, json_schema_extra=_open
    )


class FailedPhoto(_Part):
    """A photo that has no output."""

    key: str
    reason: str
    #: A `workers.core.failure_codes.FailureCode`.
    code: str = ""
    #: How often a worker began it.
    attempts: int
    #: Whether trying again can help.
    transient: bool


class PhotoResult(_Part):
    """The outcome of one photo."""

    key: str
    outcome: Outcome
    reason: str | None
    faces: int
    #: Faces that a juror still knows.
    weak: int = 0
    bytes_in: int
    bytes_out: int


class BatchDone(_Part, BatchCounts):
    """How a batch ended; names as in `apf status --json`."""

    failures: list[FailedPhoto] = Field(max_length=MOST_FAILURES)
    #: Whether more photos failed than `failures` lists.
    failures_truncated: bool
    #: Of a batch of few photos, each of them; else null.
    results: list[PhotoResult] | None = Field(max_length=FEW_PHOTOS)


class Event(_Part):
    """The body of a callback."""

    type: Literal["batch.done", "test"]
    version: Literal[1] = VERSION
    #: When the event happened: ISO 8601 with its offset.
    timestamp: str
    #: Of a test: of a batch that never was. Null in a test of older versions.
    data: BatchDone | None


def schema() -> str:
    """Return the JSON schema of `Event`, as it is documented."""
    return json.dumps(Event.model_json_schema(mode="serialization"), indent=1) + "\n"


def trial() -> bytes:
    """Return what `apf callback test` posts: all that a batch's end has, of two photos that are nowhere."""
    reason = "the picture ends too early: save it again"
    data = BatchDone(
        batch="test",
        source="s3://test-uploads",
        destination="s3://test-public",
        recipe="standard",
        recipe_id="test",
        lane="interactive",
        tenant="test",
        photos=2,
        protected=1,
        no_face=0,
        skipped=0,
        failed=1,
        missing=0,
        ignored=0,
        faces=1,
        note="a test, of photos that are nowhere",
        wall_seconds=1.204,
        failures=[FailedPhoto(key="test/2.jpg", reason=reason, code="corrupt", attempts=1, transient=False)],
        failures_truncated=False,
        results=[
            PhotoResult(key="test/1.jpg", outcome="protected", reason=None, faces=1, bytes_in=81231, bytes_out=90112),
            PhotoResult(key="test/2.jpg", outcome="failed", reason=reason, faces=0, bytes_in=0, bytes_out=0),
        ],
    )
    return _encoded(Event(type="test", timestamp=now().isoformat(timespec="milliseconds"), data=data))


def is_of(body: bytes, batch: Batch) -> bool:
    """Return whether it is the event of this very batch, as this module makes it, and not torn.

    A worker signs what it finds in the ledger: a body of another batch's must not pass for this one's.
    """
    with suppress(ValidationError):
        data = Event.model_validate_json(body).data
        named = ("source", "destination", "tenant")
        return data is not None and data.batch == batch.id and all(getattr(data, n) == getattr(batch, n) for n in named)
    return False


def batch_done(ledger: Ledger, batch: Batch, *, stopped: bool | None = None) -> bytes | None:
    """Return the body for a batch that is done; None for one that is not.

    Args:
        stopped: whether it was stopped; None: the ledger is asked.

    Raises:
        LedgerError, StoreError: it cannot be read.
    """
    ended = final_status(ledger, batch, most_failures=MOST_FAILURES, few_photos=FEW_PHOTOS, stopped=stopped)
    if ended is None:
        return None
    summary = ended.summary()
    data = BatchDone.of(
        summary,
        failures=[
            FailedPhoto.model_validate({**failure.as_json(), "reason": _cut(failure.reason)})
            for failure in summary.failures
        ],
        failures_truncated=summary.failed > len(summary.failures),
        results=[_result(photo) for photo in ended.photos] if summary.photos <= FEW_PHOTOS else None,
    )
    return _encoded(Event(type="batch.done", timestamp=_ended_at(ended), data=data))


def _ended_at(ended: FinalStatus) -> str:
    """Return the moment of the last report, the same at every try."""
    with suppress(ValueError):  # an older report, or none
        return datetime.fromisoformat(ended.finished_at).isoformat(timespec="milliseconds")
    return ended.batch.updated_at or ended.batch.created_at


def _result(photo: PhotoReport) -> PhotoResult:
    return PhotoResult(
        key=photo.key,
        outcome=photo.outcome,
        reason=_cut(photo.reason) if photo.reason else None,
        faces=photo.faces,
        weak=photo.weak,
        bytes_in=photo.bytes_in,
        bytes_out=photo.bytes_out,
    )


def _cut(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1] + "…"


def _encoded(event: Event) -> bytes:
    return event.model_dump_json().encode()
