"""What the tests of private mode share: photos, their faces, a key and a device."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apf.detection.centerface_onnx import light_detector
from apf.faces.alignment import align, alignment
from apf.filters.torch_filter import Filter
from apf.private.device import Device
from apf.private.quantise import Reduction
from apf.recipe import load_recipe
from apf.stages.numpy_gradient import LightProbe
from tests.apf.private.commands import answer, contents, run

KEY = bytes(range(32))
#: Nothing taken away but what eight bits cannot hold: with it both roads come to the same.
WHOLE = Reduction(bits=8, momentum=True)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An encoded photo of (H, W, 3) or (H, W) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 as stored, not turned upright."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="session")
def device() -> Device:
    return Device(load_recipe("standard"), KEY, reduction=WHOLE)


@pytest.fixture(scope="session")
def light_probe() -> LightProbe:
    return LightProbe()


@pytest.fixture(scope="session")
def portrait_png(portrait: np.ndarray) -> bytes:
    """One face, without loss."""
    return encoded(portrait[:280, 90:370])


@pytest.fixture(scope="session")
def group_png(group_photo: bytes) -> bytes:
    """Six faces, without loss."""
    return encoded(pixels_of(group_photo))


@pytest.fixture(scope="session")
def faces(portrait: np.ndarray, group_photo: bytes) -> np.ndarray:
    """The seven faces of both photos, (7, 3, 112, 112) float32 in [0, 1]."""
    photos = [portrait, pixels_of(group_photo)]
    found = light_detector().detect(photos)
    return np.stack([align(p, alignment(face.landmarks)) for p, own in zip(photos, found, strict=True) for face in own])


@pytest.fixture
def photos(tmp_path: Path, portrait_png: bytes) -> Path:
    """A portrait, a landscape below it, and what is no photo."""
    folder = tmp_path / "photos"
    (folder / "trips" / "Zürich").mkdir(parents=True)
    (folder / "anna.png").write_bytes(portrait_png)
    plain = encoded(np.asarray(Image.linear_gradient("L").convert("RGB")), "JPEG")
    (folder / "trips" / "Zürich" / "lake.jpg").write_bytes(plain)
    (folder / "trips" / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def untouched(photos: Path) -> Iterator[None]:
    """Whatever the test does, of the photos none is changed, and nothing is added."""
    before = contents(photos)
    yield
    assert contents(photos) == before


@pytest.fixture
def answers(tmp_path: Path, photos: Path, standard: Filter) -> Path:
    """The server's answers to the photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "__init__", partialmethod(Device.__init__, reduction=WHOLE))
        assert run("gradient", photos, "-o", tmp_path / "asked") == 0
    answer(tmp_path / "asked", tmp_path / "answers", standard)
    return tmp_path / "answers"


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds or makes a key in the developer's home."""
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path_factory.mktemp("config")))
    yield
