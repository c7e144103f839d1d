"""Advice to a person on a photo that failed, by the worker's reason."""

from __future__ import annotations

import re

_AGAIN = " Then run apf protect as before: it takes only what is new or changed."
_RETRY = " Then use apf retry."
_PASSES = "It may pass by itself: use apf retry."
_OTHER = "Mend what the reason says." + _RETRY

#: The first that matches counts. Reasons are those of `apf.photo`, `workers.store` and
#: `workers.execution.shard_pipeline.explain`.
_CURES: tuple[tuple[str, str], ...] = (
    (
        r"was not written by apf|is the output of another photo",
        "Move what lies there away and use apf retry, or choose another destination. Is it to be replaced? Then run "
        "apf protect with --overwrite.",
    ),
    (r"is an output of apf itself", "Nothing to do: it is protected. Take the original where you mean that."),
    (
        r"gradient|perturbation|safetensors|of its format|made by APF|file holds|file's epsilon|fetch it again",
        "The photo's owner makes the gradient file again, with the recipe and the version of this installation, and "
        "hands it in under the same name." + _AGAIN,
    ),
    (
        r"faces? (is|are) weak: a juror",
        "Retrying comes to the same: run apf protect with a stronger --recipe, or one with more steps or guides. "
        "Without --on-weak fail it is published as it is.",
    ),
    (r"changed (while the batch ran|since it was planned)", "It was edited meanwhile. Run apf protect as before."),
    (
        r"is gone: mount",
        "The folder of the photos is not there. Connect its drive again, or put the folder back." + _RETRY,
    ),
    (r"deleted while", "Nothing to do, unless it was deleted by mistake: then put it back." + _AGAIN),
    (
        r"APF_ALLOWED_URLS|overlap|belongs into|set APF_DETECTOR",
        "The workers' operator has to allow this place or detector." + _RETRY,
    ),
    (r"(de|en)coding took longer", "Save it again in a photo program, or raise APF_DECODE_LIMIT_S." + _AGAIN),
    (r"raw file|camera raw", "Develop it to a JPEG or TIFF in your raw converter." + _AGAIN),
    (r"pages|frames of animation|image sequence", "Export its pictures as single photos." + _AGAIN),
    (r"CMYK", "Convert it to RGB (sRGB) in a photo program." + _AGAIN),
    (
        r"over the limit",
        "Scale it down, or raise APF_MAX_PHOTO_PIXELS or APF_MAX_PHOTO_BYTES if there is memory for it." + _AGAIN,
    ),
    (r"memory", "Scale it down, close other programs, or lower APF_PHOTO_BUFFER_BYTES." + _RETRY),
    (
        r"not supported|8-bit form|16-bit planes|cannot be written as|unsupported|cannot handle",
        "Save it as an 8-bit RGB JPEG or PNG in a photo program." + _AGAIN,
    ),
    (
        r"not a photo|cannot be decoded|cannot be read|claims a size|header says|decoder died",
        "The file is damaged. Does it open in a photo program? Save it again there; else take it from a backup."
        + _AGAIN,
    ),
    (r"no space|disk|quota", "Free some space where the protected photos go." + _RETRY),
    (r"archived", "Restore it from the archive, and wait until that is done." + _AGAIN),
    (r"credential|denied|clock", "Correct the rights, the credentials or the clock, as the reason says." + _RETRY),
    (r"\bkey\b|symbolic link", "Give the photo another name, or put the file itself there." + _AGAIN),
    (
        r"unexpected",
        "This is a fault of the program: please report it, with the reason. No other photo suffers from it.",
    ),
)

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

#: A store's reason begins with the photo's name, which may read like anything.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def cure(reason: str, *, transient: bool) -> str:
    """Return what to do, in a sentence or two."""
    if transient:
        return _PASSES
    said = _QUOTED.sub("", reason)
    return next((advice for pattern, advice in _CURES if re.search(pattern, said, re.IGNORECASE)), _OTHER)


def without_commands(advice: str, *, retry: str) -> str:
    """Return a piece of advice for a person or program that has other ways than commands.

    Args:
        retry: how failed photos are tried again, as "press that button".
    """
    for pattern, instead in _WITHOUT_COMMANDS:
        advice = re.sub(pattern, instead.format(retry=retry), advice)
    return advice
