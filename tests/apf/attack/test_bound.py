"""The map of how far pixels may move: where eyes miss it, and no further."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apf.attack.bound import FLAT_SHARE, LEAST, LEAST_LIGHT, MOST, OWN_SIDE, REACH, Bound, bound_map, combed
from apf.faces import resampling
from apf.recipe import load_recipe
from tests.apf.attack.scenes import STANDARD, busy_photo, smooth_photo

EPSILON = STANDARD.epsilon
#: Of one level, as sensors have it: skin has at least this much.
GRAIN = 1.0


def mapped(luma: np.ndarray, scale: float = 1.0, allowed: Bound = STANDARD) -> np.ndarray:
    """Of a grey picture, (h, w)."""
    return bound_map(np.repeat(luma[..., None].astype(np.float32), 3, 2), scale, allowed)


def grain(height: int = 80, width: int = 80, size: float = GRAIN, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (height, width))


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """(h, w, 3) float32 in levels: noise, smooth, textured, flat, black or white."""
    height, width, seed = draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(0, 1000))
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    kinds = [noise, 255 * (noise > 127), np.full_like(noise, 0), np.full_like(noise, 255), noise // 128 + 127]
    kinds += [smooth_photo(height, width, seed), busy_photo(height, width, seed)]
    return draw(st.sampled_from(kinds)).astype(np.float32)


@settings(max_examples=60)
@given(pictures(), st.floats(0.05, 4), st.sampled_from([1, 5, 8, 12, 32]))
def test_the_map_keeps_its_limits(pixels: np.ndarray, scale: float, epsilon: int) -> None:
    """In any picture of any scale: never above the most of its recipe, never below a flat wall's, never no number."""
    allowed = Bound(epsilon, 0.45, 0.008)
    found = bound_map(pixels, scale, allowed)
    assert found.shape == pixels.shape[:2] and found.dtype == np.float32
    assert allowed.most == round(MOST * epsilon)
    assert LEAST * FLAT_SHARE * LEAST_LIGHT * epsilon * 0.999 <= found.min() <= found.max() <= allowed.most


def test_a_flat_wall_hardly_moves() -> None:
    """Where there is no contrast at all, on white, grey and black, the smallest share of the bound is left."""
    for level in (255, 128):
        np.testing.assert_allclose(mapped(np.full((60, 60), level)), EPSILON * LEAST * FLAT_SHARE, rtol=1e-4)
    assert mapped(np.zeros((60, 60))).max() < 1.7 * EPSILON * LEAST * FLAT_SHARE


def test_smooth_skin_moves_least() -> None:
    """With a sensor's grain alone a pixel moves by `LEAST`, and so does a cheek's even shading."""
    skin = mapped(150 + grain(size=0.8))
    assert np.abs(skin / (EPSILON * LEAST) - 1).mean() < 0.1
    shaded = mapped(np.linspace(100, 200, 80)[None] + grain(size=0.8))
    np.testing.assert_allclose(shaded.mean(), skin.mean(), rtol=0.05)


def test_texture_hides_more() -> None:
    """The stronger a texture, the further its pixels move, up to several times what skin does."""
    means = [mapped(150 + grain(size=size)).mean() for size in (1, 4, 8, 16)]
    assert means == sorted(means)
    assert means[-1] > 8 * means[0] and means[1] < 5 * means[0]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("step", [30, 110])
def test_an_edge_hides_nothing_beside_it(scale: float, step: int) -> None:
    """Beyond four sigmas of a head's outline skin and wall move as without it; at a strong one little more."""
    across, noise = np.full((160, 160), 140.0), grain(160, 160, 0.8)
    across[:, 80:] += step
    off = np.abs(np.arange(160) - 79.5) > 4 * max(1, REACH / scale)
    beside = mapped(across + noise, scale)
    alone = np.where(across > 140, mapped(140 + step + noise, scale), mapped(140 + noise, scale))
    assert np.abs(beside - alone)[:, off].max() < 0.02 * EPSILON
    np.testing.assert_allclose(mapped(across, scale)[:, off], EPSILON * LEAST * FLAT_SHARE, rtol=0.2)
    if step > 4 * OWN_SIDE:
        assert beside.max() < 0.4 * STANDARD.most


def test_texture_beside_skin_ends_where_it_ends() -> None:
    """A few pixels from a dark, textured brow skin is skin again."""
    picture = 180 + grain(size=0.8)
    picture[:40] += grain(40, 80, 14, 1) - 90
    found = mapped(picture)
    skin = mapped(180 + grain(size=0.8))
    assert found[10:30].mean() > 3 * skin.mean()
    assert found[46:].mean() < 1.1 * skin.mean()


