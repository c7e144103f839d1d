"""Compare protected faces with other, clean photos of their people, and say what is still matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from apf.check.marks import Marks, estimated
from apf.check.recognisers import Recogniser
from apf.faces.alignment import Float32


@dataclass(frozen=True)
class CleanFace:
    """A face of a photo that is not protected."""

    #: As the user knows it; and what tells the same picture under two names.
    photo: str
    digest: str
    person: str
    #: (3, 112, 112) float32 RGB in [0, 1].
    crop: Float32


@dataclass(frozen=True)
class ProtectedFace:
    """A face of a protected photo."""

    photo: str
    person: str
    crop: Float32
    #: The same face before, by its place among the clean ones; None where the original is not here.
    before: int | None = None


class Verdict(StrEnum):
    """What a recogniser says of a protected face."""

    #: It is matched to no other photo of the person.
    hidden = "hidden"
    #: It is matched to some of them, at most half.
    partly = "partly"
    matched = "matched"
    #: There is no other photo of the person.
    alone = "alone"
    #: The recogniser has no mark.
    unknown = "unknown"


@dataclass(frozen=True)
class FaceMatch:
    """What one recogniser says of one protected face."""

    #: Clean faces that it was compared with, by their places, and the cosines.
    others: tuple[int, ...]
    cosines: tuple[float, ...]
    #: Of these, how many are matched at the usual mark, and at the strict one; None where there is no such mark.
    matched: int | None
    matched_strictly: int | None
    #: How many were matched before; None where the original is not here, or there is no mark.
    matched_before: int | None

    @property
    def verdict(self) -> Verdict:
        if not self.others:
            return Verdict.alone
        if self.matched is None:
            return Verdict.unknown
        if not self.matched:
            return Verdict.hidden
        return Verdict.partly if 2 * self.matched <= len(self.others) else Verdict.matched


@dataclass(frozen=True)
class RecogniserMatches:
    """One recogniser, and what it says."""

    recogniser: Recogniser
    #: Known, given or estimated; None where nothing says from where on it matches.
    marks: Marks | None
    #: Of each protected face.
    said: tuple[FaceMatch, ...]
    #: Pairs of two protected photos of one person, and how many of them are matched.
    together: int
    together_matched: int | None


def match_faces(
    recogniser: Recogniser, clean: Sequence[CleanFace], protected: Sequence[ProtectedFace]
) -> RecogniserMatches:
    """Return what a recogniser says of each protected face, compared with the person's other photos."""
    known = recogniser.identities([face.crop for face in clean])
    now = recogniser.identities([face.crop for face in protected])
    likeness = now @ known.T if len(clean) and len(protected) else np.zeros((len(protected), len(clean)), np.float32)
    people = np.array([face.person for face in clean])
    marks = recogniser.marks or estimated(_strangers(known, people, clean))
    said = tuple(_said(face, cosines, known, clean, marks) for face, cosines in zip(protected, likeness, strict=True))
    pairs = [
        float(now[i] @ now[j])
        for i, one in enumerate(protected)
        for j, other in enumerate(protected[:i])
        if one.person == other.person and one.photo != other.photo
    ]
    matched = None if marks is None else sum(cosine >= marks.usual for cosine in pairs)
    return RecogniserMatches(recogniser, marks, said, len(pairs), matched)


def _strangers(known: Float32, people: np.ndarray, clean: Sequence[CleanFace]) -> Float32:
    """Return the cosines of all pairs of different people. Two faces of one photo are two people's, too."""
    if len(clean) < 2:
        return np.zeros(0, np.float32)
    upper = np.triu_indices(len(clean), 1)
    differ = people[upper[0]] != people[upper[1]]
    found: Float32 = (known @ known.T)[upper][differ]
    return found


def _said(
    face: ProtectedFace, cosines: Float32, known: Float32, clean: Sequence[CleanFace], marks: Marks | None
) -> FaceMatch:
    own = None if face.before is None else clean[face.before]
    others = [
        place
        for place, other in enumerate(clean)
        if other.person == face.person and other.photo != face.photo and (own is None or other.digest != own.digest)
    ]
    found = [float(cosines[place]) for place in others]
    before = None
    if marks and face.before is not None:
        before = sum(float(known[face.before] @ known[place]) >= marks.usual for place in others)
    strict = marks.strict if marks else None
    return FaceMatch(
        others=tuple(others),
        cosines=tuple(found),
        matched=None if marks is None else sum(cosine >= marks.usual for cosine in found),
        matched_strictly=None if strict is None else sum(cosine >= strict for cosine in found),
        matched_before=before,
    )
