"""Guides that ship: ours, found by name, with their digests among those of the weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apf.errors import GuideError
from apf.faces.alignment import align, alignment
from apf.filters.load import PhotoFilter, load_filter
from apf.guides import catalogue, load_guide
from apf.guides.catalogue import guide_digest, own_names, standings
from apf.guides.loading import find_source
from apf.guides.torch_guide import torch_guide
from apf.photo import decode
from apf.protect.pipeline import protect_batch
from apf.protect.publish import encoded
from apf.recipe import Recipe, load_recipe, make_recipe
from apf.research.model_list import load_recognisers
from apf.weight_files import WEIGHTS_DIR, weights_digest
from tests.apf.conftest import SHARED

OWN = own_names()
#: Mean likeness to the clean photo itself that may be left (1 without protection); measured: .25 and .44.
MOST_ALIKE = {"apf-mfn": 0.3, "apf-mnv2": 0.5}
#: Photos that are protected for it, the smallest.
FEW = 3
#: Megabytes that all weights may take together.
ALL_MB = 30


def test_some_ship() -> None:
    """There is a guide of our own besides the probe, and all weights together stay small."""
    assert OWN
    files = [path for path in WEIGHTS_DIR.iterdir() if path.suffix in (".onnx", ".safetensors")]
    assert sum(path.stat().st_size for path in files) <= ALL_MB * 1e6


@pytest.mark.parametrize("name", OWN)
def test_a_shipped_guide_is_its_file(name: str, crops: torch.Tensor) -> None:
    """It loads by name, has the digest that recipes carry, and tells faces apart; its gradient lowers the likeness."""
    guide, faces = load_guide(name), np.ascontiguousarray(crops[[0, 2]].numpy())
    data = (WEIGHTS_DIR / f"{name}.onnx").read_bytes()
    assert guide.digest == guide_digest(name) == hashlib.sha256(data).hexdigest()
    own = guide.embed(faces)
    other = guide.embed(np.ascontiguousarray(faces[:, :, :, ::-1]))
    assert (own * other).sum(1).min() > 0.6, "mirrored, it is the same face"
    noise = np.random.default_rng(0).normal(0, 0.01, faces.shape).astype(np.float32)
    before, gradient = guide.climb(faces + noise, own)
    after, _ = guide.climb(faces + noise - 0.02 * np.sign(gradient), own)
    assert (after < before - 0.2).all()


@pytest.mark.parametrize("name", OWN)
def test_both_roads_give_the_same(name: str, crops: torch.Tensor) -> None:
    """By torch as by ONNX Runtime."""
    faces = np.ascontiguousarray(crops[[0, 2]].numpy())
    one, other = load_guide(name), torch_guide(find_source(name), "cpu")
    own = one.embed(faces)
    np.testing.assert_allclose(other.embed(faces), own, atol=1e-4)
    mine, its = one.climb(faces, own[::-1].copy())[1], other.climb(faces, own[::-1].copy())[1]
    np.testing.assert_allclose(mine, its, atol=2e-2 * np.abs(mine).max())


def test_a_recipe_is_of_the_guides_that_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped guide's digest is in the recipe's id; the digest of the weights, and so all other ids, stays."""
    recipe = make_recipe({"name": "own", "epsilon_levels": 8, "guides": (OWN[0],), "steps": 2})
    assert recipe.guide_digests == (guide_digest(OWN[0]),)
    sums = {**catalogue.shipped_sums(), f"{OWN[0]}.onnx": "0" * 64}
    monkeypatch.setattr(catalogue, "shipped_sums", lambda: sums)
    other: Recipe = make_recipe({"name": "own", "epsilon_levels": 8, "guides": (OWN[0],), "steps": 2})
    assert other.id != recipe.id
    assert other.weights == recipe.weights == weights_digest() == load_recipe("standard").weights


def test_a_damaged_guide_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is not the one of the sums is not climbed on, and the list says so."""
    for path in WEIGHTS_DIR.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / f"{OWN[0]}.onnx").write_bytes(b"none")
    monkeypatch.setattr(catalogue, "WEIGHTS_DIR", tmp_path)
    with pytest.raises(GuideError, match=rf"{OWN[0]}.*are damaged: install the package again"):
        load_guide(OWN[0])
    assert {one.name: one.state for one in standings()}[OWN[0]] == "damaged"


def test_no_torch_is_loaded() -> None:
    """A CPU climbs on shipped guides without torch."""
    code = (
        "import sys, numpy as np\n"
        "from apf.guides import load_guide\n"
        f"for name in {OWN!r}:\n"
        "    guide = load_guide(name); faces = np.full((1, 3, 112, 112), .5, np.float32)\n"
        "    guide.climb(faces, guide.embed(faces))\n"
        "assert not {'torch', 'onnx2torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", OWN)
def test_steps_on_a_shipped_guide_hide_real_faces(name: str, shared_models: Path) -> None:
    """After 20 steps on it alone, recognisers that no training saw do not know a published face from its own photo."""
    photos = sorted((SHARED / "photos").glob("p*/*.jpg"), key=lambda path: path.stat().st_size)[:FEW]
    if not photos:
        pytest.skip(f"no photos at {SHARED / 'photos'}: name the folder above with APF_SHARED")
    judges = load_recognisers(shared_models, role="validate")
    filter_ = load_filter(make_recipe({"name": "own", "epsilon_levels": 8, "guides": (name,), "steps": 20}))
    likenesses = []
    for path in photos:
        photo = decode(path.read_bytes())
        published = decode(encoded(protect_batch([photo], filter_)[0], filter_.recipe)).pixels
        known, found = (main_face(pixels, filter_) for pixels in (photo.pixels, published))
        likenesses.append([float((judge(known) * judge(found)).sum()) for judge in judges.values()])
    assert np.mean(likenesses) < MOST_ALIKE[name]


def main_face(pixels: np.ndarray, filter_: PhotoFilter) -> torch.Tensor:
    """The largest face, aligned."""
    (faces,) = filter_.detector.detect([pixels])
    face = max(faces, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
    return torch.from_numpy(align(pixels, alignment(face.landmarks)))[None]
