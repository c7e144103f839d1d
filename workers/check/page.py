"""Render a check as one HTML file, which loads nothing from elsewhere and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from apf.check.compare import FaceMatch, RecogniserMatches, Verdict
from apf.check.marks import Marks
from workers.check.result import WORST, FaceResult, Result
from workers.report.output_files import GENERATOR
from workers.report.single_file import digest, embedded, part, templates

#: Other photos that are shown beside a face, those most like it first.
SHOWN_OTHERS = 6
#: Faces that are shown of each person.
SHOWN_FACES = 12
WORDS = {
    Verdict.hidden: "Not matched any more",
    Verdict.partly: "Matched with some",
    Verdict.matched: "Still matched",
    Verdict.unknown: "Nobody can say",
    Verdict.alone: "Nothing to compare with",
}


@dataclass(frozen=True)
class Pair:
    """A protected face beside one other photo of the person."""

    picture: str
    photo: str
    #: Recognisers, by name.
    matched_by: tuple[str, ...]


def render(result: Result) -> str:
    """Return the whole page."""
    style = part("workers.check", "page.css")
    photos = sorted((p for p in result.photos if p.faces), key=lambda p: WORST.index(p.verdict or Verdict.alone))
    people: dict[str, list[str]] = {}
    for face in result.clean:
        people.setdefault(result.people[face.id], []).append(embedded(face.before_jpeg))
    return (
        templates("workers.check")
        .get_template("page.html")
        .render(
            generator=Markup(GENERATOR),  # noqa: S704  our own
            style=Markup(style),  # noqa: S704
            policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src {digest(style)}",
            result=result,
            photos=photos,
            people=sorted(people.items(), key=lambda one: -len(one[1])),
            shown_faces=SHOWN_FACES,
            words=WORDS,
            pairs=lambda face: _pairs(face, result),
            marks_text=marks_text,
            totals=_totals,
            jpeg=embedded,
            climbed=[one.recogniser.name for one in result.deciding if one.recogniser.climbed],
            deciding=[one.recogniser.name for one in result.deciding],
            own=any(one.recogniser.own for one in result.deciding),
        )
    )


def marks_text(marks: Marks | None) -> str:
    """Return where a recogniser's mark is from, for people."""
    if marks is None:
        return "none: your photos hold too few pairs of different people to estimate it, and its file says none"
    match marks.origin:
        case "known":
            return f"{marks.usual:.2f}, measured among 1,200 strangers: one pair in a hundred is matched by mistake"
        case "given":
            return f"{marks.usual:.2f}, as you gave it beside its file"
        case _ if marks.rough:
            return (
                f"{marks.usual:.2f}, estimated from {marks.pairs} pairs of different people among your photos, none of "
                "which reaches it: rough"
            )
        case _:
            return (
                f"{marks.usual:.2f}, estimated from {marks.pairs:,} pairs of different people among your photos: one "
                "in a hundred reaches it"
            )


def _pairs(face: FaceResult, result: Result) -> list[Pair]:
    first = face.said[0]
    order = sorted(range(len(first.others)), key=lambda i: -_highest(face.said, result.asked, i))
    return [
        Pair(
            embedded(result.clean[first.others[i]].before_jpeg),
            result.clean[first.others[i]].photo,
            tuple(
                one.recogniser.name
                for one, said in zip(result.asked, face.said, strict=True)
                if one.marks and said.cosines[i] >= one.marks.usual
            ),
        )
        for i in order[:SHOWN_OTHERS]
    ]


def _highest(said: Sequence[FaceMatch], asked: Sequence[RecogniserMatches], i: int) -> float:
    """Return the likeness of a pair by whoever finds it most alike, in units of that recogniser's mark."""
    return max(
        one.cosines[i] / max(of.marks.usual if of.marks else 1.0, 1e-6) for one, of in zip(said, asked, strict=True)
    )


def _totals(one: RecogniserMatches) -> dict[str, int | None]:
    pairs = sum(len(said.others) for said in one.said)
    known = [said.matched_before for said in one.said]
    return {
        "pairs": pairs,
        "before": None if None in known else sum(n or 0 for n in known),
        "matched": None if one.marks is None else sum(said.matched or 0 for said in one.said),
    }
