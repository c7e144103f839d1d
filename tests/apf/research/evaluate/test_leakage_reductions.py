"""Reductions of the gradient: they tell what they say and no more, and what a device moved it can move back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from apf.filters.torch_filter import Filter
from apf.private.quantise import REACHED, Float32, dequantise, quantise
from apf.research.evaluate.leakage.comparing import alignments
from apf.research.evaluate.leakage.puzzle import Puzzle, Straight
from apf.research.evaluate.leakage.reductions import COMMON, ROWS, Reduction
from apf.research.evaluate.leakage.rows import through

SEEDS = (5, 6, 7)


def gradients(count: int = 3) -> Float32:
    """Such as `apf.stages.gradient.gradient` gives: the first half within [-1, 1], the other at unit size."""
    drawn = np.random.default_rng(0).standard_normal((count, 6, 112, 112)).astype(np.float32)
    drawn[:, :REACHED] = drawn[:, :REACHED].clip(-1, 1)
    return drawn


@pytest.mark.parametrize("reduction", ROWS.values(), ids=ROWS)
def test_a_photo_has_one_reduced_gradient(reduction: Reduction) -> None:
    """It hangs on the gradient and the photo's seed alone: not on batch mates, and what is given is not changed."""
    given = gradients()
    before = given.copy()
    seen = reduction.seen(given, SEEDS)
    assert seen.shape == given.shape and seen.dtype == np.float32 and np.isfinite(seen).all()
    assert np.array_equal(given, before)
    assert np.array_equal(reduction.seen(given[1:2], SEEDS[1:2]), seen[1:2])


@pytest.mark.parametrize("reduction", ROWS.values(), ids=ROWS)
def test_only_what_moves_or_adds_noise_asks_the_seed(reduction: Reduction) -> None:
    """Another seed gives another noise, turn or order of tiles, and nothing else depends on it."""
    given = gradients(1)
    differs = not np.array_equal(reduction.seen(given, (1,)), reduction.seen(given, (2,)))
    assert differs == bool(reduction.noise or reduction.turned or reduction.tile)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_are_those_of_the_files(bits: int) -> None:
    """Nothing but the format's own quantisation happens to plain rows."""
    given = gradients()
    assert np.array_equal(Reduction("plain", bits=bits).seen(given, SEEDS), dequantise(quantise(given, bits), bits))


def test_one_bit_is_the_sign() -> None:
    """A sign alone is told, read at the size that the values had."""
    given = gradients()
    seen = ROWS["sign"].seen(given, SEEDS)
    assert np.array_equal(np.sign(seen), np.where(given >= 0, 1, -1))
    assert np.unique(np.abs(seen[:, :REACHED])).tolist() == [pytest.approx(0.8)]
    assert np.unique(np.abs(seen[:, REACHED:])).tolist() == [1]


def test_without_momentum_it_stays_on_the_device() -> None:
    """Whatever the momentum is, the server sees the same where it is not sent."""
    given, other = gradients(), gradients()
    other[:, REACHED:] *= -1
    seen = ROWS["sign, reached alone"].seen(given, SEEDS)
    assert np.array_equal(seen, ROWS["sign, reached alone"].seen(other, SEEDS))
    assert not np.array_equal(ROWS["sign"].seen(given, SEEDS), ROWS["sign"].seen(other, SEEDS))


def test_the_largest_are_kept() -> None:
    """A quarter of the places stays, each with values at least as large together as any that became zero."""
    given = gradients()
    seen = Reduction("largest", keep=0.25, bits=8).seen(given, SEEDS)
    kept = np.abs(seen).reshape(3, 2, 3, 112, 112).max(1) > 1 / 127  # no cell of 8 bits is zero itself
    sizes = np.abs(given).reshape(3, 2, 3, 112, 112).sum(1)
    for size, is_kept in zip(sizes, kept, strict=True):
        assert is_kept.mean() == pytest.approx(0.25, abs=0.01)
        assert size[is_kept].min() >= size[~is_kept].max() - 1e-6


