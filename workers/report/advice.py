"""Advice to a person on a photo that failed, by its code: for readers at a terminal, of the API, of the app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.core.failure_codes import FailureCode, known_code


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Whom advice is for: how they try failed photos again, and how they take up what has changed."""

    retry: str
    again: str
    #: Whether they set variables.
    operates: bool = True
    #: What is said to them otherwise than to the rest.
    own: Mapping[FailureCode, str] = field(default_factory=dict)


AT_A_TERMINAL = Reader(
    retry="use apf retry",
    again="run apf protect as before: it takes only what is new or changed",
    own={FailureCode.changed: "It was edited meanwhile. Run apf protect as before."},
)
OF_THE_API = Reader(
    retry="retry the batch",
    again="retry the batch",
    own={
        FailureCode.occupied: "Move what lies there away and {retry}, or choose another destination. Is it to be "
        "replaced? Then submit it anew, with leave to overwrite.",
        FailureCode.weak: "Retrying comes to the same: submit it anew with a stronger recipe. Where weak photos may be "
        "published, it is published as it is.",
    },
)

_PASSES = "It may pass by itself: {retry}."
_CURES: dict[FailureCode, str] = {
    FailureCode.occupied: "Move what lies there away and {retry}, or choose another destination. Is it to be replaced? "
    "Then run apf protect with --overwrite.",
    FailureCode.is_output: "Nothing to do: it is protected. Take the original where you mean that.",
    FailureCode.private_file: "The photo's owner makes the gradient file again, with the recipe and the version of "
    "this installation, and hands it in under the same name. Then {again}.",
    FailureCode.weak: "Retrying comes to the same: run apf protect with a stronger --recipe, or one with more steps or "
    "guides. Without --on-weak fail it is published as it is.",
    FailureCode.changed: "It was edited meanwhile. Then {again}.",
    FailureCode.store_gone: "The folder of the photos is not there. Connect its drive again, or put the folder back. "
    "Then {retry}.",
    FailureCode.deleted: "Nothing to do, unless it was deleted by mistake: then put it back. Then {again}.",
    FailureCode.not_allowed: "The workers' operator has to allow this place or detector. Then {retry}.",
    FailureCode.timeout: "Save it again in a photo program{or_wait}. Then {again}.",
    FailureCode.camera_raw: "Develop it to a JPEG or TIFF in your raw converter. Then {again}.",
    FailureCode.several_pictures: "Export its pictures as single photos. Then {again}.",
    FailureCode.colours: "Convert it to RGB (sRGB) in a photo program. Then {again}.",
    FailureCode.too_large: "Scale it down{or_take_more}. Then {again}.",
    FailureCode.memory: "Scale it down, or close other programs{or_buffer_less}. Then {retry}.",
    FailureCode.unsupported: "Save it as an 8-bit RGB JPEG or PNG in a photo program. Then {again}.",
    FailureCode.corrupt: "The file is damaged. Does it open in a photo program? Save it again there; else take it from "
    "a backup. Then {again}.",
    FailureCode.store_full: "Free some space where the protected photos go. Then {retry}.",
    FailureCode.archived: "Restore it from the archive, and wait until that is done. Then {again}.",
    FailureCode.denied: "Correct the rights, the credentials or the clock, as the reason says. Then {retry}.",
    FailureCode.key: "Give the photo another name, or put the file itself there. Then {again}.",
    FailureCode.unexpected: "This is a fault of the program: please report it, with the reason. No other photo suffers "
    "from it.",
    FailureCode.other: "Mend what the reason says. Then {retry}.",
}
_SETTINGS = {
    "or_wait": ", or raise APF_DECODE_LIMIT_S",
    "or_take_more": ", or raise APF_MAX_PHOTO_PIXELS or APF_MAX_PHOTO_BYTES if there is memory for it",
    "or_buffer_less": ", or lower APF_PHOTO_BUFFER_BYTES",
}


def cure(reason: str, *, transient: bool, code: str = "", reader: Reader = AT_A_TERMINAL) -> str:
    """Return what to do, in a sentence or two; of a report without a code, by its reason."""
    known = known_code(code, reason)
    text = _PASSES if transient else reader.own.get(known, _CURES[known])
    settings = _SETTINGS if reader.operates else dict.fromkeys(_SETTINGS, "")
    return text.format(retry=reader.retry, again=reader.again, **settings)
