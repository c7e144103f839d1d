"""From a listing to shards: streamed, with a cursor, so that a library of any size can be planned and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from workers.job import Batch, PhotoRef
from workers.ledger import Ledger
from workers.store import ObjectInfo, Store

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


def suffix(key: str) -> str:
    """The key's suffix in lower case without the dot; empty where it has none."""
    name = key.rsplit("/", 1)[-1]
    return name.rpartition(".")[2].lower() if "." in name else ""


def may_be_photo(info: ObjectInfo) -> bool:
    """Whether the object is planned: by its suffix, or for want of one."""
    ending = suffix(info.key)
    return not info.key.endswith("/") and (not ending or ending in BYTES_PER_PIXEL)


def estimated_megapixels(ref: PhotoRef) -> float:
    """A guess from bytes and suffix, for sharding only."""
    return ref.size / BYTES_PER_PIXEL.get(suffix(ref.key), NO_SUFFIX_BYTES_PER_PIXEL) / 1e6


@dataclass
class _Shard:
    """The shard being filled, and the listing's state behind it."""

    photos: list[PhotoRef] = field(default_factory=list)
    megapixels: float = 0.0
    ignored: int = 0

    def full(self, batch: Batch, coming: float) -> bool:
        if not self.photos:
            return False
        return len(self.photos) >= batch.max_shard_photos or self.megapixels + coming > batch.max_shard_megapixels


def plan(ledger: Ledger, batch: Batch, source: Store) -> Iterator[Batch]:
    """List the source from the batch's cursor on; yields the batch anew after each shard that was written.

    The plan object is written before the batch that counts it: a producer that dies in between writes it again.
    """
    filling = _Shard()
    cursor = batch.cursor
    for info in source.list(start_after=cursor):
        if not may_be_photo(info):
            filling.ignored += 1
            cursor = info.key
            continue
        ref = PhotoRef(key=info.key, etag=info.etag, size=info.size)
        megapixels = estimated_megapixels(ref)
        if filling.full(batch, megapixels):
            batch = _close(ledger, batch, filling, cursor)
            yield batch
            filling = _Shard()
        filling.photos.append(ref)
        filling.megapixels += megapixels
        cursor = info.key
    batch = _close(ledger, batch, filling, cursor, planned=True)
    yield batch


def _close(ledger: Ledger, batch: Batch, filling: _Shard, cursor: str, *, planned: bool = False) -> Batch:
    if filling.photos:
        ledger.write_plan(batch.id, batch.shards, filling.photos)
    after = batch.model_copy(
        update={
            "planned": planned,
            "cursor": cursor,
            "shards": batch.shards + bool(filling.photos),
            "photos": batch.photos + len(filling.photos),
            "ignored": batch.ignored + filling.ignored,
        }
    )
    ledger.write_batch(after)
    return after
