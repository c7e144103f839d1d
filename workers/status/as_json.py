"""A batch's summary as plain JSON values, under the names that `--json` and callbacks share."""

from __future__ import annotations

from collections.abc import Sequence

from workers.status.batch_status import BatchSummary, Failure


def counts(summary: BatchSummary) -> dict[str, object]:
    """Return what was asked, and sums. The four outcomes, pending and missing photos add up to `photos`.

    What is left out, for a reason that a user can mend, and what is ignored come on top.
    """
    batch = summary.batch
    return {
        "batch": batch.id,
        "source": batch.source,
        "destination": batch.destination,
        "recipe": batch.recipe.name,
        "recipe_id": batch.recipe.id,
        "lane": batch.lane,
        "tenant": batch.tenant,
        "photos": summary.photos,
        "protected": summary.protected,
        "no_face": summary.no_face,
        "skipped": summary.skipped,
        "failed": summary.failed,
        "missing": summary.missing,
        "ignored": batch.ignored,
        "left_out": summary.left_out.total,
        "faces": summary.faces,
        "weak_faces": summary.weak_faces,
        "weak_photos": summary.weak_photos,
        "note": batch.note,
        "wall_seconds": round(summary.wall_seconds, 3),
    }


def failures(found: Sequence[Failure]) -> list[dict[str, object]]:
    return [{"key": f.key, "reason": f.reason, "attempts": f.attempts, "transient": f.transient} for f in found]


def json_object(summary: BatchSummary) -> dict[str, object]:
    """Return the one object that `--json` prints."""
    return {
        **counts(summary),
        "pending": summary.pending,
        "private": summary.batch.private,
        "planned": summary.batch.planned,
        "cancelled": summary.cancelled,
        "paused": summary.stopped == "paused",
        "stage_seconds": {name: round(seconds, 3) for name, seconds in summary.stage_seconds.items()},
        "peak_memory_bytes": summary.peak_memory_bytes,
        "failures": failures(summary.failures),
        "excluded": summary.left_out.excluded,
        "forgotten": summary.left_out.forgotten,
        "left_out_first": [one.model_dump() for one in summary.left_out.named],
        "callback": summary.callback.as_json() if summary.callback else None,
    }
