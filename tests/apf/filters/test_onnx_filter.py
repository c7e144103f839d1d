"""The filter by ONNX Runtime: what the filter by torch gives, faster and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from apf.errors import OtherVersion, WeightsError
from apf.filters.load import load_filter
from apf.filters.onnx_filter import TRANSFER_ONNX, CpuFilter
from apf.filters.torch_filter import Filter
from apf.recipe import Recipe, load_recipe, make_recipe
from apf.research.export_transfer import export, shipped
from apf.runtime.onnx_session import RuntimeNetwork
from apf.stages.affine_sampling import Sampling
from apf.stages.compose import start_of
from apf.stages.constants import Stage
from apf.stages.gradient import gradient, maps
from apf.stages.sparse_sampling import SparseSampling
from apf.weight_files import WEIGHTS_DIR, check_weights, weights_digest

#: In units of [0, 1] pixels: a hundredth of a level of 255.
CLOSE = 0.01 / 255


@pytest.fixture(scope="module")
def fast() -> CpuFilter:
    return CpuFilter.load("standard")


@pytest.mark.rotating
@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_gives_what_torch_gives(name: str, filters: dict[str, Filter], crops: torch.Tensor) -> None:
    """Over real cuts, noise and flat extremes: the same perturbation up to rounding, and never beyond epsilon."""
    some = crops[:15]
    wanted = filters[name].perturbation(some).numpy()
    found = np.stack(CpuFilter.load(name).perturb(list(some.numpy())))
    flat = some.flatten(1).std(1).numpy() == 0  # there the probe's gradient is rounding alone, and its sign anything
    assert np.abs(found - wanted)[~flat].max() < 1 / 255
    assert np.abs(found - wanted)[~flat].mean() < CLOSE
    assert np.abs(found).max() <= filters[name].recipe.epsilon


@pytest.mark.rotating
@pytest.mark.parametrize("stages", [("gradient",), ("universal",), ("gradient", "universal"), ("gradient", "transfer")])
def test_gives_what_torch_gives_of_some_stages(stages: tuple[str, ...], crops: torch.Tensor) -> None:
    """Whatever stages a recipe leaves out."""
    recipe = Recipe.model_validate({**load_recipe("standard").model_dump(), "stages": stages})
    wanted = Filter.load(recipe).perturbation(crops[:5]).numpy()
    found = np.stack(CpuFilter.load(recipe).perturb(list(crops[:5].numpy())))
    real = [0, 1, 2, 3]
    assert np.abs(found - wanted)[real].mean() < CLOSE


def test_gives_what_torch_gives_of_gradients(fast: CpuFilter, standard: Filter, crops: torch.Tensor) -> None:
    """The server's part of private mode."""
    start = start_of(standard.uap, standard.recipe.stages, 6)
    gradients = gradient(standard.probe, crops[:6], standard.recipe.epsilon, start)
    wanted, found = standard.perturbation_from(gradients).numpy(), fast.perturb_from(gradients.numpy())
    assert np.abs(found - wanted).max() < CLOSE


def test_a_face_is_alone(fast: CpuFilter, crops: torch.Tensor) -> None:
    """To the bit: alone, among others and in another order."""
    some = list(crops[:7].numpy())
    together, backwards = fast.perturb(some), fast.perturb(some[::-1])[::-1]
    for face, one, other in zip(some, together, backwards, strict=True):
        np.testing.assert_array_equal(fast.perturb([face])[0], one)
        np.testing.assert_array_equal(other, one)


def test_nothing_gives_nothing(fast: CpuFilter) -> None:
    """No face and no gradient are no error."""
    assert fast.perturb([]) == fast.changes([]) == []
    assert fast.perturb_from(np.zeros((0, 6, 112, 112), np.float32)).shape == (0, 3, 112, 112)


def test_changes_are_torchs(fast: CpuFilter, crops: torch.Tensor) -> None:
    """Perturbation and warp of each face are those of the filter by torch, and the perturbation is `perturb`'s."""
    some = list(crops[:3].numpy())
    wanted, found = Filter.load(fast.recipe).changes(some), fast.changes(some)
    for ours, theirs, delta in zip(found, wanted, fast.perturb(some), strict=True):
        np.testing.assert_array_equal(ours.noise, delta / np.float32(fast.recipe.epsilon))
        assert np.abs(ours.noise - theirs.noise).max() * fast.recipe.epsilon < CLOSE
        assert ours.field is not None and theirs.field is not None
        assert np.abs(ours.field - theirs.field).max() < 0.02 and np.abs(ours.field).mean() > 0.3