def test_shade_hides_more() -> None:
    """The same texture moves further in a face's shade than in its light, and as far in the light as in mid tones."""
    noise, lit = grain(240, 240, 6), np.full((240, 240), 160.0)
    shaded = lit.copy()
    shaded[110:130, 110:130] = 40
    part = slice(115, 125), slice(115, 125)
    assert mapped(shaded + noise)[part].mean() > 1.2 * mapped(lit + noise)[part].mean()
    middle, light = (mapped(level + noise)[part].mean() for level in (120, 220))
    assert light == pytest.approx(middle, rel=0.01)


def test_the_eye_adapts_to_a_dark_photo() -> None:
    """A photo that is taken darker moves less in the same measure: what is seen is the share."""
    lit = 100 + grain(120, 120, 6)
    for share in (0.8, 0.5):
        np.testing.assert_allclose(mapped(share * lit).mean(), share * mapped(lit).mean(), rtol=0.02)


@settings(max_examples=25)
@given(pictures(), st.floats(0.1, 3))
def test_epsilon_is_a_factor(pixels: np.ndarray, scale: float) -> None:
    """Twice the epsilon is twice the way, everywhere."""
    once, twice = (bound_map(pixels, scale, Bound(epsilon, 0.45, 0)) for epsilon in (8, 16))
    np.testing.assert_allclose(2 * once, twice, rtol=1e-5)


def test_a_photo_of_more_pixels_has_the_same_map() -> None:
    """What counts is contrast at the face's own scale: a face in twice the pixels may move as far."""
    once = np.clip(resampling.blurred(grain(80, 80, 30).astype(np.float32), 1.2) + 140, 0, 255)
    twice = np.kron(once, np.ones((2, 2)))
    twice = resampling.blurred(twice.astype(np.float32), 1.0)
    small, large = mapped(once, 1.0), mapped(twice, 0.5)
    assert large.mean() == pytest.approx(small.mean(), rel=0.3)


@settings(max_examples=25)
@given(pictures(), st.floats(0.1, 3))
def test_numpy_and_opencv_agree(pixels: np.ndarray, scale: float) -> None:
    """A device without OpenCV finds the same map, to a thousandth of a level."""
    wanted = bound_map(pixels, scale, STANDARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "cv2", None)
        found = bound_map(pixels, scale, STANDARD)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "warp", "most"), [("light", 0.005, 10), ("strong", 0.008, 20), ("modules", 0.006, 16)]
)
def test_a_recipe_says_its_bound(name: str, warp: float, most: int) -> None:
    """Epsilon, chroma and the warp's share of the face's side are the recipe's."""
    recipe = load_recipe(name)
    allowed = Bound.of(recipe)
    assert allowed == Bound(recipe.epsilon_levels, recipe.chroma, pytest.approx(warp))
    assert allowed.most == most


def _strands(side: int, pitch: float, angle: float) -> np.ndarray:
    """A luma (side, side) of straight strands, as hair has them."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    across = x * math.cos(angle) + y * math.sin(angle)
    strands: np.ndarray = 128 + 20 * np.sin(across * np.float32(2 * math.pi / pitch))
    return strands


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.3, math.pi / 2])
def test_straight_strands_are_combed_and_curls_are_not(angle: float) -> None:
    """Whatever way hair falls, contrast that runs one way is told from contrast that runs all ways."""
    inside = slice(20, -20)
    strands = combed(_strands(120, 5, angle), 1.2)[inside, inside]
    curls = combed(128 + 20 * np.random.default_rng(0).standard_normal((120, 120)).astype(np.float32), 1.2)[
        inside, inside
    ]
    assert strands.min() > 0.99
    assert curls.mean() < 0.02
    assert combed(np.full((40, 40), 90, np.float32), 1.2).max() == 0, "a wall has no direction"


def test_strands_hide_nothing_around_the_features_and_much_on_them() -> None:
    """Noise across straight hair shows as bands; brows and lashes, which are combed, too, keep what they hide."""
    pixels = np.repeat(_strands(120, 5, 0.3)[..., None], 3, 2)
    on_brows, in_hair = (bound_map(pixels, 1.0, STANDARD, np.full((120, 120), share, np.float32)) for share in (0, 1))
    inside = slice(20, -20)
    assert np.array_equal(on_brows, bound_map(pixels, 1.0, STANDARD))
    assert in_hair[inside, inside].max() < 0.35 * on_brows[inside, inside].min()
