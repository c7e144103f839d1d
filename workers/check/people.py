"""People: who each face is, by recognisers that group faces, by a user's sorting, or by the photos' folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from apf.check.grouping import GROUPING, groups
from apf.check.recognisers import load_recogniser
from workers.check.sightings import Sighting
from workers.errors import BadRequest

#: Who a face is, by its `id`; a face that is not named is nobody's, and left out.
People = Mapping[str, str]

#: The end of a sorted picture's name: the face's id.
_ID = re.compile(r"-([0-9a-f]{10})\.jpg$")
#: Characters of a picture's name that come from the photo's.
_NAME = 60


def by_folder(faces: Sequence[Sighting]) -> People:
    """Return the first folder of each photo's name as its person; photos that lie in none are left out."""
    found = {}
    for face in faces:
        folder, slash, _ = face.photo.partition("/")
        if slash:
            found[face.id] = folder
    return found


def by_recognisers(faces: Sequence[Sighting]) -> People:
    """Group faces by how they looked before; those of which no original is here are left out."""
    clean = [face for face in faces if face.before is not None]
    crops = [face.before for face in clean if face.before is not None]
    numbers = groups(crops, [load_recogniser(name) for name in GROUPING])
    digits = len(str(max(numbers, default=0) + 1))
    return {face.id: f"Person {number + 1:0{digits}}" for face, number in zip(clean, numbers, strict=True)}


def sort_into(folder: Path, faces: Sequence[Sighting], people: People) -> int:
    """Write a picture of each face into a folder for each person, to be looked at and moved; returns how many.

    Raises:
        BadRequest: there is something in the folder already, or it cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise BadRequest(f"{folder} is not empty: name a new folder with --sort-into")
        count = 0
        for face in faces:
            if face.id not in people or not face.before_jpeg:
                continue
            place = folder / people[face.id]
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = re.sub(r"[^\w.-]+", "_", face.photo.rsplit("/", 1)[-1])[-_NAME:]
            (place / f"{name}-{face.id}.jpg").write_bytes(face.before_jpeg)
            count += 1
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written ({error.strerror}): name another with --sort-into") from error
    return count


def by_hand(folder: Path) -> People:
    """Return who the user says each face is: the folder that its picture lies in.

    Raises:
        BadRequest: there are no such pictures.
    """
    found: dict[str, str] = {}
    try:
        for path in sorted(folder.rglob("*.jpg")):
            if (match := _ID.search(path.name)) and path.parent != folder:
                found[match[1]] = path.parent.relative_to(folder).as_posix()
    except OSError as error:
        raise BadRequest(f"{folder} cannot be read ({error.strerror}): name a folder of --sort-into") from error
    if not found:
        raise BadRequest(
            f"{folder} holds no sorted faces: make them with --sort-into, and leave their names as they are"
        )
    return found
