"""Plain words: for choices, and for what failed."""

from __future__ import annotations

from dataclasses import dataclass

from workers.core.failure_codes import FailureCode, known_code


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

_AGAIN = " Then press “Try again”."
PASSES = "It may pass by itself: press “Try again”."
#: As `workers.report.advice.CURES`, for somebody who knows no command.
CURES: dict[FailureCode, str] = {
    FailureCode.occupied: "Protect the album anew.",
    FailureCode.is_output: "Nothing to do: it is protected. Take the original where you mean that.",
    FailureCode.private_file: "The photo's owner makes the gradient file again." + _AGAIN,
    FailureCode.weak: "Choose “Safest” and protect the album again.",
    FailureCode.changed: "It was edited meanwhile. Press “Try again”.",
    FailureCode.deleted: "Nothing to do, unless it was deleted by mistake: then put it back." + _AGAIN,
    FailureCode.not_allowed: "The program was set up not to go there.",
    FailureCode.timeout: "Save it again in a photo program." + _AGAIN,
    FailureCode.camera_raw: "Develop it to a JPEG or TIFF in your raw converter." + _AGAIN,
    FailureCode.several_pictures: "Export its pictures as single photos." + _AGAIN,
    FailureCode.colours: "Convert it to RGB (sRGB) in a photo program." + _AGAIN,
    FailureCode.too_large: "Scale it down." + _AGAIN,
    FailureCode.memory: "Scale it down, or close other programs." + _AGAIN,
    FailureCode.unsupported: "Save it as an 8-bit RGB JPEG or PNG in a photo program." + _AGAIN,
    FailureCode.corrupt: "The file is damaged. Does it open in a photo program? Save it again there; else take it from "
    "a backup." + _AGAIN,
    FailureCode.store_full: "Free some space on this computer." + _AGAIN,
    FailureCode.archived: "Restore it from the archive, and wait until that is done." + _AGAIN,
    FailureCode.denied: "Correct the rights of the file or its folder." + _AGAIN,
    FailureCode.key: "Give the photo another name, or put the file itself there." + _AGAIN,
    FailureCode.unexpected: "This is a fault of the program: please report it, with the reason. No other photo suffers "
    "from it.",
    FailureCode.other: "Mend what the reason says." + _AGAIN,
}


def plain(reason: str, *, transient: bool, code: str = "") -> str:
    """Return what to do about a failed photo, without commands; as `workers.report.advice.cure`."""
    return PASSES if transient else CURES[known_code(code, reason)]
