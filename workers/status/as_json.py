"""A batch's summary as plain JSON values, under the names that `--json`, callbacks and the HTTP API share."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from workers.core.records import Lane
from workers.status.batch_status import BatchSummary


class BatchCounts(BaseModel):
    """What was asked, and sums. The four outcomes, pending and missing photos add up to `photos`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    batch: str
    source: str
    destination: str
    recipe: str
    recipe_id: str
    lane: Lane
    tenant: str
    photos: int
    protected: int
    no_face: int
    skipped: int
    failed: int
    missing: int
    """Photos that shards were planned with, and that no report tells of."""
    ignored: int
    """Objects that are no photos by their names, and excluded ones."""
    left_out: int = 0
    """Of the source, neither protected nor ignored: names and folders that cannot be read, links that lead outside."""
    faces: int
    weak_faces: int = 0
    """Faces that a juror still knows, of photos that failed for it, too; photos with such a face are counted next."""
    weak_photos: int = 0
    note: str
    """For people: what else there is to know."""
    wall_seconds: float
    """Seconds of work, added up over shards."""

    @classmethod
    def of(cls, summary: BatchSummary, **more: Any) -> Self:
        """Return the counts of a batch, with what a subclass has besides."""
        batch = summary.batch
        asked = {name: getattr(batch, name) for name in ("source", "destination", "lane", "tenant", "ignored", "note")}
        sums = {name: getattr(summary, name) for name in ("photos", "missing", "protected", "no_face", "skipped",
                                                          "failed", "faces", "weak_faces", "weak_photos")}  # fmt: skip
        return cls(
            **asked,
            **sums,
            batch=batch.id,
            recipe=batch.recipe.name,
            recipe_id=batch.recipe.id,
            left_out=summary.left_out.total,
            wall_seconds=round(summary.wall_seconds, 3),
            **more,
        )


def json_object(summary: BatchSummary) -> dict[str, object]:
    """Return the one object that `--json` prints."""
    return {
        **BatchCounts.of(summary).model_dump(),
        "pending": summary.pending,
        "private": summary.batch.private,
        "planned": summary.batch.planned,
        "cancelled": summary.cancelled,
        "paused": summary.stopped == "paused",
        "stage_seconds": {name: round(seconds, 3) for name, seconds in summary.stage_seconds.items()},
        "peak_memory_bytes": summary.peak_memory_bytes,
        "failures": [failure.as_json() for failure in summary.failures],
        "excluded": summary.left_out.excluded,
        "forgotten": summary.left_out.forgotten,
        "left_out_first": [one.model_dump() for one in summary.left_out.named],
        "callback": summary.callback.as_json() if summary.callback else None,
    }
