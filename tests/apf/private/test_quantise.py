"""Gradients as small whole numbers, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apf.private import quantise as q
from apf.private.quantise import BITS, LARGEST, MU, Reduction, dequantise, quantise

#: Every value that matters: the range, its ends, and beyond them.
SWEEP = np.linspace(-1.2, 1.2, 112 * 112 * 3, dtype=np.float32).reshape(1, 3, 112, 112)


def gradients(seed: int = 0, faces: int = 2) -> np.ndarray:
    """Values as the gradient stage gives them: (n, 6, 112, 112), the last three at unit root mean square."""
    random = np.random.default_rng(seed)
    units = np.tanh(random.standard_normal((faces, 3, 112, 112), np.float32))
    return np.concatenate([units, random.standard_normal(units.shape, np.float32)], 1)


def squeezed(momentum: np.ndarray) -> np.ndarray:
    """The mu-law as it is written in books, in float64."""
    x = np.clip(momentum.astype(np.float64) / LARGEST, -1, 1)
    return np.sign(x) * np.log(1 + MU * np.abs(x)) / np.log(1 + MU)


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits > 1])
def test_error_is_at_most_half_a_cell(bits: int) -> None:
    """What is read back lies within half a cell of what was sent, the momentum in its squeezed range."""
    sent = np.concatenate([np.clip(SWEEP, -1, 1), np.clip(SWEEP * LARGEST, -LARGEST, LARGEST)], 1)
    found = dequantise(quantise(sent, bits), bits)
    half = 1 / 2**bits + 1e-6
    assert np.abs(found[:, :3] - sent[:, :3]).max() <= half
    assert np.abs(squeezed(found[:, 3:]) - squeezed(sent[:, 3:])).max() <= half
    assert len(np.unique(found[:, :3])) == len(np.unique(found[:, 3:])) == 2**bits  # and no cell is left unused


def test_beyond_the_range_is_its_end() -> None:
    """What is larger than the range holds is sent as its end, and with its sign."""
    sent = np.full((1, 6, 112, 112), 100, np.float32)
    for values in (sent, -sent):
        np.testing.assert_allclose(dequantise(quantise(values, 8), 8), np.sign(values) * _largest(), rtol=1e-5)


def _largest() -> np.ndarray:
    """The middles of the outermost cells."""
    middle = 1 - 1 / 2**8
    return np.array([middle] * 3 + [LARGEST * ((1 + MU) ** middle - 1) / MU] * 3)[None, :, None, None]


def test_one_bit_is_the_sign() -> None:
    """One bit keeps nothing but signs, read as a constant for each of the two halves."""
    sent = gradients()
    found = dequantise(quantise(sent, 1), 1)
    np.testing.assert_array_equal(np.sign(found), np.where(sent < 0, -1, 1))
    assert np.unique(np.abs(found[:, :3])).tolist() == pytest.approx([q.SIGN_OF_REACHED])
    assert np.unique(np.abs(found[:, 3:])).tolist() == pytest.approx([q.SIGN_OF_MOMENTUM])


@given(st.sampled_from(BITS), st.integers(0, 3), st.sampled_from([3, 6]), st.integers(0, 2**32 - 1))
def test_packing_keeps_every_cell(bits: int, faces: int, channels: int, seed: int) -> None:
    """Any cells come back from their packing, which has 112 * bits / 8 bytes a row and no more."""
    cells = np.random.default_rng(seed).integers(0, 2**bits, (faces, channels, 112, 112), np.uint8)
    packed = q._packed(cells, bits)
    assert packed.shape == (faces, channels, 112, 14 * bits) and packed.dtype == np.uint8
    np.testing.assert_array_equal(q._unpacked(packed, bits), cells)


@pytest.mark.parametrize("bits", BITS)
def test_the_first_value_has_the_highest_bits(bits: int) -> None:
    """The order within a byte is the documented one: the first value in its highest bits."""
    cells = np.zeros((1, 3, 112, 112), np.uint8)
    cells[..., 0] = 2**bits - 1
    packed = q._packed(cells, bits)
    assert packed[0, 0, 0, 0] == (2**bits - 1) << (8 - bits) and not packed[..., 1:].any()


@pytest.mark.parametrize("bits", BITS)
def test_without_momentum_the_perturbation_stands_in(bits: int) -> None:
    """Where no momentum leaves the device half the bytes do, and the server takes the perturbation for it, too."""
    sent = gradients()
    packed = Reduction(bits, momentum=False).reduce(sent)
    np.testing.assert_array_equal(packed, Reduction(bits).reduce(sent)[:, :3])
    found = dequantise(packed, bits)
    assert found.shape == sent.shape and found.dtype == np.float32
    np.testing.assert_array_equal(np.sign(found[:, 3:]), np.sign(found[:, :3]))
    if bits > 1:
        np.testing.assert_array_equal(found[:, 3:], found[:, :3])


def test_noise_is_of_its_seed() -> None:
    """The same seed gives the same bytes, another one others; noise of zero is none, whatever the seed."""
    sent = gradients()
    noisy = Reduction(noise=0.5)
    np.testing.assert_array_equal(noisy.reduce(sent, seed=1), noisy.reduce(sent, seed=1))
    assert (noisy.reduce(sent, seed=1) != noisy.reduce(sent, seed=2)).mean() > 0.9
    np.testing.assert_array_equal(Reduction(noise=0).reduce(sent, seed=1), Reduction().reduce(sent, seed=2))


def test_noise_has_its_spread() -> None:
    """What is added has the spread that was asked for and no mean, before it is cut to the range."""
    sent = np.zeros((1, 6, 112, 112), np.float32)
    added = dequantise(Reduction(noise=0.2).reduce(sent, seed=3), 8)
    assert added.std() == pytest.approx(0.2, rel=0.02) and abs(added.mean()) < 0.005


def test_gradients_are_not_changed() -> None:
    """Reducing gradients leaves the array that was given as it is."""
    sent = gradients()
    kept = sent.copy()
    Reduction(4, noise=1.0).reduce(sent)
    np.testing.assert_array_equal(sent, kept)


@pytest.mark.parametrize("fields", [{"bits": 3}, {"bits": 0}, {"noise": -0.1}, {"noise": 17}, {"noise": float("nan")}])
def test_impossible_reductions_are_refused(fields: dict[str, float]) -> None:
    """Bits that do not fill a byte evenly, and noise below zero, beyond use or no number."""
    with pytest.raises(ValueError, match="must be"):
        Reduction(**fields)  # type: ignore[arg-type]
