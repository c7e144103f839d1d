"""Sightings: the faces of photos, before and after they were protected."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from apf.detection.detector import Detector
from apf.errors import PhotoError
from apf.faces.alignment import Box, Face, Float32, align, alignment
from apf.photo import Limits, Photo
from workers.decoding.decoder_pool import Decoder
from workers.errors import NotFound, StoreError
from workers.report import thumbnails
from workers.store import Store
from workers.store.media_types import may_be_photo

#: Smaller faces, in pixels of their box, tell recognisers next to nothing.
SMALLEST_PX = 24
#: Boxes that share so much of their area hold the same face.
SAME_FACE = 0.4


@dataclass(frozen=True)
class Sighting:
    """One face of one photo."""

    #: The photo's key; those of other photos begin with the name of their folder.
    photo: str
    #: Of the photo's bytes.
    digest: str
    #: Among its photo's faces, the largest first, from 1 on.
    number: int
    #: Aligned, (3, 112, 112) in [0, 1], and as a JPEG. Before: None where the original is not here.
    before: Float32 | None
    after: Float32 | None
    before_jpeg: bytes = b""
    after_jpeg: bytes = b""

    @property
    def id(self) -> str:
        """Ten hex digits that name the face: of one photo in two places, each by itself."""
        return hashlib.sha256(f"{self.digest} {self.number} {self.photo}".encode()).hexdigest()[:10]


@dataclass
class FoundFaces:
    """All that was found."""

    faces: list[Sighting] = field(default_factory=list)
    #: Protected photos that were looked at, by key.
    photos: list[str] = field(default_factory=list)
    #: Photos that could not be looked at, and why.
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FaceFinder:
    """Finds the faces of photos."""

    decoder: Decoder
    limits: Limits
    detector: Detector
    #: Only the largest face of each photo.
    main_only: bool = False

    def pair(self, key: str, after: Store, before: Store | None, found: FoundFaces) -> None:
        """Add the faces of a protected photo; with its original, where that is here, as they were in it."""
        found.photos.append(key)
        with _noted(key, found):
            data, photo = self._photo(after, key)
            now = self._faces(photo)
            original = self._original(before, key, photo) if before else None
            if original is None:
                found.faces += (_sighting(key, data, i, photo, face) for i, face in enumerate(now, start=1))
                return
            data, earlier = original
            for i, face in enumerate(self._faces(earlier), start=1):
                seen = _same(face, now) or face  # one that is not found any more is looked at where it was
                found.faces.append(_sighting(key, data, i, photo, seen, earlier, face))

    def clean(self, key: str, store: Store, name: str, found: FoundFaces) -> None:
        """Add the faces of a photo that is not protected."""
        with _noted(name, found):
            data, photo = self._photo(store, key)
            for i, face in enumerate(self._faces(photo), start=1):
                found.faces.append(_sighting(name, data, i, None, None, photo, face))

    def _photo(self, store: Store, key: str) -> tuple[bytes, Photo]:
        data = store.get(key, max_bytes=self.limits.max_bytes).data
        return data, self.decoder.decode(data, self.limits, ())

    def _original(self, store: Store, key: str, after: Photo) -> tuple[bytes, Photo] | None:
        try:
            data, photo = self._photo(store, key)
        except (NotFound, PhotoError):
            return None
        return (data, photo) if photo.pixels.shape == after.pixels.shape else None

    def _faces(self, photo: Photo) -> list[Face]:
        found = [face for face in self.detector.detect([photo.pixels])[0] if _side(face.box) >= SMALLEST_PX]
        found.sort(key=lambda face: _side(face.box), reverse=True)
        return found[:1] if self.main_only else found


@contextmanager
def _noted(name: str, found: FoundFaces) -> Iterator[None]:
    """Have a photo that cannot be read noted, and no more."""
    try:
        yield
    except (StoreError, PhotoError, MemoryError) as error:
        found.unread[name] = str(error) or "out of memory"


def _sighting(
    name: str,
    data: bytes,
    number: int,
    after: Photo | None,
    now: Face | None,
    before: Photo | None = None,
    then: Face | None = None,
) -> Sighting:
    digest = hashlib.sha256(data).hexdigest()
    clean, clean_jpeg = _cut(before, then)
    protected, protected_jpeg = _cut(after, now)
    return Sighting(name, digest, number, clean, protected, clean_jpeg, protected_jpeg)


def _cut(photo: Photo | None, face: Face | None) -> tuple[Float32 | None, bytes]:
    if photo is None or face is None:
        return None, b""
    crop = align(photo.pixels, alignment(face.landmarks))
    return crop, thumbnails.crop(crop, photo)


def photos_in(store: Store, limit: int) -> list[str]:
    """Return the keys of at most so many photos, spread evenly over all of them."""
    keys = [info.key for info in store.list() if may_be_photo(info)]
    return keys if len(keys) <= limit else [keys[index * len(keys) // limit] for index in range(limit)]


def _same(face: Face, others: Sequence[Face]) -> Face | None:
    best = max(others, key=lambda other: _shared(face.box, other.box), default=None)
    return best if best and _shared(face.box, best.box) >= SAME_FACE else None


def _shared(a: Box, b: Box) -> float:
    """Return the part of both boxes' area that they share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (_side(a) ** 2 + _side(b) ** 2 - common)


def _side(box: Box) -> float:
    return float(((box[2] - box[0]) * (box[3] - box[1])) ** 0.5)
