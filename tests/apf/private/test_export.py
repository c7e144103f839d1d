"""The probe's ONNX file belongs to the weights beside it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from apf.errors import WeightsError
from apf.research.export_probe import export, shipped
from apf.stages.numpy_gradient import GRADIENT_ONNX, LightProbe
from apf.weight_files import DIGEST, WEIGHTS_DIR, check_weights, digest_of, weights_digest


def test_the_shipped_file_is_of_the_shipped_weights() -> None:
    """Making it anew gives the bytes that ship."""
    assert shipped() == (WEIGHTS_DIR / GRADIENT_ONNX).read_bytes()


def test_the_file_says_what_it_is_of() -> None:
    """The ONNX names the digest of the weights, is whole by ONNX's own checker, and small."""
    path = WEIGHTS_DIR / GRADIENT_ONNX
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props}["weights"] == weights_digest()
    probe = (WEIGHTS_DIR / "probe.safetensors").stat().st_size
    assert path.stat().st_size < 1.1 * probe  # forwards and backwards share the weights


def test_digest_is_of_the_weights() -> None:
    """The noted digest, which devices without all weights read, is that of the files."""
    assert (WEIGHTS_DIR / DIGEST).read_text().strip() == digest_of(WEIGHTS_DIR) == weights_digest()
    check_weights()


@pytest.mark.parametrize("name", [GRADIENT_ONNX, DIGEST])
def test_what_was_changed_is_noticed(weights: Path, name: str) -> None:
    """A damaged ONNX file and a digest of other weights are refused where the weights are loaded."""
    path = weights / name
    data = bytearray(path.read_bytes())
    data[5] = data[5] ^ 1 if name != DIGEST else (ord("0") if data[5] != ord("0") else ord("1"))
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=name):
        check_weights(weights)


def test_a_missing_file_is_noticed(weights: Path) -> None:
    """Without the ONNX file the weights are not whole."""
    (weights / GRADIENT_ONNX).unlink()
    with pytest.raises(WeightsError, match=GRADIENT_ONNX):
        check_weights(weights)


@pytest.mark.parametrize("text", ["no digests\nat all here\n", "lonely\n"])
def test_foul_sums_are_told(weights: Path, text: str) -> None:
    """A list of digests that is none is a WeightsError."""
    (weights / "SHA256SUMS").write_text(text)
    with pytest.raises(WeightsError, match="SHA256SUMS"):
        check_weights(weights)


def test_exports_into_any_folder(weights: Path) -> None:
    """After new weights an export makes the folder whole again, and the light probe runs what is new."""
    tensors = load_file(weights / "probe.safetensors")
    changed = {name: t + 0.01 * torch.randn_like(t) if name == "head.weight" else t for name, t in tensors.items()}
    save_file(changed, weights / "probe.safetensors")
    with pytest.raises(WeightsError):
        check_weights(weights)
    export(weights)
    check_weights(weights)
    face = torch.rand(3, 112, 112, generator=torch.Generator().manual_seed(0)).numpy()
    old, new = LightProbe(WEIGHTS_DIR).embedding(face), LightProbe(weights).embedding(face)
    assert 0.5 < old @ new < 0.999
    metadata = onnx.load(weights / GRADIENT_ONNX).metadata_props
    assert {entry.key: entry.value for entry in metadata}["weights"] == digest_of(weights) != weights_digest()
