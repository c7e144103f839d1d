"""Read what is published under a photo's key now, by the metadata that workers put on it."""

from __future__ import annotations

from dataclasses import dataclass

from workers.core.records import Batch, Outcome
from workers.store import ObjectInfo, Store
from workers.store.output_metadata import BATCH, FACES, OUTCOME, RECIPE, SOURCE_ETAG, weak_faces


@dataclass(frozen=True)
class Output:
    """An object that a worker wrote."""

    info: ObjectInfo
    outcome: Outcome
    faces: int
    #: Of these, what a juror still knows.
    weak: int
    #: Of the source that it was made from.
    source_etag: str
    recipe_id: str
    batch_id: str

    def notes(self, batch: Batch, reported: Outcome) -> list[str]:
        """How it differs from what the batch has written, or found there and `skipped`."""
        found = []
        if reported is not Outcome.skipped and self.batch_id != batch.id:
            found.append("Another batch has replaced this output since; the newer one is shown.")
        if self.recipe_id != batch.recipe.id:
            found.append("It was made by another recipe than this batch's.")
        if self.outcome is Outcome.no_face:
            found.append(
                "The owner's device found no face: the file changes nothing, and a face in the photo is not protected."
                if batch.private
                else "No face was found, so it is published as it is: a face in it is not protected."
            )
        if self.weak:
            found.append(
                f"A juror still knows {self.weak} of its {self.faces} faces: protect it by a stronger recipe, or one "
                "with more steps or guides, or do not publish it."
            )
        return found


def published(key: str, store: Store) -> Output | None:
    """Return the output under a key; None where there is none, or one that no worker wrote.

    An object without our marks may be anything, an unprotected photo included: the page never shows it.

    Raises:
        StoreError: the store refuses.
    """
    info = store.head(key)
    if info is None:
        return None
    marks = info.metadata
    try:
        outcome, faces, weak = Outcome(marks[OUTCOME]), int(marks[FACES]), weak_faces(marks)
    except (KeyError, ValueError):
        return None
    return Output(info, outcome, faces, weak, marks.get(SOURCE_ETAG, ""), marks.get(RECIPE, ""), marks.get(BATCH, ""))
