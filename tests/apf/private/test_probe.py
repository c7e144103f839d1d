"""The gradient stage on the device is the server's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from apf.errors import WeightsError
from apf.faces.alignment import CROP
from apf.filters.torch_filter import Filter
from apf.research.export_probe import DIM
from apf.stages.compose import start_of
from apf.stages.gradient import gradient
from apf.stages.numpy_gradient import GRADIENT_ONNX, UNIVERSAL, LightProbe
from apf.weight_files import WEIGHTS_DIR


def test_embeds_as_the_probe_does(light_probe: LightProbe, standard: Filter, faces: np.ndarray) -> None:
    """The embeddings of seven real faces are the torch probe's, at unit size."""
    expected = standard.probe(torch.from_numpy(faces)).numpy()
    found = np.stack([light_probe.embedding(face) for face in faces])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.rotating
@pytest.mark.parametrize("levels", [5, 12])
@pytest.mark.parametrize("stages", [("gradient", "transfer", "universal"), ("gradient", "transfer")])
def test_steps_lead_where_the_torch_road_leads(
    light_probe: LightProbe, standard: Filter, faces: np.ndarray, levels: int, stages: tuple[str, ...]
) -> None:
    """Perturbation and momentum of real faces, from the universal start and from none, are those of
    `apf.stages.gradient`.
    """
    some = torch.from_numpy(faces[:2])
    epsilon = levels / 255
    expected = gradient(standard.probe, some, epsilon, start_of(standard.uap, stages, len(some))).numpy()
    found = np.stack([light_probe.gradient(face, epsilon, stages) for face in some.numpy()])
    assert found.shape == (2, 6, CROP, CROP) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, :3], expected[:, :3], atol=1e-3)
    np.testing.assert_allclose(found[:, 3:], expected[:, 3:], atol=1e-3 * np.abs(expected[:, 3:]).max())


def test_the_gradient_is_the_slope(light_probe: LightProbe, faces: np.ndarray) -> None:
    """Along random directions the similarity changes as the file's gradient says (central differences)."""
    face, random = faces[0], np.random.default_rng(1)
    own = light_probe.embedding(faces[1])
    inputs = {"face": face[None], "own": own.reshape(1, DIM)}
    away = light_probe._network(**inputs)["away"][0].astype(np.float64)
    directions = [random.standard_normal(face.shape), np.sign(away), random.choice([-1.0, 1.0], face.shape)]
    for direction in directions:
        step = 2e-3 * direction / np.abs(direction).mean()
        ahead, behind = (light_probe.embedding((face + s * step).astype(np.float32)) @ own for s in (1, -1))
        expected = -(ahead - behind) / 2
        assert (away * step).sum() == pytest.approx(expected, rel=0.05, abs=2e-5)


def test_the_steps_lower_the_similarity(light_probe: LightProbe, faces: np.ndarray) -> None:
    """Where the steps lead, the probe no longer knows the face; turned around, as large a perturbation fails."""
    for face in faces[:3]:
        own = light_probe.embedding(face)
        units = light_probe.gradient(face, 8 / 255, ("gradient",))[:3]
        assert light_probe.embedding(face + 8 / 255 * units) @ own < 0.3
        assert light_probe.embedding(face + 8 / 255 * units[:, ::-1, ::-1]) @ own > 0.6


@pytest.mark.parametrize("name", [GRADIENT_ONNX, UNIVERSAL])
@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_damaged_weights_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    """A file that is not the one shipped is refused before it is run."""
    for file in (GRADIENT_ONNX, UNIVERSAL, "SHA256SUMS"):
        shutil.copy(WEIGHTS_DIR / file, tmp_path)
    LightProbe(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"{name}.*install the package again"):
        LightProbe(tmp_path)
