"""The jury's verdict in reports and metadata. A face is weak where a juror still knows it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from workers.core.records import Batch, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apf.attack.jury import Verdict
    from workers.execution.engine import Result


class JuryFields(TypedDict):
    """Fields of a `PhotoReport`."""

    words: tuple[Word, ...]
    weak: int


def jury_fields(result: Result) -> JuryFields:
    """Return what the jury says of a photo's faces; nothing where none was asked, as for gradient files."""
    asked: Sequence[Verdict | None] = getattr(result, "verdicts", ())
    found = [verdict for verdict in asked if verdict]
    return JuryFields(words=tuple(_word(verdict) for verdict in found), weak=sum(verdict.weak for verdict in found))


def refusal(weak: int, faces: int, batch: Batch, *, is_there: bool = False) -> str | None:
    """Why a photo with so many weak faces fails, where the batch says that it does.

    Args:
        is_there: its output is published already, by a batch that let it pass.
    """
    if not weak or batch.on_weak == "publish":
        return None
    them = "it" if weak == 1 else "them"
    what = f"{weak} of {faces} faces {'is' if weak == 1 else 'are'} weak: a juror still knows {them} (--on-weak fail)"
    cure = "a stronger recipe, or one with more steps or guides"
    if is_there:
        return f"{what}, and its output is there, from a batch that let it pass: delete that, or protect it by {cure}"
    return f"{what}, so it is not published: protect it by {cure}"


def _word(verdict: Verdict) -> Word:
    likeness = round(float(verdict.likeness), 3)
    # JSON has no infinity.
    return Word(likeness=likeness if math.isfinite(likeness) else None, independent=verdict.independent)