@pytest.mark.parametrize("stages", [("universal",), ("gradient",)])
def test_the_gradient_leads_the_warp(crops: torch.Tensor, stages: tuple[Stage, ...]) -> None:
    """Without the gradient stage there is none to lead it."""
    recipe = load_recipe("modules").model_copy(update={"stages": stages})
    for filter_ in (CpuFilter.load(recipe), Filter.load(recipe)):
        (change,) = filter_.changes([crops[0].numpy()])
        assert (change.field is None) is ("gradient" not in stages)


@pytest.mark.parametrize(
    ("crop", "reason"),
    [
        (np.zeros((3, 112, 111), np.float32), "111"),
        (np.zeros((3, 112, 112), np.float64), "float64"),
        (np.full((3, 112, 112), 1.5, np.float32), "1.5"),
        (np.full((3, 112, 112), np.nan, np.float32), "nan"),
    ],
    ids=["shape", "type", "range", "nan"],
)
def test_bad_faces_are_told(fast: CpuFilter, crop: np.ndarray, reason: str) -> None:
    """The error names the shape, the type or the value."""
    with pytest.raises(ValueError, match=reason):
        fast.perturb([crop])


def test_bad_gradients_are_told(fast: CpuFilter) -> None:
    """As those of the filter by torch are."""
    with pytest.raises(ValueError, match="must be"):
        fast.perturb_from(np.zeros((1, 3, 112, 112), np.float32))
    with pytest.raises(ValueError, match="finite"):
        fast.perturb_from(np.full((1, 6, 112, 112), np.inf, np.float32))


def test_recipes_are_checked() -> None:
    """A CPU needs no torch, with steps on guides neither; other weights and versions are refused."""
    standard = load_recipe("standard")
    stepping = make_recipe({"name": "mine", "epsilon_levels": 8, "steps": 2})
    assert isinstance(load_filter(standard), CpuFilter) and isinstance(load_filter(stepping), CpuFilter)
    with pytest.raises(OtherVersion):
        CpuFilter.load(standard.model_copy(update={"weights": "0" * 64}))


def test_a_photo_is_protected_without_torch(tmp_path: Path, portrait: np.ndarray) -> None:
    """In a process of its own: filter, detector and steps on guides load neither torch nor what turns ONNX into it."""
    path = tmp_path / "portrait.jpg"
    Image.fromarray(portrait).save(path)
    code = (
        "import os, sys, apf\n"
        "os.environ['APF_STEPS'] = '2'\n"
        f"photo = apf.protect_photo(open({str(path)!r}, 'rb').read(), apf.load_filter('standard'))\n"
        "assert (photo.outcome, len(photo.faces)) == ('protected', 1) and photo.verdicts[0]\n"
        "assert not {'torch', 'torchvision', 'onnx2torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_sparse_sampling_is_sampling() -> None:
    """Both ways, through each of the steps' maps."""
    picture = np.random.default_rng(3).random((112, 112, 3), dtype=np.float32)
    for affine in maps(8).numpy():
        plain, sparse = Sampling.of(affine, 112), SparseSampling.of(affine, 112)
        np.testing.assert_allclose(sparse.sample(picture), plain.sample(picture), atol=1e-6)
        np.testing.assert_allclose(sparse.spread(picture), plain.spread(picture), atol=1e-5)
        assert sparse.sample(picture).dtype == sparse.spread(picture).dtype == np.float32


def test_the_shipped_file_is_of_the_shipped_weights() -> None:
    """Making it anew gives the bytes that ship, which name the weights they are of."""
    path = WEIGHTS_DIR / TRANSFER_ONNX
    assert shipped() == path.read_bytes()
    assert {entry.key: entry.value for entry in onnx.load(path).metadata_props}["weights"] == weights_digest()


def test_exports_into_any_folder(weights: Path) -> None:
    """After new weights an export makes the folder whole again."""
    changed = {name: tensor * 1.01 for name, tensor in load_file(weights / "transfer.safetensors").items()}
    save_file(changed, weights / "transfer.safetensors")
    with pytest.raises(WeightsError):
        check_weights(weights)
    export(weights)
    check_weights(weights)


@pytest.mark.parametrize("data", [b"", b"no network at all", None], ids=["empty", "foul", "missing"])
def test_a_damaged_network_is_told(tmp_path: Path, data: bytes | None) -> None:
    """A WeightsError that names the file."""
    path = tmp_path / "network.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"network\.onnx"):
        RuntimeNetwork.load(path)
