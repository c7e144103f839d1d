"""Media types by suffix: photos or gradient files, and the estimated work of each."""

from __future__ import annotations

from workers.core.records import PhotoRef
from workers.store import ObjectInfo

#: Bytes a pixel of usual photos by the key's suffix; a shard's size is only a guess until its headers are read.
BYTES_PER_PIXEL = {
    "jpg": 0.35,
    "jpeg": 0.35,
    "jpe": 0.35,
    "jfif": 0.35,
    "mpo": 0.35,
    "png": 1.8,
    "webp": 0.2,
    "heic": 0.15,
    "heif": 0.15,
    "hif": 0.15,
    "avif": 0.1,
    "tif": 3.0,
    "tiff": 3.0,
}
#: Keys without a suffix are common in platforms' buckets; the worker looks at their bytes.
NO_SUFFIX_BYTES_PER_PIXEL = 0.35

#: As `apf.private.files` has it, which needs numpy.
GRADIENT_SUFFIX = "safetensors"
#: A face's gradient takes the filter 10 ms where a photo of one megapixel takes it 330 ms.
MEGAPIXELS_PER_GRADIENT = 0.03
#: Of one face, at 8 bits a value and with its momentum; with less of it a file holds more faces than is guessed.
BYTES_PER_GRADIENT = 6 * 112 * 112


def suffix(key: str) -> str:
    """Return the key's suffix in lower case without the dot; empty where it has none."""
    name = key.rsplit("/", 1)[-1]
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_taken(info: ObjectInfo, *, private: bool) -> bool:
    """Return whether a batch plans the object: of a private one gradient files by their suffix, of others what may be a
    photo.

    What lies there of the other kind is no business of the batch.
    """
    return suffix(info.key) == GRADIENT_SUFFIX if private else may_be_photo(info)


def may_be_photo(info: ObjectInfo) -> bool:
    """Return whether the object is a photo by its suffix, or may be for want of one."""
    ending = suffix(info.key)
    return not info.key.endswith("/") and (not ending or ending in BYTES_PER_PIXEL)


def has_photos_suffix(key: str) -> bool:
    return suffix(key) in BYTES_PER_PIXEL


def estimated_megapixels(ref: PhotoRef) -> float:
    """Return a guess from bytes and suffix, for sharding only; of a gradient file, those of a photo that takes as
    long.
    """
    ending = suffix(ref.key)
    if ending == GRADIENT_SUFFIX:
        return ref.size / BYTES_PER_GRADIENT * MEGAPIXELS_PER_GRADIENT
    return ref.size / BYTES_PER_PIXEL.get(ending, NO_SUFFIX_BYTES_PER_PIXEL) / 1e6
