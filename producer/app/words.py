"""Plain words: for choices, and for what failed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.report.advice import cure


@dataclass(frozen=True)
class Choice:
    """A recipe, as a person chooses it."""

    recipe: str
    name: str
    seen: str
    protects: str


#: How well each protects is the share of pairs that other recognisers no longer match (docs/evaluation.md).
CHOICES = (
    Choice("light", "Hardly seen", "Next to nothing is seen.", "Programs fail to recognise you about 4 times in 10."),
    Choice(
        "standard",
        "In between",
        "Up close, a face may look a little different.",
        "Programs fail to recognise you about 9 times in 10.",
    ),
    Choice(
        "strong",
        "Safest",
        "Faces may look older, with folds and lines.",
        "Programs fail to recognise you nearly every time.",
    ),
)

#: What the command line's advice says of commands and variables, which an app has not.
_ENDINGS = (
    (
        r" Then (use apf retry|run apf protect as before: it takes only what is new or changed)\.",
        " Then press “Try again”.",
    ),
    (r"It may pass by itself: use apf retry\.", "It may pass by itself: press “Try again”."),
    (r"It was edited meanwhile\. Run apf protect as before\.", "It was edited meanwhile. Press “Try again”."),
    (r",? or (raise|lower) APF_\w+( or APF_\w+)*( if there is memory for it)?", ""),
    (r" Is it to be replaced\? Then run apf protect with --overwrite\.", ""),
    (r"Move what lies there away and use apf retry, or choose another destination\.", "Protect the album anew."),
    (
        r"Retrying comes to the same: run apf protect .*",
        "Choose “Safest” and protect the album again.",
    ),
    (r"Whoever runs the workers has to allow this place or detector\.", "The program was set up not to go there."),
)


def plain(reason: str, *, transient: bool) -> str:
    """Return what to do about a failed photo, without commands."""
    return without_commands(cure(reason, transient=transient))


def without_commands(text: str) -> str:
    """Return a piece of advice as a person at the page can take it."""
    for pattern, instead in _ENDINGS:
        text = re.sub(pattern, instead, text)
    return text
