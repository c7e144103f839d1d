"""Recall of the default detector: small and turned faces that were found stay found."""

from __future__ import annotations

import numpy as np
import pytest

from apf.detection.centerface_onnx import light_detector
from apf.detection.tiling import PyramidDetector
from tests.benchmarks.bench_detector import laid_out, shows
from tests.benchmarks.photos import cutouts, six


@pytest.fixture(scope="module")
def light() -> PyramidDetector:
    return light_detector()


@pytest.fixture(scope="module")
def faces(light: PyramidDetector) -> list[np.ndarray]:
    return cutouts(light, six())


@pytest.mark.parametrize(
    ("megapixels", "height", "angle", "least"),
    [(1, 20, 0, 4), (1, 24, 0, 5), (1, 32, 45, 6), (1, 64, 90, 4), (1, 48, 135, 3), (1, 64, 180, 5), (12, 48, 0, 6)],
)
def test_as_many_are_found_as_ever(
    light: PyramidDetector, faces: list[np.ndarray], megapixels: int, height: int, angle: int, least: int
) -> None:
    """Of six real faces of a height and an angle no fewer are found than in the benchmark's table, and nothing else."""
    photo, middles = laid_out(faces, height, angle, megapixels)
    [found] = light.detect([photo])
    assert sum(any(shows(face, middle, height) for face in found) for middle in middles) >= least
    assert all(any(shows(face, middle, height) for middle in middles) for face in found)
