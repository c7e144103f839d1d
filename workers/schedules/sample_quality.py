"""Measure how a sample of outputs looks beside their sources. Loads ONNX Runtime and image libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from apf.errors import PhotoError
from apf.photo import Limits
from apf.protect.quality import compare
from apf.protect.viewer import CpuEyes
from apf.recipe import Recipe
from workers.config.settings import Settings
from workers.decoding.decoder_pool import Decoder
from workers.errors import StoreError
from workers.execution.engine import photo_limits, shared_decoder
from workers.store import Store
from workers.store.output_metadata import SOURCE_ETAG


def measured(
    samples: Sequence[Sequence[str]], recipe: Recipe, source: Store, destination: Store, settings: Settings
) -> list[dict[str, float | int | None]]:
    """For each sample of keys: PSNR inside the faces in dB, and the probe's similarity of faces to themselves.

    Both are means over photos, and None where nothing could be measured. Outputs whose source has changed are left out.

    Args:
        recipe: whose detector and probe look at all of them.

    Raises:
        ApfError: the recipe's weights or detector cannot be loaded.
    """
    eyes = CpuEyes(recipe)
    decoder = shared_decoder(settings)
    limits = photo_limits(settings)
    return [_means([_pair(key, eyes, decoder, limits, source, destination) for key in keys]) for keys in samples]


def _pair(
    key: str, eyes: CpuEyes, decoder: Decoder, limits: Limits, source: Store, destination: Store
) -> tuple[float, float] | None:
    try:
        output = destination.get(key, max_bytes=limits.max_bytes)
        etag = output.info.metadata.get(SOURCE_ETAG)
        data = source.get(key, etag=etag, max_bytes=limits.max_bytes).data
        before, after = (decoder.decode(one, limits, ()) for one in (data, output.data))
    except (PhotoError, StoreError):
        return None
    if before.pixels.shape != after.pixels.shape:
        return None
    found = compare(key, before, after, eyes.detector.detect([before.pixels])[0], eyes.embedding)
    if not found.similarities or not math.isfinite(found.psnr_db):
        return None
    return found.psnr_db, fmean(found.similarities)


def _means(pairs: Sequence[tuple[float, float] | None]) -> dict[str, float | int | None]:
    found = [pair for pair in pairs if pair]
    return {
        "sample": len(found),
        "psnr_db": round(fmean(pair[0] for pair in found), 2) if found else None,
        "similarity": round(fmean(pair[1] for pair in found), 4) if found else None,
    }
