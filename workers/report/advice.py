"""Advice to a person on a photo that failed, by the failure's code."""

from __future__ import annotations

import re

from workers.core.failure_codes import FailureCode, known_code

_AGAIN = " Then run apf protect as before: it takes only what is new or changed."
_RETRY = " Then use apf retry."
PASSES = "It may pass by itself: use apf retry."

CURES: dict[FailureCode, str] = {
    FailureCode.occupied: "Move what lies there away and use apf retry, or choose another destination. Is it to be "
    "replaced? Then run apf protect with --overwrite.",
    FailureCode.is_output: "Nothing to do: it is protected. Take the original where you mean that.",
    FailureCode.private_file: "The photo's owner makes the gradient file again, with the recipe and the version of "
    "this installation, and hands it in under the same name." + _AGAIN,
    FailureCode.weak: "Retrying comes to the same: run apf protect with a stronger --recipe, or one with more steps or "
    "guides. Without --on-weak fail it is published as it is.",
    FailureCode.changed: "It was edited meanwhile. Run apf protect as before.",
    FailureCode.deleted: "Nothing to do, unless it was deleted by mistake: then put it back." + _AGAIN,
    FailureCode.not_allowed: "The workers' operator has to allow this place or detector." + _RETRY,
    FailureCode.timeout: "Save it again in a photo program, or raise APF_DECODE_LIMIT_S." + _AGAIN,
    FailureCode.camera_raw: "Develop it to a JPEG or TIFF in your raw converter." + _AGAIN,
    FailureCode.several_pictures: "Export its pictures as single photos." + _AGAIN,
    FailureCode.colours: "Convert it to RGB (sRGB) in a photo program." + _AGAIN,
    FailureCode.too_large: "Scale it down, or raise APF_MAX_PHOTO_PIXELS or APF_MAX_PHOTO_BYTES if there is memory for "
    "it." + _AGAIN,
    FailureCode.memory: "Scale it down, close other programs, or lower APF_PHOTO_BUFFER_BYTES." + _RETRY,
    FailureCode.unsupported: "Save it as an 8-bit RGB JPEG or PNG in a photo program." + _AGAIN,
    FailureCode.corrupt: "The file is damaged. Does it open in a photo program? Save it again there; else take it from "
    "a backup." + _AGAIN,
    FailureCode.store_full: "Free some space where the protected photos go." + _RETRY,
    FailureCode.archived: "Restore it from the archive, and wait until that is done." + _AGAIN,
    FailureCode.denied: "Correct the rights, the credentials or the clock, as the reason says." + _RETRY,
    FailureCode.key: "Give the photo another name, or put the file itself there." + _AGAIN,
    FailureCode.unexpected: "This is a fault of the program: please report it, with the reason. No other photo suffers "
    "from it.",
    FailureCode.other: "Mend what the reason says." + _RETRY,
}


#: What the advice says of commands, for whoever has none.
_WITHOUT_COMMANDS: tuple[tuple[str, str], ...] = (
    (
        r" Then (use apf retry|run apf protect as before: it takes only what is new or changed)\.",
        " Then {retry}.",
    ),
    (r"by itself: use apf retry\.", "by itself: {retry}."),
    (r"It was edited meanwhile\. Run apf protect as before\.", "It was edited meanwhile. Then {retry}."),
    (r"away and use apf retry,", "away and {retry},"),
    (r"Then run apf protect with --overwrite\.", "Then submit it anew, with leave to overwrite."),
    (
        r"run apf protect with a stronger --recipe, or one with more steps or guides\. Without --on-weak fail",
        "submit it anew with a stronger recipe. Where weak photos may be published,",
    ),
)


def cure(reason: str, *, transient: bool, code: str = "") -> str:
    """Return what to do, in a sentence or two; of a report without a code, by its reason."""
    return PASSES if transient else CURES[known_code(code, reason)]


def without_commands(advice: str, *, retry: str) -> str:
    """Return a piece of advice for a person or program that has other ways than commands.

    Args:
        retry: how failed photos are tried again, as "press that button".
    """
    for pattern, instead in _WITHOUT_COMMANDS:
        advice = re.sub(pattern, instead.format(retry=retry), advice)
    return advice
