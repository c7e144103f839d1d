"""What the filter's tests share: real photos from installed packages, the shipped filter, and optional shared data."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from apf.faces.alignment import align
from apf.filters.torch_filter import Filter
from apf.recipe import load_recipe
from apf.weight_files import WEIGHTS_DIR

#: Read while tests are collected: once they run, no APF_ variable is left.
SHARED = Path(os.environ.get("APF_SHARED") or Path(__file__).parents[2].parent / "shared")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors on a shared machine: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real recognisers, which are not part of the project."""
    folder = SHARED / "face_models"
    if not (folder / "models.json").exists():
        pytest.skip(f"no recognisers at {folder}: name their parent folder with APF_SHARED")
    return folder


@pytest.fixture(scope="session")
def shared_faces() -> Path:
    """The tar file of real aligned faces, which is not part of the project."""
    file = SHARED / "faces" / "lfw112.tar"
    if not file.exists():
        pytest.skip(f"no faces at {file}: name the folder above with APF_SHARED")
    return file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the weights that ship."""
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS_DIR, folder)
    return folder


@pytest.fixture(scope="session")
def filters() -> dict[str, Filter]:
    """The three built-in recipes with the weights that ship."""
    return {name: Filter.load(name) for name in ("light", "standard", "strong")}


@pytest.fixture(scope="session")
def standard(filters: dict[str, Filter]) -> Filter:
    return filters["standard"]


@pytest.fixture(scope="session")
def gradient_only() -> Filter:
    return Filter.load(load_recipe("standard").model_copy(update={"stages": ("gradient",)}))


@pytest.fixture(scope="session")
def group_photo() -> bytes:
    """A JPEG of six people, 1280 x 886, that comes with InsightFace."""
    spec = importlib.util.find_spec("insightface")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("insightface is not installed")
    return Path(spec.submodule_search_locations[0], "data", "images", "t1.jpg").read_bytes()


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """scikit-image's astronaut, (512, 512, 3) uint8 RGB."""
    return np.ascontiguousarray(astronaut())


@pytest.fixture(scope="session")
def crops(portrait: np.ndarray) -> torch.Tensor:
    """200 crops (200, 3, 112, 112): cuts of a photo at random places, angles and sizes, noise, and flat extremes."""
    random = np.random.default_rng(7)
    found = []
    for number in range(200):
        kind = number % 5
        if kind < 3:
            found.append(_cut(portrait, random))
        elif kind == 3:
            found.append(random.random((3, 112, 112), dtype=np.float32))
        else:
            found.append(np.broadcast_to(random.integers(0, 2, (3, 1, 1)).astype(np.float32), (3, 112, 112)))
    return torch.from_numpy(np.stack(found))


def _cut(photo: np.ndarray, random: np.random.Generator) -> np.ndarray:
    angle, scale = random.uniform(-np.pi, np.pi), random.uniform(0.3, 3)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    x, y = random.uniform(50, 460, 2)
    matrix = np.array([[a, -b, 55.5 - a * x + b * y], [b, a, 55.5 - b * x - a * y]])
    return align(photo, matrix)
