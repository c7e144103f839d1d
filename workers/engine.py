"""The filter as the shard runner sees it; torch loads with the first photo, not before."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from apf.clock import StageClock
from apf.recipe import Recipe
from workers import metrics
from workers.settings import Settings

if TYPE_CHECKING:
    from apf.photo import Header, Photo
    from apf.pipeline import ProtectedPixels
    from workers.decoder import Decoder

#: Address space of a decoder: libraries and their threads, and the largest photo with its work space.
DECODER_BASE_BYTES, DECODER_BYTES_PER_PIXEL = 2**30, 24


class Engine(Protocol):
    """What a shard needs done to photos. Decoding and encoding run in many threads, `protect` in one."""

    def header(self, data: bytes) -> Header:
        """Format and size without decoding; raises PhotoError where the photo is refused."""
        ...

    def decode(self, data: bytes) -> Photo: ...

    def protect(self, photos: Sequence[Photo], clock: StageClock) -> list[ProtectedPixels]: ...

    def encode(self, protected: ProtectedPixels) -> bytes: ...


class FilterEngine:
    """The real one: `apf` on this machine's device."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        from apf.filter import Filter  # noqa: PLC0415  torch takes seconds to import
        from apf.photo import Limits  # noqa: PLC0415

        self._filter = Filter.load(recipe, device=usable_device(settings.device))
        _ = self._filter.detector  # a missing detector fails here, not at the first photo
        self._limits = Limits(max_bytes=settings.max_photo_bytes, max_pixels=settings.max_photo_pixels)
        self._decoder = shared_decoder(settings)

    def header(self, data: bytes) -> Header:
        return self._decoder.header(data, self._limits)

    def decode(self, data: bytes) -> Photo:
        return self._decoder.decode(data, self._limits, self._filter.recipe.keep_metadata)

    def protect(self, photos: Sequence[Photo], clock: StageClock) -> list[ProtectedPixels]:
        from apf.pipeline import protect_batch  # noqa: PLC0415

        return protect_batch(photos, self._filter, clock)

    def encode(self, protected: ProtectedPixels) -> bytes:
        from apf.pipeline import encode_protected  # noqa: PLC0415

        return encode_protected(protected, self._filter)


@lru_cache(maxsize=1)
def shared_decoder(settings: Settings) -> Decoder:
    """The process's decoder, whatever the recipe."""
    from workers.decoder import Decoder  # noqa: PLC0415

    return Decoder(
        processes=min(settings.read_threads, os.cpu_count() or 1),
        limit_s=settings.decode_limit_s,
        memory_bytes=DECODER_BASE_BYTES + DECODER_BYTES_PER_PIXEL * settings.max_photo_pixels,
    )


@lru_cache(maxsize=2)
def load_engine(recipe: Recipe, settings: Settings) -> Engine:
    """The engine for a recipe; the last two stay loaded.

    Raises:
        ApfError: the weights are not the recipe's, or its detector cannot be loaded.
    """
    started = time.monotonic()
    engine = FilterEngine(recipe, settings)
    metrics.observe("apf_model_load_seconds", time.monotonic() - started)
    return engine


def usable_device(name: str) -> str:
    if name != "auto":
        return name
    import torch  # noqa: PLC0415

    return "cuda" if torch.cuda.is_available() else "cpu"
