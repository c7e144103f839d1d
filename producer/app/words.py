"""Plain words: for choices, and for what failed."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from apf.errors import ApfError
from workers.core.failure_codes import FailureCode
from workers.errors import WorkerError
from workers.report.advice import Reader, cure


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

AT_THE_PAGE = Reader(
    retry="press “Try again”",
    again="press “Try again”",
    operates=False,
    own={
        FailureCode.occupied: "Protect the album anew.",
        FailureCode.weak: "Choose “Safest” and protect the album again.",
        FailureCode.not_allowed: "The program was set up not to go there.",
        FailureCode.denied: "Correct the rights of the file or its folder. Then {retry}.",
    },
)


def plain(reason: str, *, transient: bool, code: str = "") -> str:
    """Return what to do about a failed photo, as a person at the page can do it."""
    return cure(reason, transient=transient, code=code, reader=AT_THE_PAGE)


def told(error: Exception) -> str:
    """Return an error's words without the names of files of the program's own."""
    if isinstance(error, OSError) and not isinstance(error, (WorkerError, ApfError)):
        text = NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"A file cannot be used ({error.strerror})"
    elif isinstance(error, (WorkerError, ApfError)):
        text = re.sub(r"^'.*?' \(file\): ", "", str(error), flags=re.DOTALL)
    else:
        text = f"This is a fault of the program: please report it ({error!r})"
    return text[:1].upper() + text[1:]
