"""Who is in a folder of photos: every person's photos, and the main face of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from apf.detection.detector import Detector
from apf.errors import PhotoError
from apf.faces.alignment import Box, Float64, align, alignment
from apf.photo import Photo, decode, looks_like_photo
from apf.research.evaluate.whole_photos.boxes import box_side
from apf.research.train.data import DataError


@dataclass(frozen=True)
class Subject:
    """A clean photo and its main face."""

    person: str
    path: Path
    box: Box
    matrix: Float64
    #: (3, 112, 112) in [0, 1].
    crop: Tensor


def subjects_in(folder: Path, detector: Detector) -> tuple[list[Subject], int]:
    """Return the photos with a face of people who have two such, and how many photos of people who have two show none.

    Args:
        folder: photos, a folder a person, at any depth.
        detector: finds the faces; the largest is the main face.

    Raises:
        DataError: there is no such folder, nobody in it has two photos with a face, or a photo is damaged.
    """
    if not folder.is_dir():
        raise DataError(f"no photos at {folder}: name a folder of PERSON/PHOTO.jpg with --photos")
    people: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.parent != folder and path.is_file() and looks_like_photo(path.read_bytes()):
            people.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    several = [(person, path) for person, own in people.items() for path in own if len(own) > 1]
    found = [_subject(*one, detector) for one in tqdm(several, desc="clean photos", unit="photo", leave=False)]
    with_face = [subject for subject in found if subject]
    names = [subject.person for subject in with_face]
    chosen = [subject for subject in with_face if names.count(subject.person) > 1]
    if not chosen:
        raise DataError(f"nobody in {folder} has two photos with a face: give PERSON/PHOTO.jpg, two or more a person")
    return chosen, len(found) - len(with_face)


def decoded(path: Path, keep_metadata: tuple[str, ...] = ()) -> Photo:
    """Return the photo in a file, with a damaged one reported by its path.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        return decode(path.read_bytes(), keep_metadata=keep_metadata)
    except PhotoError as error:
        raise DataError(f"{path} cannot be protected ({error}): take it out or fetch it again") from error


def _subject(person: str, path: Path, detector: Detector) -> Subject | None:
    pixels = decoded(path).pixels
    face = max(detector.detect([pixels])[0], key=lambda face: box_side(face.box), default=None)
    if face is None:
        return None
    matrix = alignment(face.landmarks)
    return Subject(person, path, face.box, matrix, torch.from_numpy(align(pixels, matrix)))