def test_means_are_of_squares() -> None:
    """Four neighbours become one value, their mean's."""
    given = gradients()
    seen = Reduction("means", pool=2).seen(given, SEEDS)
    means = torch.nn.functional.avg_pool2d(torch.from_numpy(given), 2).numpy()
    for row in (0, 1):
        for column in (0, 1):
            assert np.array_equal(seen[..., row::2, column::2] > 0, means >= 0)


@pytest.mark.parametrize("noise", [0.5, 1, 2])
def test_noise_turns_the_expected_share_of_signs(noise: float) -> None:
    """Of values of size one, as many signs turn as the normal distribution says."""
    given = np.ones((1, 6, 112, 112), np.float32)
    seen = Reduction("noise", noise=noise).seen(given, (3,))
    assert (seen < 0).mean() == pytest.approx(norm.cdf(-1 / noise), abs=0.01)


@pytest.mark.parametrize("moves", [{"turned": True}, {"tile": 16}, {"tile": 8}, {"turned": True, "tile": 28}], ids=str)
def test_moves_are_undone(moves: dict[str, int]) -> None:
    """What the device moved comes back to its place in the answer, up to the quantisation."""
    given = gradients()
    reduction = replace(Reduction("moved", bits=8), **moves)  # type: ignore[arg-type]
    seen = reduction.seen(given, SEEDS)
    assert not np.allclose(seen, given, atol=0.01)
    back = reduction.undone(np.ascontiguousarray(seen[:, :REACHED]), SEEDS)
    assert np.abs(back - given[:, :REACHED]).max() <= 1 / 255 + 1e-6


@pytest.mark.rotating("evaluation")
@pytest.mark.parametrize("name", ["sign", "sign, turned", "sign, tiles of 16 shuffled"])
def test_the_answer_is_a_perturbation(name: str, standard: Filter, crops: torch.Tensor) -> None:
    """By any road the device gets a bounded perturbation of its face, and a plain one is near the photo's own."""
    faces = crops[:4]
    deltas = through(standard, ROWS[name])(faces)
    assert deltas.shape == faces.shape and deltas.abs().max() <= standard.recipe.epsilon
    cosine = torch.cosine_similarity(deltas.flatten(1), standard.perturbation(faces).flatten(1))
    assert (cosine > (0.7 if name == "sign" else 0.3)).all()


def test_the_very_photo_is_known_by_its_gradient() -> None:
    """Whoever holds the probe finds a photo among others, whatever the bits and the noise."""
    given = gradients(6)
    for name in ("8 bits", "sign, reached alone, noise 2"):
        assert torch.equal(alignments(ROWS[name].seen(given, range(6)), given).argmax(1), torch.arange(6)), name


def _alike(count: int) -> Float32:
    """Gradients with much in common, as ours have their start."""
    own = np.random.default_rng(1).standard_normal((count, 6, 112, 112))
    return (gradients(1) + own).astype(np.float32)


def test_turns_are_undone_by_others_too() -> None:
    """The mean of other gradients tells how a face was turned."""
    given, turned = _alike(30), ROWS["sign, turned"]
    plain = ROWS["sign"].seen(given, range(30))
    solved = Straight.of(plain[:20]).solved(turned.seen(given[20:], range(10)))
    assert np.array_equal(solved, plain[20:])


def test_shuffled_tiles_are_put_back() -> None:
    """What gradients have in common tells where a tile belongs."""
    given = _alike(40)
    shuffled = ROWS["sign, tiles of 16 shuffled"]
    puzzle = Puzzle.of(ROWS["sign"].seen(given[:30], range(30)), shuffled.tile)
    apart = given[30:]
    solved = puzzle.solved(shuffled.seen(apart, range(10)))
    right = (solved == ROWS["sign"].seen(apart, range(10))).reshape(10, 6, 7, 16, 7, 16).all((1, 3, 5))
    assert right.mean() > 0.9


def test_the_common_lesson_is_of_rows() -> None:
    """The attacker that all go on from sees only what is measured."""
    assert set(COMMON) <= set(ROWS)
