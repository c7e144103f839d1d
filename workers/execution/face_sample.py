"""Count the faces of a sample of photos. Loads a detector and image libraries; `producer.cli` loads it by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apf.detection.detector import load_detector
from apf.errors import PhotoError
from apf.recipe import Recipe
from workers.config.settings import Settings
from workers.errors import StoreError
from workers.execution.engine import photo_limits, shared_decoder
from workers.store import Store

#: Photos that are looked at: each takes some tenths of a second.
LOOKED_AT = 20


def counter(recipe: Recipe, settings: Settings) -> Callable[[Store, Sequence[str]], float | None]:
    """Return a `workers.batches.estimate.CountFaces` that looks with the recipe's detector."""

    def count(source: Store, keys: Sequence[str]) -> float | None:
        detector, decoder = load_detector(recipe.detector), shared_decoder(settings)
        limits = photo_limits(settings)
        found = []
        for key in keys[:: max(1, len(keys) // LOOKED_AT)][:LOOKED_AT]:
            try:
                photo = decoder.decode(source.get(key, max_bytes=limits.max_bytes).data, limits, ())
            except (PhotoError, StoreError):
                continue
            found.append(len(detector.detect([photo.pixels])[0]))
        return sum(found) / len(found) if found else None

    return count
