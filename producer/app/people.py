"""People: faces in rows, one a person, as the program groups them and the user moves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

#: Of a face: the row that it is in, by the face's id.
Rows = Mapping[str, str]

#: The row of faces that do not count.
LEFT_OUT = ""
#: What a button sends where a face is of somebody who has no row yet. No row is named so.
SOMEBODY_ELSE = "somebody else"


def rows(people: Rows) -> dict[str, list[str]]:
    """Return the faces in each person's row; what is left out is in none."""
    found: dict[str, list[str]] = {}
    for face, person in people.items():
        if person != LEFT_OUT:
            found.setdefault(person, []).append(face)
    return dict(sorted(found.items(), key=lambda row: (_number(row[0]), row[0])))


def left_out(people: Rows) -> list[str]:
    return [face for face, person in people.items() if person == LEFT_OUT]


def counted(people: Rows) -> dict[str, str]:
    """Return the people without the faces that were left out, as a check takes them."""
    return {face: person for face, person in people.items() if person != LEFT_OUT}


def moved(people: Rows, faces: Collection[str], row: str) -> dict[str, str]:
    """Return the people after some faces went into a row; faces and rows that are not there any more change nothing."""
    if row == SOMEBODY_ELSE:
        row = _new_row(people.values())
    elif row != LEFT_OUT and row not in people.values():
        return dict(people)
    return {face: row if face in faces else person for face, person in people.items()}


def merged(grouped: Rows, sorted_: Rows) -> dict[str, str]:
    """Return new groups of the program, with each face that the user has seen left where the user put it.

    A group's other faces go to where most of it is; a group of new faces alone gets a row of its own.
    """
    found: dict[str, str] = {}
    names = [*sorted_.values()]
    for faces in rows(grouped).values():
        known = Counter(sorted_[face] for face in faces if sorted_.get(face, LEFT_OUT) != LEFT_OUT)
        row = known.most_common(1)[0][0] if known else _new_row(names)
        names.append(row)
        found |= {face: sorted_.get(face, row) for face in faces}
    return found


def _new_row(names: Collection[str]) -> str:
    return f"Person {max((_number(name) for name in names), default=0) + 1}"


def _number(name: str) -> int:
    digits = name.rpartition(" ")[2]
    return int(digits) if digits.isdecimal() else 0
