"""Run a check. `producer.cli.check` loads this module by name: it brings image libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apf.check.recognisers import Recogniser, load_recogniser
from apf.detection.detector import load_detector
from apf.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from workers.batches.create import find_batch
from workers.check import people as who
from workers.check.result import Result, judged
from workers.check.sightings import FaceFinder, FoundFaces, photos_in
from workers.config.settings import Settings
from workers.errors import BadRequest, LedgerError
from workers.execution.engine import photo_limits, shared_decoder
from workers.store import Store, canonical_url, open_store

#: Where a recipe takes no steps, these are asked: recognisers of two families that come with the worker.
USUAL_JURY = ("dlib", "apf-mfn")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What is to be checked."""

    #: Folders or URLs; `originals` None: as the destination's last batch says.
    protected: str
    originals: str | None = None
    #: Other photos of the same people, which are not protected.
    others: str | None = None
    #: Whether both have a folder for each person.
    person_folders: bool = False
    #: Faces that the user has sorted by person (`workers.check.people.sort_into`).
    sorted_faces: Path | None = None
    #: The user's own, besides the jury.
    recognisers: tuple[str, ...] = ()
    #: Protected photos, and others, that are looked at.
    limit: int = 200


@dataclass(frozen=True)
class IdentifiedFaces:
    """All faces, and who they are."""

    looked: FoundFaces
    people: who.People
    confirmed: bool
    #: The jury of the recipe that the photos were protected with, as far as it is known, and the user's own.
    asked: tuple[Recogniser, ...]


def look(
    question: CheckOptions, settings: Settings, *, progress: Progress = lambda done, total: None
) -> IdentifiedFaces:
    """Find the faces, and tell who they are.

    Raises:
        BadRequest: there is nothing to compare with, or it is not said how.
        StoreError: a folder is missing or cannot be read.
        ApfError: the detector, or a recogniser, cannot be loaded.
    """
    originals, recipe = _origin(question, settings)
    if question.person_folders and question.others is None:
        raise BadRequest("--person-folders compares two folders with one folder a person each: name OTHERS, too")
    # What is wrong with these is said before anybody waits for the photos.
    asked = tuple(_asked(recipe, question.recognisers))
    sorted_faces = who.by_hand(question.sorted_faces) if question.sorted_faces else None
    after, before, others = (_store(url, settings) for url in (question.protected, originals, question.others))
    assert after  # noqa: S101  it is always named
    looker = FaceFinder(
        shared_decoder(settings),
        photo_limits(settings),
        load_detector(settings.detector or recipe.detector),
        main_only=question.person_folders,
    )
    found = FoundFaces()
    keys = photos_in(after, question.limit)
    if not keys:
        raise BadRequest(f"there are no photos in {question.protected}: name the folder that apf protect wrote into")
    more = photos_in(others, question.limit) if others else []
    for count, key in enumerate(keys, start=1):
        looker.pair(key, after, before, found)
        progress(count, len(keys) + len(more))
    for count, key in enumerate(more, start=len(keys) + 1):
        if others:
            looker.clean(key, others, key if question.person_folders else f"{_last(others)}/{key}", found)
        progress(count, len(keys) + len(more))
    people = sorted_faces or (who.by_folder if question.person_folders else who.by_recognisers)(found.faces)
    return IdentifiedFaces(found, people, question.person_folders or sorted_faces is not None, asked)


def sorted_by(seen: IdentifiedFaces, people: who.People, *, confirmed: bool) -> IdentifiedFaces:
    """Return the same faces, and who they are as a user has sorted them, or has yet to confirm."""
    return replace(seen, people=people, confirmed=confirmed)


def judge(seen: IdentifiedFaces) -> Result:
    """Ask the jury, and the user's own recognisers; raises BadRequest where there is nothing to compare."""
    result = judged(seen.looked, seen.people, seen.asked, confirmed=seen.confirmed)
    if not result.compared:
        raise BadRequest(
            "no protected face has another photo of its person to be compared with: name a folder of other photos of "
            "these people as OTHERS, or more photos"
        )
    return result


def _asked(recipe: Recipe, own: Sequence[str]) -> list[Recogniser]:
    jury = recipe.jury or recipe.guides or USUAL_JURY
    asked = [load_recogniser(name, climbed=name in recipe.guides) for name in jury if name not in own]
    return asked + [load_recogniser(name, climbed=name in recipe.guides, own=True) for name in own]


def _origin(question: CheckOptions, settings: Settings) -> tuple[str | None, Recipe]:
    """Return where the originals are, and the recipe; the last batch into the destination knows both."""
    try:
        ledger, batch_id = find_batch(question.protected, None, settings)
        batch = ledger.read_batch(batch_id)
    except LedgerError:
        if not question.person_folders and question.originals is None:
            raise BadRequest(
                f"nothing says which originals the photos in {question.protected} were made from, and so whose faces "
                "they are: name their folder with --originals, or compare two folders with --person-folders"
            ) from None
        return question.originals, load_recipe(DEFAULT_RECIPE)
    if batch.private:
        raise BadRequest("a private batch holds no photos: check those that apf private apply wrote, by --originals")
    from_batch = None if question.person_folders else batch.source
    return question.originals or from_batch, batch.recipe


def _store(url: str | None, settings: Settings) -> Store | None:
    return open_store(canonical_url(url), s3=settings.s3) if url else None


def _last(store: Store) -> str:
    return store.url.rstrip("/").rsplit("/", 1)[-1]
