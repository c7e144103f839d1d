"""What the pages show, from albums, batches and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from producer.app.albums import Album
from producer.app.folders import Folders
from producer.app.runner import Runner
from producer.app.words import CHOICES, plain
from workers.core.records import Outcome, PhotoReport
from workers.errors import BadRequest, StoreError
from workers.report.card import legible
from workers.status.batch_status import BatchSummary
from workers.store import open_store
from workers.store.media_types import may_be_photo

__all__ = ["CHOICES"]

Step = Literal["choose", "looks", "work", "done"]

#: Photos that are counted; more are "more than".
COUNTED = 100_000
OUTCOMES = {
    Outcome.protected: "Protected",
    Outcome.skipped: "Protected",
    Outcome.no_face: "No face found: copied as it is",
    Outcome.failed: "Not protected",
}


def step(album: Album, runner: Runner) -> Step:
    """Return which page an album is at."""
    if not album.batch:
        return "looks" if album.chosen else "choose"
    summary = runner.look(album)
    return "done" if summary and summary.done and not runner.is_at(album.id) else "work"


def count(folder: Path) -> int:
    """Return how many photos are in a folder, at any depth."""
    try:
        found = (info for info in open_store(str(folder)).list(left_out=lambda _: None) if may_be_photo(info))
        return sum(1 for _ in islice(found, COUNTED))
    except StoreError:
        return 0


def summary(album: Album, found: BatchSummary | None) -> str:
    """Return an album's state in a few words."""
    if not album.batch:
        return "not protected yet"
    if found is None or not found.done:
        return "being protected"
    failed = f", {found.failed} not" if found.failed else ""
    return f"{found.protected + found.skipped + found.no_face} photos done{failed}"


def counts(album: Album, runner: Runner) -> dict[str, Any]:
    """Return how far an album's batch is, as plain numbers."""
    found = runner.look(album)
    if found is None:
        return {"photos": 0, "done": 0, "faces": 0, "stopped": not runner.is_at(album.id)}
    done = found.totals.photos + found.running.photos
    return {
        "photos": found.photos if found.batch.planned else 0,
        "done": done,
        "faces": found.faces + found.running.faces,
        "stopped": not runner.is_at(album.id),
    }


def batch(album: Album, runner: Runner) -> dict[str, Any]:
    """Return what became of an album, for its page."""
    found = runner.look(album)
    failures = found.failures if found else ()
    return {
        "stopped": not runner.is_at(album.id),
        "failures": [
            (legible(one.key), legible(one.reason), plain(one.reason, transient=one.transient, code=one.code))
            for one in failures
        ],
        "left_out": [(legible(one.key), legible(one.reason)) for one in found.left_out.named] if found else [],
    }


def photos(reports: Sequence[PhotoReport]) -> list[dict[str, Any]]:
    """Return the photos that have an output, by their numbers."""
    return [
        {
            "number": number,
            "name": legible(report.key),
            "outcome": OUTCOMES[report.outcome],
            "no_face": report.outcome is Outcome.no_face,
            "weak": report.weak,
        }
        for number, report in enumerate(reports)
        if report.outcome is not Outcome.failed
    ]


def outputs(reports: Iterable[PhotoReport]) -> list[str]:
    """Return the keys of the photos that were written."""
    return [report.key for report in reports if report.outcome is not Outcome.failed]


def checked(found: Mapping[str, Any], reports: Sequence[PhotoReport]) -> dict[str, Any]:
    """Return the check's sentences by the photos' numbers, and its counts."""
    said = {photo["photo"]: photo for photo in found.get("photos", ())}
    return {
        "done": bool(found.get("done")),
        "nothing": bool(found.get("nothing")),
        "error": found.get("error", ""),
        "confirmed": bool(found.get("confirmed")),
        "compared": found.get("compared", 0),
        "stillMatched": found.get("still_matched", 0),
        "photos": {
            number: {"sentence": said[report.key]["sentence"], "verdict": said[report.key]["verdict"]}
            for number, report in enumerate(reports)
            if report.key in said and said[report.key]["verdict"] not in (None, "alone")
        },
    }


def split(card: Mapping[str, Any]) -> int:
    """Return where the slider starts: through the largest face, in percent of the photo's width."""
    faces = sorted(card.get("faces", ()), key=lambda face: face["box"][2] * face["box"][3])
    if not faces:
        return 50
    left, _, width, _ = faces[-1]["box"]
    return round(100 * min(1.0, max(0.0, float(left + width / 2))))


def plain_cure(card: Mapping[str, Any]) -> str:
    return plain(card["reason"], transient=False, code=card.get("code", "")) if card.get("reason") else ""


def recipe(name: str) -> str:
    """Return a recipe that may be chosen; raises BadRequest for others."""
    if name not in [choice.recipe for choice in CHOICES]:
        raise BadRequest("Choose one of the three pictures first")
    return name


def first_place(places: Folders, album: Album | None) -> str:
    """Return the folder that choosing begins at: beside the album's own, the user's pictures, or their home."""
    if album and album.folder:
        beside = Path(album.folder).parent
        if any(beside.resolve().is_relative_to(root) for root in places.roots):
            return str(beside)
    pictures = Path.home() / "Pictures"
    wanted = [pictures, *places.roots]
    return str(
        next(one for one in wanted if one.is_dir() and any(one.resolve().is_relative_to(r) for r in places.roots))
    )
