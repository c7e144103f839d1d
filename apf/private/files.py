"""The two files of private mode, as safetensors: version 1 of their format is docs/private.md.

A gradient file holds what the server needs to see of a photo's faces, a perturbation file what it answers. Neither
holds a pixel, a place in the photo, a size, a time or a name, unless the owner gives it one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from apf.errors import PrivateFileError
from apf.faces.alignment import CROP
from apf.private.quantise import BITS, MAX_NOISE, Float32, Reduction, UInt8, channels_fit, dequantise
from apf.recipe import Recipe
from apf.stages.constants import CHANNELS

#: Of the format.
VERSION = "1"
#: The suffix of the files' names, and their media type.
SUFFIX = ".safetensors"
CONTENT_TYPE = "application/octet-stream"
GRADIENT, PERTURBATION = "apf-gradient", "apf-perturbation"


#: More faces than that no file holds.
MAX_FACES = 4096
#: A header says little; a larger one is refused before it is parsed, as JSON takes many times its size in memory.
MAX_HEADER_BYTES = 2**13
#: So no file of either kind is larger; its arrays are as large as the file is.
MAX_FILE_BYTES = 8 + MAX_HEADER_BYTES + MAX_FACES * CHANNELS * CROP * CROP
#: The largest perturbation is this many of its units.
UNITS = 127

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class Terms:
    """The part of a recipe that the server's work depends on: both sides must mean the same."""

    epsilon_levels: int
    stages: tuple[str, ...]
    weights: str
    version: int

    @classmethod
    def of(cls, recipe: Recipe) -> Terms:
        return cls(recipe.epsilon_levels, tuple(recipe.stages), recipe.weights, recipe.version)

    def difference(self, other: Terms) -> str:
        """Where the other differs, for people; empty where they agree."""
        names = {
            "epsilon_levels": "epsilon",
            "stages": "stages",
            "weights": "weights",
            "version": "the recipes' version",
        }
        return ", ".join(
            f"{name} {getattr(self, field)} and not {getattr(other, field)}"
            for field, name in names.items()
            if getattr(self, field) != getattr(other, field)
        )


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of a photo's faces, as they leave the device."""

    #: Of the photo, chosen by its owner's device; says nothing to anybody else.
    id: str
    terms: Terms
    #: Bits a value: what the gradients have been cut to.
    bits: int
    #: (n, 6 or 3, 112, 14 * bits) uint8, as `apf.private.quantise` packs them.
    packed: UInt8
    #: Spread of the noise that is in them.
    noise: float = 0.0
    #: A name that the owner wants the file to have; empty for none.
    name: str = ""

    @classmethod
    def of(
        cls,
        id: str,
        terms: Terms,
        gradients: Float32,
        *,
        bits: int = 8,
        momentum: bool = True,
        noise: float = 0.0,
        seed: int = 0,
        name: str = "",
    ) -> Gradients:
        """Of (n, 6, 112, 112) float32, as `apf.stages.gradient.gradient` gives them, reduced as `Reduction` says."""
        packed = Reduction(bits, momentum, noise).reduce(gradients, seed=seed)
        return cls(id, terms, bits, packed, noise, name)

    @property
    def reduction(self) -> Reduction:
        """The reduction of them."""
        return Reduction(self.bits, self.packed.shape[1] == CHANNELS, self.noise)

    @property
    def faces(self) -> int:
        return len(self.packed)

    def values(self) -> Float32:
        """(n, 6, 112, 112) float32: what is left of the gradients."""
        return dequantise(self.packed, self.bits)

    def encode(self) -> bytes:
        facts = {"bits": str(self.bits), "noise": repr(float(self.noise)), **({"name": self.name} if self.name else {})}
        return _encoded(GRADIENT, self.id, self.terms, {"gradients": self.packed}, facts)

    @classmethod
    def decode(cls, data: bytes) -> Gradients:
        """Read a gradient file; raise PrivateFileError where the bytes are none of this version."""
        file_id, terms, facts, packed = _decoded(data, GRADIENT, "gradients")
        bits = facts.get("bits", "")
        if bits not in map(str, BITS):
            raise PrivateFileError(f"a gradient file has {_shown(bits) or 'no'} bits a value: 1, 2, 4 or 8 are known")
        channels = packed.shape[1] if packed.ndim == 4 and channels_fit(packed.shape[1]) else CHANNELS
        _check(packed, (channels, CROP, CROP * int(bits) // 8), np.uint8, "gradients")
        return cls(file_id, terms, int(bits), packed, _noise(facts.get("noise", "")), facts.get("name", ""))


@dataclass(frozen=True, eq=False)
class Perturbations:
    """The server's answer: one perturbation for each gradient, in their order."""

    #: As in the gradient file.
    id: str
    terms: Terms
    #: (n, 3, 112, 112) int8, in units of epsilon / 127, within [-127, 127].
    units: Int8

    @classmethod
    def of(cls, gradients: Gradients, deltas: Float32) -> Perturbations:
        """Of (n, 3, 112, 112) float32 in units of [0, 1] pixels, at most epsilon."""
        epsilon = gradients.terms.epsilon_levels / 255
        units = np.clip(np.rint(deltas * (UNITS / epsilon)), -UNITS, UNITS).astype(np.int8)
        return cls(gradients.id, gradients.terms, units)

    @property
    def faces(self) -> int:
        return len(self.units)

    def values(self) -> Float32:
        """(n, 3, 112, 112) float32 in units of [0, 1] pixels; none is larger than epsilon, whatever the file holds."""
        epsilon = self.terms.epsilon_levels / 255
        return within(self.units.astype(np.float32) * np.float32(epsilon / UNITS), epsilon)

    def encode(self) -> bytes:
        return _encoded(PERTURBATION, self.id, self.terms, {"perturbations": self.units}, {})

    @classmethod
    def decode(cls, data: bytes) -> Perturbations:
        """Read a perturbation file; raise PrivateFileError where the bytes are none of this version."""
        file_id, terms, _, units = _decoded(data, PERTURBATION, "perturbations")
        _check(units, (3, CROP, CROP), np.int8, "perturbations")
        return cls(file_id, terms, units)


def within(deltas: Float32, epsilon: float) -> Float32:
    """Perturbations cut so that none is larger than epsilon, exactly."""
    limit = np.nextafter(np.float32(epsilon), np.float32(0))
    cut: Float32 = np.clip(np.asarray(deltas, np.float32), -limit, limit)
    return cut


def decode(data: bytes) -> Gradients | Perturbations:
    """Either of the two files, as its header says; raises PrivateFileError."""
    kind = Perturbations if _metadata(data).get("format") == PERTURBATION else Gradients
    return kind.decode(data)


def read_private(path: Path) -> bytes:
    """Return the bytes of an untrusted file.

    Raises:
        PrivateFileError: it is larger than any that APF makes; no more of it is read.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PrivateFileError(
            f"the file has over {MAX_FILE_BYTES:,} bytes, and none that APF makes has: fetch it again"
        )
    return data


def looks_private(data: bytes) -> bool:
    """Return whether bytes begin as a file of private mode does; a photo never does."""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= len(data) - 8


def _encoded(kind: str, file_id: str, terms: Terms, arrays: dict[str, NDArray[Any]], facts: dict[str, str]) -> bytes:
    stated = {
        "epsilon_levels": str(terms.epsilon_levels),
        "stages": " ".join(terms.stages),
        "weights": terms.weights,
        "recipe_version": str(terms.version),
    }
    metadata = {"format": kind, "version": VERSION, "id": file_id, **stated, **facts}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return _in_order(safetensors.numpy.save(contiguous, metadata))


def _in_order(data: bytes) -> bytes:
    """Return the file with its header sorted: safetensors writes it in any order, and equal files should be equal."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _decoded(data: bytes, kind: str, array: str) -> tuple[str, Terms, dict[str, str], NDArray[Any]]:
    metadata = _metadata(data)
    if metadata.get("format") != kind:
        given = _shown(metadata.get("format") or "something else")
        raise PrivateFileError(f"the file is no {kind} but {given}: give the file that `apf private` or the queue made")
    if metadata.get("version") != VERSION:
        raise PrivateFileError(
            f"the file is of version {_shown(metadata.get('version', ''))} of its format, and {VERSION} is known here: "
            "install the same version on both sides"
        )
    try:
        arrays = safetensors.numpy.load(data)
        terms = _terms(metadata)
        file_id, found = metadata["id"], arrays[array]
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        raise PrivateFileError(f"the file is damaged ({_shown(str(error))}): make it or fetch it again") from error
    if set(arrays) != {array} or not re.fullmatch(r"[0-9a-f]{32}", file_id):
        raise PrivateFileError(f"the file holds more than {array} and a proper id: it was not made by APF")
    return file_id, terms, metadata, found


def _terms(metadata: dict[str, str]) -> Terms:
    """Raise LookupError or ValueError where a text is none that could be meant."""
    patterns = {
        "epsilon_levels": "[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]",
        "stages": "(?:gradient|transfer|universal)(?: (?:gradient|transfer|universal))*",
        "weights": "[0-9a-f]{64}",
        "recipe_version": "[0-9]{1,6}",
    }
    for name, pattern in patterns.items():
        if not re.fullmatch(pattern, metadata[name]):
            raise ValueError(f"{name} {metadata[name]!a} is none")
    stages = tuple(metadata["stages"].split())
    return Terms(int(metadata["epsilon_levels"]), stages, metadata["weights"], int(metadata["recipe_version"]))


def _shown(text: str) -> str:
    """Return untrusted text, short and without what a terminal would obey."""
    return ascii(text)[1:-1][:80]


def _metadata(data: bytes) -> dict[str, str]:
    """Return the header's texts, read before anything is allocated for the arrays."""
    try:
        if not looks_private(data):
            raise ValueError("no header")
        size = int.from_bytes(data[:8], "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError("a large header")
        header = json.loads(data[8 : 8 + size])
        found = header["__metadata__"]
        return {str(name): str(text) for name, text in found.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PrivateFileError("the file is no safetensors file of APF: give one that `apf private` made") from error


def _noise(text: str) -> float:
    try:
        return Reduction(noise=float(text)).noise
    except ValueError as error:
        raise PrivateFileError(
            f"a gradient file's noise is '{_shown(text)}': a number from 0 to {MAX_NOISE:g} is known"
        ) from error


def _check(array: NDArray[Any], shape: tuple[int, ...], kind: type, what: str) -> None:
    if array.ndim != 4 or array.shape[1:] != shape or array.dtype != kind:
        raise PrivateFileError(f"{what} are (n, {', '.join(map(str, shape))}), not {array.shape} {array.dtype}")
    if len(array) > MAX_FACES:
        raise PrivateFileError(f"the file holds {len(array)} faces: {MAX_FACES} are the most")
