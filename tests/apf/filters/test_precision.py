"""Reduced precision: who gets it, what it changes, and what happens where it does not work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import apf.filters.precision as precision_module
from apf.filters.precision import at_precision, chosen, reduced
from apf.filters.torch_filter import Filter
from apf.recipe import load_recipe
from apf.research.evaluate.devices import Difference
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe
from apf.stages.transfer_network import TransferNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def lower() -> Filter:
    return Filter.load("standard", precision="bfloat16")


@pytest.mark.parametrize(
    ("precision", "device", "capability", "expected"),
    [
        ("auto", CPU, None, torch.float32),
        ("float32", CPU, None, torch.float32),
        ("bfloat16", CPU, None, torch.bfloat16),
        ("auto", CUDA, (9, 0), torch.bfloat16),
        ("auto", CUDA, (8, 0), torch.bfloat16),
        ("auto", CUDA, (7, 5), torch.float32),
        ("float32", CUDA, (9, 0), torch.float32),
        ("bfloat16", CUDA, (9, 0), torch.bfloat16),
        ("bfloat16", CUDA, (7, 0), torch.float32),
    ],
    ids=str,
)
def test_who_gets_bfloat16(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: torch.device, capability: object, expected: torch.dtype
) -> None:
    """By itself only a GPU that has units for it; a CPU only when it is asked to emulate it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert chosen(precision, device) == expected


def test_an_unknown_precision_is_refused() -> None:
    """The error names those there are."""
    with pytest.raises(ValueError, match="use one of auto, float32, bfloat16"):
        Filter.load("standard", precision="float16")  # type: ignore[arg-type]


def test_bfloat16_changes_little(lower: Filter, standard: Filter, crops: Tensor) -> None:
    """The bound is kept exactly; direction and size of photos' perturbations stay, though their bits do not."""
    photos = crops[[0, 1, 2, 5]]
    found, expected = lower.perturbation(photos), standard.perturbation(photos)
    difference = Difference.of(photos, found, expected)
    assert difference.is_small and 0 < difference.mean_levels < 0.2
    assert found.dtype == torch.float32 and found.abs().max().item() <= lower.recipe.epsilon


def test_bfloat16_is_batch_independent(lower: Filter, crops: Tensor) -> None:
    """A face's result does not hang on its neighbours in this precision either."""
    assert torch.equal(lower.perturbation(crops[:2])[1:], lower.perturbation(crops[1:2]))


def test_private_mode_in_bfloat16(lower: Filter, standard: Filter) -> None:
    """From gradients alone the transfer network's reduced precision gives nearly the same."""
    gradients = torch.randn(2, CHANNELS, 112, 112, generator=torch.Generator().manual_seed(1))
    found, expected = lower.perturbation_from(gradients), standard.perturbation_from(gradients)
    assert 0 < (found - expected).abs().mean() < 0.01 * standard.recipe.epsilon


def test_float32_is_untouched(standard: Filter) -> None:
    """The default on a CPU runs the very modules, not copies; and a reduced filter keeps its own in float32."""
    assert standard._used == (standard.probe, standard.network)
    lower = Filter.load("standard", precision="bfloat16")
    assert {p.dtype for p in lower.probe.parameters()} == {torch.float32}
    assert {p.dtype for p in lower._used[0].parameters()} == {torch.bfloat16}


def test_results_are_float32_and_gradients_flow() -> None:
    """Around a reduced network nothing else has to know of it."""
    probe = reduced(Probe().eval().requires_grad_(False), torch.bfloat16)
    faces = torch.rand(2, 3, 112, 112).requires_grad_(True)
    embedded = probe(faces)
    (direction,) = torch.autograd.grad(embedded[:, 0].sum(), faces)
    assert embedded.dtype == direction.dtype == torch.float32
    assert direction.abs().sum() > 0


@pytest.mark.parametrize("failure", ["raises", "not finite"])
def test_a_device_that_cannot_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    """Where bfloat16 fails in set-up, the filter computes in float32 and the log says so."""

    class Broken(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if failure == "raises":
                raise RuntimeError("no kernel image is available")
            return x * torch.nan

        def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
            yield torch.zeros(1)

    monkeypatch.setattr(precision_module, "reduced", lambda *_: Broken())
    probe, network = Probe(), TransferNet(CHANNELS)
    assert at_precision(probe, network, torch.bfloat16) == (probe, network)
    assert "computing in float32" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_agrees_with_the_cpu(standard: Filter, crops: Tensor, precision: precision_module.Precision) -> None:
    """On a GPU, in both precisions, photos get nearly the same perturbation."""
    photos = crops[[i for i in range(60) if i % 5 < 3]]
    found = Filter.load(load_recipe("standard"), "cuda", precision=precision).perturbation(photos).cpu()
    assert Difference.of(photos, found, standard.perturbation(photos)).is_small
