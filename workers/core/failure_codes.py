"""Codes of failures: why a photo has no output, for programs. Reports, `--json`, callbacks and the API carry them."""

from __future__ import annotations

import re
from enum import StrEnum

from apf.errors import (
    ApfError,
    CameraRaw,
    CorruptPhoto,
    DecodingTimeout,
    DeviceMemoryError,
    PhotoTooLarge,
    PrivateFileError,
    SeveralPictures,
    UnknownColours,
    UnsupportedPhoto,
    WeakPerturbation,
)
from workers.errors import (
    Archived,
    Changed,
    Forbidden,
    InvalidKey,
    IsOutput,
    NotAllowed,
    NotFound,
    ObjectTooLarge,
    Occupied,
    StoreFull,
    StoreGone,
    WorkerError,
)


class FailureCode(StrEnum):
    """Why a photo failed. On the wire: a name that was given stays."""

    occupied = "occupied"
    is_output = "is_output"
    private_file = "private_file"
    weak = "weak"
    changed = "changed"
    store_gone = "store_gone"
    deleted = "deleted"
    not_allowed = "not_allowed"
    timeout = "timeout"
    camera_raw = "camera_raw"
    several_pictures = "several_pictures"
    colours = "colours"
    too_large = "too_large"
    memory = "memory"
    unsupported = "unsupported"
    corrupt = "corrupt"
    store_full = "store_full"
    archived = "archived"
    denied = "denied"
    key = "key"
    unexpected = "unexpected"
    other = "other"


#: The first kind that fits counts.
_KINDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], FailureCode], ...] = (
    (Occupied, FailureCode.occupied),
    (IsOutput, FailureCode.is_output),
    ((PrivateFileError, WeakPerturbation), FailureCode.private_file),
    (Changed, FailureCode.changed),
    (StoreGone, FailureCode.store_gone),
    (NotFound, FailureCode.deleted),
    (NotAllowed, FailureCode.not_allowed),
    (DecodingTimeout, FailureCode.timeout),
    (CameraRaw, FailureCode.camera_raw),
    (SeveralPictures, FailureCode.several_pictures),
    (UnknownColours, FailureCode.colours),
    ((PhotoTooLarge, ObjectTooLarge), FailureCode.too_large),
    ((MemoryError, DeviceMemoryError), FailureCode.memory),
    (UnsupportedPhoto, FailureCode.unsupported),
    (CorruptPhoto, FailureCode.corrupt),
    (StoreFull, FailureCode.store_full),
    (Archived, FailureCode.archived),
    (Forbidden, FailureCode.denied),
    (InvalidKey, FailureCode.key),
    ((WorkerError, ApfError), FailureCode.other),
    (Exception, FailureCode.unexpected),
)

#: What versions before the codes wrote as reasons; the first that matches counts.
_REASONS: tuple[tuple[str, FailureCode], ...] = (
    (r"was not written by apf|is the output of another photo", FailureCode.occupied),
    (r"is an output of apf itself", FailureCode.is_output),
    (
        r"gradient|perturbation|safetensors|of its format|made by APF|file holds|file's epsilon|fetch it again",
        FailureCode.private_file,
    ),
    (r"faces? (is|are) weak: a juror", FailureCode.weak),
    (r"changed (while the batch ran|since it was planned)", FailureCode.changed),
    (r"is gone: mount", FailureCode.store_gone),
    (r"deleted while", FailureCode.deleted),
    (r"APF_ALLOWED_URLS|overlap|belongs into|set APF_DETECTOR", FailureCode.not_allowed),
    (r"(de|en)coding took longer", FailureCode.timeout),
    (r"raw file|camera raw", FailureCode.camera_raw),
    (r"pages|frames of animation|image sequence", FailureCode.several_pictures),
    (r"CMYK", FailureCode.colours),
    (r"over the limit", FailureCode.too_large),
    (r"memory", FailureCode.memory),
    (
        r"not supported|8-bit form|16-bit planes|cannot be written as|unsupported|cannot handle",
        FailureCode.unsupported,
    ),
    (r"not a photo|cannot be decoded|cannot be read|claims a size|header says|decoder died", FailureCode.corrupt),
    (r"no space|disk|quota", FailureCode.store_full),
    (r"archived", FailureCode.archived),
    (r"credential|denied|clock", FailureCode.denied),
    (r"\bkey\b|symbolic link", FailureCode.key),
    (r"unexpected", FailureCode.unexpected),
)
#: A store's reason begins with the photo's name, which may read like anything.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def code_of(error: BaseException) -> FailureCode:
    """Return the code of what was raised over a photo."""
    return next((code for kind, code in _KINDS if isinstance(error, kind)), FailureCode.unexpected)


def known_code(code: str, reason: str) -> FailureCode:
    """Return a report's code; where it has none, or one that is not known here, as other versions do: by its reason."""
    try:
        return FailureCode(code)
    except ValueError:
        said = _QUOTED.sub("", reason)
        found = (one for pattern, one in _REASONS if re.search(pattern, said, re.IGNORECASE))
        return next(found, FailureCode.other)
