"""Result of a check: what recognisers say of each photo, in sentences for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apf.check.compare import CleanFace, FaceMatch, ProtectedFace, RecogniserMatches, Verdict, match_faces
from apf.check.recognisers import Recogniser
from workers.check.people import People
from workers.check.sightings import FoundFaces, Sighting

#: A photo is as badly off as the worst of its faces, and a face as the recogniser that knows it best says.
WORST = (Verdict.matched, Verdict.partly, Verdict.hidden, Verdict.unknown, Verdict.alone)


@dataclass(frozen=True)
class FaceResult:
    """One face of a protected photo."""

    sighting: Sighting
    person: str
    #: By those who decide.
    verdict: Verdict
    #: By recogniser, in the order of `Result.asked`.
    said: tuple[FaceMatch, ...]
    sentence: str


@dataclass(frozen=True)
class PhotoResult:
    """One protected photo."""

    photo: str
    verdict: Verdict | None
    #: For people.
    sentence: str
    faces: tuple[FaceResult, ...]


@dataclass(frozen=True)
class Result:
    """The whole check."""

    photos: tuple[PhotoResult, ...]
    asked: tuple[RecogniserMatches, ...]
    #: The clean faces that `FaceMatch.others` counts from.
    clean: tuple[Sighting, ...]
    people: People
    #: Whether a person has said who is who.
    confirmed: bool
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def deciding(self) -> tuple[RecogniserMatches, ...]:
        """Those whose verdict counts: the user's own recognisers, or else the jury."""
        return _deciding(self.asked)

    @property
    def counts(self) -> Counter[str]:
        """Photos by verdict; "none" of those without a face that was compared."""
        return Counter(photo.verdict.value if photo.verdict else "none" for photo in self.photos)

    @property
    def compared(self) -> int:
        """Photos of which something can be said."""
        return sum(self.counts[verdict] for verdict in (Verdict.hidden, Verdict.partly, Verdict.matched))

    @property
    def still_matched(self) -> int:
        return self.counts[Verdict.partly] + self.counts[Verdict.matched]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "photos": [_photo_json(photo, self.asked) for photo in self.photos],
            "compared": self.compared,
            "still_matched": self.still_matched,
            "recognisers": [_asked_json(one, one in self.deciding) for one in self.asked],
            "people": len(set(self.people.values())),
            "confirmed": self.confirmed,
            "unread": [{"photo": name, "reason": reason} for name, reason in self.unread.items()],
        }


def judged(looked: FoundFaces, people: People, recognisers: Sequence[Recogniser], *, confirmed: bool) -> Result:
    """Ask each recogniser about each protected face."""
    clean = [face for face in looked.faces if face.before is not None and face.id in people]
    shown = [face for face in looked.faces if face.after is not None and face.id in people]
    places = {id(face): place for place, face in enumerate(clean)}
    before = [CleanFace(f.photo, f.digest, people[f.id], f.before) for f in clean if f.before is not None]
    after = [ProtectedFace(f.photo, people[f.id], f.after, places.get(id(f))) for f in shown if f.after is not None]
    asked = tuple(match_faces(recogniser, before, after) for recogniser in recognisers)
    faces = [_face(face, people[face.id], [one.said[i] for one in asked], asked) for i, face in enumerate(shown)]
    photos = tuple(_photo(key, [face for face in faces if face.sighting.photo == key], looked) for key in looked.photos)
    return Result(photos, asked, tuple(clean), people, confirmed, looked.unread)


def _deciding(asked: Sequence[RecogniserMatches]) -> tuple[RecogniserMatches, ...]:
    return tuple(one for one in asked if one.recogniser.own and one.marks) or tuple(
        one for one in asked if not one.recogniser.own
    )


def _face(sighting: Sighting, person: str, said: Sequence[FaceMatch], asked: Sequence[RecogniserMatches]) -> FaceResult:
    deciding = _deciding(asked)
    words = [one for one, of in zip(said, asked, strict=True) if of in deciding]
    worst = min(words, key=lambda one: (WORST.index(one.verdict), -(one.matched or 0)))
    return FaceResult(sighting, person, worst.verdict, tuple(said), _sentence(worst))


def _sentence(said: FaceMatch) -> str:
    others = len(said.others)
    photos = "the other photo" if others == 1 else f"the {others} other photos"
    match said.verdict:
        case Verdict.alone:
            return "There is no other photo of this person here to compare it with."
        case Verdict.unknown:
            return "Nobody can say: there are too few photos of different people to compare."
        case Verdict.hidden if others == 1:
            return "No longer recognised from the other photo of this person."
        case Verdict.hidden:
            return f"No longer recognised from any of {photos} of this person."
        case _ if others == 1:
            return "Still recognised from the other photo of this person."
        case _:
            return f"Still recognised from {said.matched} of {photos} of this person."


def _photo(key: str, faces: list[FaceResult], looked: FoundFaces) -> PhotoResult:
    if not faces:
        reason = looked.unread.get(key)
        sentence = f"It could not be looked at: {reason}" if reason else "No face in it was compared."
        return PhotoResult(key, None, sentence, ())
    worst = min(faces, key=lambda face: WORST.index(face.verdict))
    if len(faces) == 1:
        return PhotoResult(key, worst.verdict, worst.sentence, tuple(faces))
    known = [face for face in faces if face.verdict in (Verdict.partly, Verdict.matched)]
    hidden = sum(face.verdict is Verdict.hidden for face in faces)
    parts = [f"Of {len(faces)} faces, {len(known) or 'none'} {'is' if len(known) <= 1 else 'are'} still recognised"]
    if known:
        parts[0] += f" ({', '.join(face.person for face in known)})"
    if left := len(faces) - len(known) - hidden:
        parts.append(f"of {left} there is no other photo here to compare with")
    return PhotoResult(key, worst.verdict, f"{'; '.join(parts)}.", tuple(faces))


def _photo_json(photo: PhotoResult, asked: Sequence[RecogniserMatches]) -> dict[str, Any]:
    return {
        "photo": photo.photo,
        "verdict": photo.verdict.value if photo.verdict else None,
        "sentence": photo.sentence,
        "faces": [
            {
                "face": face.sighting.number,
                "person": face.person,
                "verdict": face.verdict.value,
                "recognisers": {
                    one.recogniser.name: _said_json(said) for one, said in zip(asked, face.said, strict=True)
                },
            }
            for face in photo.faces
        ],
    }


def _said_json(said: FaceMatch) -> dict[str, Any]:
    return {
        "verdict": said.verdict.value,
        "others": len(said.others),
        "matched": said.matched,
        "matched_strictly": said.matched_strictly,
        "matched_before": said.matched_before,
        "highest": round(max(said.cosines), 3) if said.cosines else None,
    }


def _asked_json(one: RecogniserMatches, decides: bool) -> dict[str, Any]:
    marks = one.marks
    return {
        "name": one.recogniser.name,
        "decides": decides,
        "climbed": one.recogniser.climbed,
        "threshold": round(marks.usual, 4) if marks else None,
        "threshold_strict": round(marks.strict, 4) if marks and marks.strict is not None else None,
        "threshold_from": marks.origin if marks else None,
        "threshold_pairs": marks.pairs if marks else None,
        "pairs": sum(len(said.others) for said in one.said),
        "matched": _sum(said.matched for said in one.said),
        "matched_before": _sum(said.matched_before for said in one.said),
        "together": one.together,
        "together_matched": one.together_matched,
    }


def _sum(values: Any) -> int | None:
    found = list(values)
    return None if None in found else sum(found)
