"""The page's data on one photo. Needs no image library."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Turns the name and the bytes of one picture into what an <img> takes as its source.
Place = Callable[[str, bytes], str]


@dataclass(frozen=True)
class FaceCard:
    """One face that the detector found."""

    #: Left, top, width and height as parts of the photo's, in [0, 1].
    box: tuple[float, float, float, float]
    #: The probe's cosine between the face before and after, in [-1, 1]; None where it was not measured.
    similarity: float | None = None
    #: The aligned face as JPEGs, by "after" and "before".
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One photo of the album."""

    key: str
    #: protected, no_face, skipped or failed, as the batch's report has it.
    outcome: str
    #: Remarks, in sentences.
    notes: tuple[str, ...] = ()
    #: Of a failed photo.
    reason: str = ""
    code: str = ""
    cure: str = ""
    #: Upright, in pixels; zero where the photo is not shown.
    width: int = 0
    height: int = 0
    #: As the report or the output's metadata counts them.
    face_count: int = 0
    #: Of these, what a juror still knows; of a photo that failed for it, too.
    weak: int = 0
    #: The jury's word on each face, in the filter's order: the likeness, 1 being what it takes to be known.
    likenesses: tuple[float, ...] = ()
    #: Faces as found anew; none where the photo was not measured.
    faces: tuple[FaceCard, ...] = ()
    measured: bool = False
    #: Inside the faces, in dB; None where there is no finite value.
    psnr_db: float | None = None
    #: JPEGs by "thumb" and "view" (what is published), and with originals "before-thumb", "before", "difference".
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def similarity(self) -> float | None:
        """The highest of its faces': the one that is protected least."""
        return max((face.similarity for face in self.faces if face.similarity is not None), default=None)

    def record(self, number: int, place: Place) -> dict[str, Any]:
        """Plain JSON values for the page's script; `place` is asked for each picture's source."""
        name = f"{number:05}"
        return {
            "name": legible(self.key),
            "outcome": self.outcome,
            "notes": [legible(note) for note in self.notes],
            "reason": legible(self.reason),
            "code": self.code,
            "cure": self.cure,
            "width": self.width,
            "height": self.height,
            "faceCount": self.face_count,
            "weak": self.weak,
            "likenesses": [round(likeness, 2) for likeness in self.likenesses],
            "measured": self.measured,
            "psnr": _rounded(self.psnr_db, 2),
            "similarity": _rounded(self.similarity, 3),
            "images": {kind: place(f"{name}-{kind}.jpg", data) for kind, data in self.pictures.items()},
            "faces": [face_record(face, f"{name}-face{i}", place) for i, face in enumerate(self.faces, start=1)],
        }


def face_record(face: FaceCard, name: str, place: Place) -> dict[str, Any]:
    return {
        "box": [round(part, 5) for part in face.box],
        "similarity": _rounded(face.similarity, 3),
        "images": {kind: place(f"{name}-{kind}.jpg", data) for kind, data in face.pictures.items()},
    }


def legible(text: str) -> str:
    """Return a key or reason as a person may read it: what is invisible or turns text around is spelt out.

    Keys are anybody's bytes; a file's name may hold half a surrogate pair, which no UTF-8 file can.
    """
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    # Cc, Cf: controls, zero widths and changes of direction; Cs, Co, Cn: no characters; Zl, Zp: line ends.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\\u{{{ord(character):x}}}"
    return character


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
