"""Plain words: for choices, and for what failed."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from apf.errors import ApfError
from workers.errors import WorkerError
from workers.report.advice import cure, without_commands


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

NO_SPACE = "The disk is full: free some space"

#: What the advice says of settings and destinations, which an app has not.
_ENDINGS = (
    (r",? or (raise|lower) APF_\w+( or APF_\w+)*( if there is memory for it)?", ""),
    (r" Is it to be replaced\? Then run apf protect with --overwrite\.", ""),
    (r"Move what lies there away and use apf retry, or choose another destination\.", "Protect the album anew."),
    (
        r"Retrying comes to the same: run apf protect .*",
        "Choose “Safest” and protect the album again.",
    ),
    (r"The workers' operator has to allow this place or detector\.", "The program was set up not to go there."),
)


def plain(reason: str, *, transient: bool) -> str:
    """Return what to do about a failed photo, without commands."""
    return for_the_page(cure(reason, transient=transient))


def for_the_page(text: str) -> str:
    """Return a piece of advice as a person at the page can take it."""
    for pattern, instead in _ENDINGS:
        text = re.sub(pattern, instead, text)
    return without_commands(text, retry="press “Try again”")


def told(error: Exception) -> str:
    """Return an error's words without the names of files of the program's own."""
    if isinstance(error, OSError) and not isinstance(error, (WorkerError, ApfError)):
        text = NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"A file cannot be used ({error.strerror})"
    elif isinstance(error, (WorkerError, ApfError)):
        text = re.sub(r"^'.*?' \(file\): ", "", str(error), flags=re.DOTALL)
    else:
        text = f"This is a fault of the program: please report it ({error!r})"
    return text[:1].upper() + text[1:]
