"""Protect one face: the stages' answer, steps on guides, the jury's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.gradient_steps import Climb, climb, identity, start_climb
from apf.attack.jury import Verdict, verdict
from apf.attack.perturbation import Change
from apf.attack.recipe_guides import Guides
from apf.faces.alignment import UInt8
from apf.faces.geometry import CROP, Float64, area, bounds_of, clipped
from apf.recipe import Recipe
from apf.runtime.cores import side_by_side
from apf.runtime.stage_clock import StageClock

#: Share of the steps, and of the bound, that a face gets before the jury looks for the first time.
FIRST_STEPS, FIRST_ROOM = 0.5, 0.8


@dataclass(frozen=True)
class Task:
    """One face that is to be protected."""

    #: (H, W, 3) uint8 RGB, the whole photo.
    pixels: UInt8
    #: (2, 3), photo pixels to template pixels.
    matrix: Float64
    grey: bool
    #: What the three modules answer. None starts from a little noise.
    start: Change | None


@dataclass(frozen=True)
class Hidden:
    """The change of a face, and the jury's verdict on it; none where the recipe takes no steps."""

    change: Change
    verdict: Verdict | None = None
    #: As the steps had it: pasting needs its bound.
    canvas: Canvas | None = None


def hide(tasks: Sequence[Task], recipe: Recipe, guides: Guides, clock: StageClock | None = None) -> list[Hidden]:
    """Return the change of each face; none depends on the others, and the same face in the same photo gets the same."""
    if not recipe.steps:
        return [Hidden(task.start or nothing()) for task in tasks]
    with (clock or StageClock()).stage("steps"):
        return side_by_side(lambda task: _hidden(task, recipe, guides), tasks)


def nothing() -> Change:
    """Return no change."""
    return Change(np.zeros((3, CROP, CROP), np.float32))


def hidden(face: Climb, said: Verdict | None) -> Hidden:
    """Return what became of a face after its last step."""
    return Hidden(face.change, said, face.canvas.without_steps())


def beside_the_photo(task: Task) -> bool:
    """Return whether the photo shows nothing of the face."""
    return not area(clipped(bounds_of(task.matrix), task.pixels.shape))


def _hidden(task: Task, recipe: Recipe, guides: Guides) -> Hidden:
    if beside_the_photo(task):
        return Hidden(nothing())
    face = start_climb(task.pixels, task.matrix, guides.climbed, Bound.of(recipe), start=task.start, grey=task.grey)
    if not guides.jury:
        climb(face, guides.climbed, recipe.steps)
        return hidden(face, verdict(face, guides.climbed, face.own, independent=False))
    crop = face.crop
    known = [identity(juror, crop) for juror in guides.jury]
    first = max(1, round(FIRST_STEPS * recipe.steps))
    said = None
    for steps, room in ((first, FIRST_ROOM), (recipe.steps - first, 1.0)):
        if said is None or (said.weak and steps):
            climb(face, guides.climbed, steps, room=room)
            said = verdict(face, guides.jury, known, independent=True)
    return hidden(face, said)
