"""Compare two recipes: a rollout's outcome beside that of the same photos under the schedule's own recipe.

Read from reports. How the photos look is measured by `workers.schedules.sample_quality`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from apf.recipe import Recipe
from workers.config.settings import Settings
from workers.core.records import Batch, Outcome, PhotoReport, ShardReport
from workers.errors import LedgerError
from workers.ledger.batch_ledger import Ledger
from workers.schedules.diff import lies_in, wanted_pieces
from workers.schedules.models import Piece, Schedule, State

#: Outputs that stand ready to be drawn from for a sample.
MAX_CANDIDATES = 2000


@dataclass
class Side:
    """The outcomes of one recipe's photos."""

    recipe: Recipe
    photos: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    #: Faces that a juror still knows.
    weak: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    #: Of the shards that held these photos, in all stages, added up over threads; and those shards' photos.
    seconds: float = 0.0
    shard_photos: int = 0
    #: Keys of protected outputs that are there now, for a sample.
    candidates: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON; None where there is nothing to divide by."""
        return {
            "recipe": self.recipe.name,
            "recipe_id": self.recipe.id,
            "photos": self.photos,
            "rates": {o.value: _over(self.outcomes[o.value], self.photos) for o in Outcome},
            "failures": dict(self.failures.most_common()),
            "faces_per_photo": _over(self.faces, self.photos),
            "weak_faces_per_photo": _over(self.weak, self.photos),
            "bytes_out_over_in": _over(self.bytes_out, self.bytes_in),
            "seconds_per_photo": _over(self.seconds, self.shard_photos),
        }

    def take(self, photo: PhotoReport) -> None:
        self.photos += 1
        self.outcomes[photo.outcome.value] += 1
        self.weak += photo.weak
        if photo.outcome is Outcome.failed:
            self.failures[photo.reason or "no reason was given"] += 1
            return
        self.faces += photo.faces
        self.bytes_in += photo.bytes_in if photo.bytes_out else 0
        self.bytes_out += photo.bytes_out

    def offer(self, photo: PhotoReport) -> None:
        if photo.outcome is Outcome.protected and len(self.candidates) < MAX_CANDIDATES:
            self.candidates.append(photo.key)

    def sample(self, count: int) -> list[str]:
        """Return some of the candidates, always the same ones."""
        return sorted(self.candidates, key=lambda key: hashlib.sha256(key.encode()).digest())[:count]


def sides(schedule: Schedule, state: State, settings: Settings, ledger: Ledger) -> tuple[Side, Side]:
    """Return the new recipe on its fraction, and the old one on the same photos, as far as it ever ran on them.

    Raises:
        LedgerError: the schedule has no rollout.
    """
    if schedule.rollout is None:
        raise LedgerError(
            f"schedule {schedule.name} has no rollout to compare: start one with "
            f"apf schedule change {schedule.name} --recipe NEW --fraction 0.05"
        )
    (piece, new), (_, old) = wanted_pieces(schedule, state, settings)
    fresh, former = Side(new), Side(old)
    in_part = _in(schedule, piece)
    seen: set[str] = set()
    for report, photos in _worked(ledger, schedule, new.id):
        chosen = [photo for photo in photos if in_part(photo.key) and photo.key not in seen]
        _add(fresh, report, chosen, len(photos))
        for photo in chosen:
            fresh.offer(photo)
        seen |= {photo.key for photo in chosen}
    missing, others = set(seen), set[str]()
    for report, photos in _worked(ledger, schedule, old.id):
        chosen = [photo for photo in photos if photo.key in missing]
        _add(former, report, chosen, len(photos))
        missing -= {photo.key for photo in chosen}
        # Where the new recipe ran the old one's outputs are replaced: how they looked, others have to show.
        for photo in photos:
            if not in_part(photo.key) and photo.key not in others:
                others.add(photo.key)
                former.offer(photo)
        if not missing and len(former.candidates) >= MAX_CANDIDATES:
            break
    return fresh, former


def _in(schedule: Schedule, piece: Piece) -> Callable[[str], bool]:
    return lambda key: lies_in(key, schedule.name, piece)


def _add(side: Side, report: ShardReport, photos: list[PhotoReport], of: int) -> None:
    for photo in photos:
        side.take(photo)
    if photos:
        side.seconds += sum(report.stage_seconds.values())
        side.shard_photos += of


def _worked(ledger: Ledger, schedule: Schedule, recipe_id: str) -> Iterator[tuple[ShardReport, list[PhotoReport]]]:
    """Report of the schedule's batches with this recipe, newest first, and the photos that a worker had in hand."""
    for batch_id in reversed([one for one in ledger.batch_ids() if schedule.is_batch(one)]):
        batch = _batch(ledger, batch_id)
        if batch is None or batch.schedule != schedule.name or batch.recipe.id != recipe_id:
            continue
        for shard in range(batch.shards - 1, -1, -1):
            if report := ledger.read_report(batch_id, shard):
                # Skipped with an output: an earlier batch made it, and has its figures.
                done = [p for p in report.photos if p.outcome is not Outcome.skipped or not p.bytes_out]
                if done:
                    yield report, done


def _batch(ledger: Ledger, batch_id: str) -> Batch | None:
    try:
        return ledger.read_batch(batch_id)
    except LedgerError:
        return None


def _over(a: float, b: float) -> float | None:
    return round(a / b, 4) if b else None
