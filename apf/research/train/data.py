"""Faces to train on: aligned 112x112 pictures, one folder a person, in a tar file or a folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png"}
#: People whose name's SHA-1 ends in one of these bytes modulo ten are kept apart: about a tenth.
HELD_OUT_BUCKET = 0


class DataError(Exception):
    """Raised when the faces to train on are missing or unfit. The message names the cure."""


@dataclass(frozen=True)
class Faces:
    """Pictures (N, 3, 112, 112) uint8 RGB and, for each, the name of its person."""

    pixels: Tensor
    people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.people)

    def select(self, keep: list[int]) -> Faces:
        return Faces(self.pixels[keep], tuple(self.people[i] for i in keep))

    def by_person(self) -> dict[str, list[int]]:
        """Return the positions of each person's pictures, people and pictures in the data set's order."""
        found: dict[str, list[int]] = {}
        for index, person in enumerate(self.people):
            found.setdefault(person, []).append(index)
        return found

    def split(self) -> tuple[Faces, Faces]:
        """Return the faces to train on, and those of the tenth of the people that is kept apart."""
        held = [i for i, name in enumerate(self.people) if is_held_out(name)]
        rest = [i for i, name in enumerate(self.people) if not is_held_out(name)]
        return self.select(rest), self.select(held)

    def batch(self, index: Tensor) -> Tensor:
        """Return the pictures at these positions as float32 in [0, 1]."""
        return self.pixels[index].float() / 255


def load_split(path: Path, *, held_out_people: int = 1) -> tuple[Faces, Faces]:
    """Load faces to train on, and those of the tenth of the people that is kept apart.

    Raises:
        DataError: as `load_faces`, or there are none to train on, or fewer people than these kept apart.
    """
    train, held_out = load_faces(path).split()
    if not len(train) or len(set(held_out.people)) < held_out_people:
        raise DataError(f"{path} holds too few people to keep a tenth of them apart: give more of them")
    return train, held_out


def is_held_out(person: str) -> bool:
    """Return whether a person is kept apart, by hash of the name: the same people whatever the data set's order."""
    return int(hashlib.sha1(person.encode(), usedforsecurity=False).hexdigest(), 16) % 10 == HELD_OUT_BUCKET


def load_faces(path: Path) -> Faces:
    """Every 112x112 picture of a tar file or folder, sorted by name; the folder's name is the person.

    Raises:
        DataError: nothing is there, or a picture is damaged, of another size, or of nobody.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no faces at {path}: name a tar file or folder of PERSON/PICTURE.jpg with --faces")
    pictures: list[np.ndarray] = []
    people: list[str] = []
    for name, data in sorted(_files(path)):
        person = PurePosixPath(name).parent.name
        if not person:
            raise DataError(f"{name} in {path} lies in no person's folder: sort the pictures into PERSON/PICTURE.jpg")
        try:
            picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except OSError as error:
            raise DataError(f"{name} in {path} is no whole picture: take it out or fetch it again") from error
        if picture.shape != (112, 112, 3):
            raise DataError(f"{name} in {path} is {picture.shape[1]}x{picture.shape[0]}: align faces to 112x112 first")
        pictures.append(picture)
        people.append(person)
    if not pictures:
        raise DataError(f"no pictures in {path}: expected PERSON/PICTURE.jpg, 112x112, aligned to the ArcFace template")
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Faces(stacked, tuple(people))


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.suffix.lower() in SUFFIXES:
                yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member) if member.isfile() else None
                if handle and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                    yield member.name, handle.read()
    except tarfile.TarError as error:
        raise DataError(f"{path} is no tar file: {error}") from error
