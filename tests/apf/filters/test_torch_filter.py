"""The filter as its users call it: bounded, independent of the batch, deterministic, and strict about its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import apf
import apf.filters.torch_filter as filter_module
from apf.errors import RecipeError, WeightsError
from apf.filters.torch_filter import Filter
from apf.recipe import Recipe, load_recipe
from apf.runtime.stage_clock import StageClock
from apf.stages.constants import Stage
from apf.stages.gradient import as_perturbation, gradient
from apf.stages.transfer import transfer
from apf.stages.universal import bounded, combine, universal
from apf.weight_files import WEIGHTS_DIR, weights_digest, write_sums

RECIPES = {"light": 6 / 255, "standard": 8 / 255, "strong": 12 / 255}
SUBSETS: list[tuple[Stage, ...]] = [
    ("gradient",),
    ("universal",),
    ("gradient", "transfer"),
    ("gradient", "universal"),
    ("gradient", "transfer", "universal"),
]


def with_stages(stages: tuple[Stage, ...], levels: int = 8) -> Recipe:
    return load_recipe("standard").model_copy(update={"stages": stages, "epsilon_levels": levels})


@pytest.fixture(scope="module")
def alone(standard: Filter, crops: Tensor) -> Tensor:
    """The perturbations of the first 10 crops, each computed by itself."""
    return torch.cat([standard.perturbation(crop[None]) for crop in crops[:10]])


def test_the_public_name_is_the_filter() -> None:
    """`apf.Filter` is the class that this file tests."""
    assert apf.Filter is Filter


@pytest.mark.rotating
@pytest.mark.parametrize("name", RECIPES)
def test_bound_is_exact(filters: dict[str, Filter], crops: Tensor, name: str) -> None:
    """No value of any of 30 random crops' perturbations is larger than epsilon, compared as Python floats."""
    mine = crops[list(RECIPES).index(name) : 30 : len(RECIPES)]  # the three recipes share the crops
    delta = filters[name].perturbation(mine)
    largest = delta.abs().amax((1, 2, 3)).tolist()
    assert filters[name].recipe.epsilon == RECIPES[name]
    assert delta.shape == mine.shape and delta.dtype == torch.float32
    assert max(largest) <= RECIPES[name]
    assert min(largest) > RECIPES[name] / 2, "a face was left nearly unprotected"


@pytest.mark.rotating
@pytest.mark.parametrize("levels", [1, 32])
@pytest.mark.parametrize("stages", SUBSETS, ids="+".join)
def test_bound_is_exact_for_any_stages(crops: Tensor, stages: tuple[Stage, ...], levels: int) -> None:
    """Every sensible subset of the stages keeps the smallest and the largest bound and moves much."""
    delta = Filter.load(with_stages(stages, levels)).perturbation(crops[:1])
    assert delta.abs().max().item() <= levels / 255
    assert delta.abs().mean() > 0.3 * levels / 255


def laid_out(faces: Tensor) -> Tensor:
    """In the filter's memory layout: another one rounds otherwise."""
    return faces.contiguous(memory_format=torch.channels_last)


def by_hand(filter: Filter, face: Tensor) -> dict[tuple[Stage, ...], Tensor]:
    """What each subset of the stages is meant to be, for one face."""
    epsilon, face = filter.recipe.epsilon, laid_out(face)
    third = universal(filter.uap, 1)
    first = gradient(filter.probe, face, epsilon)
    onward = gradient(filter.probe, face, epsilon, bounded([third]))
    with torch.no_grad():
        second, whole = transfer(filter.network, first), transfer(filter.network, onward)
    return {
        ("gradient",): combine([as_perturbation(first)], epsilon),
        ("universal",): combine([third], epsilon),
        ("gradient", "transfer"): combine([second], epsilon),
        ("gradient", "universal"): combine([as_perturbation(onward)], epsilon),
        ("gradient", "transfer", "universal"): combine([third, whole], epsilon),
    }


def test_stages_are_joined_as_meant(standard: Filter, crops: Tensor) -> None:
    """The steps start from the universal part where it runs, and count it once; the network's answer is added to it."""
    expected = by_hand(standard, crops[1:2])
    for stages in SUBSETS:
        found = Filter.load(with_stages(stages)).perturbation(crops[1:2])
        assert torch.allclose(found, expected[stages], atol=1e-7), stages


def test_subsets_differ(crops: Tensor) -> None:
    """No subset of the stages gives what another gives: each module that is named does something."""
    found = [Filter.load(with_stages(stages)).perturbation(crops[:1]) for stages in SUBSETS]
    for one, other in pairwise([*found, found[0]]):
        assert (one - other).abs().mean() > 0.01 * 8 / 255


@pytest.mark.rotating
@pytest.mark.parametrize("stages", SUBSETS, ids="+".join)
def test_stages_are_batch_independent(crops: Tensor, stages: tuple[Stage, ...]) -> None:
    """Whatever the stages, a batch gives bit for bit what its faces give by themselves."""
    filter = Filter.load(with_stages(stages))
    single = torch.cat([filter.perturbation(crop[None]) for crop in crops[:2]])
    assert torch.equal(filter.perturbation(crops[:2]), single)


@settings(max_examples=5)
@given(order=st.permutations(range(10)), cuts=st.lists(st.integers(0, 4), max_size=3))
def test_batchings_do_not_matter(
    standard: Filter, crops: Tensor, alone: Tensor, order: list[int], cuts: list[int]
) -> None:
    """A face's perturbation is the same to the bit in any order, in batches of any size, empty ones too."""
    chosen = order[:4]
    bounds = [0, *sorted(cuts), 4]
    for start, stop in pairwise(bounds):
        batch = chosen[start:stop]
        assert torch.equal(standard.perturbation(crops[batch]), alone[batch])


@pytest.fixture
def four_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_torch_threads")
def test_torch_threads_do_not_matter(standard: Filter, crops: Tensor, alone: Tensor) -> None:
    """A caller with several torch threads gets the bits of a caller with one."""
    assert torch.equal(standard.perturbation(crops[:2]), alone[:2])
    assert torch.get_num_threads() == 4


def test_callers_side_by_side(standard: Filter, crops: Tensor, alone: Tensor) -> None:
    """One filter serves several threads at once, with the bits of one at a time."""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda index: standard.perturbation(crops[index : index + 1]), range(4)))
    assert torch.equal(torch.cat(found), alone[:4])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_does_not_matter(
    standard: Filter, crops: Tensor, alone: Tensor, mode: Callable[[], torch.no_grad]
) -> None:
    """The steps need autograd and turn it on themselves: under no_grad and inference_mode come the same bits."""
    with mode():
        delta = standard.perturbation(crops[:1])
    assert torch.equal(delta, alone[:1]) and not delta.requires_grad


def test_padding_of_a_chunk_does_not_matter(monkeypatch: pytest.MonkeyPatch, standard: Filter, crops: Tensor) -> None:
    """Where chunks are larger, as on a GPU, full and padded ones give a face the same perturbation to the bit."""
    monkeypatch.setitem(filter_module.CHUNK, "cpu", 2)
    together = standard.perturbation(crops[:3])
    assert torch.equal(together, torch.cat([standard.perturbation(crop[None]) for crop in crops[:3]]))


def test_no_faces() -> None:
    """An empty batch gives an empty batch of the right shape and type."""
    delta = Filter.load("light").perturbation(torch.zeros(0, 3, 112, 112))
    assert delta.shape == (0, 3, 112, 112) and delta.dtype == torch.float32


def test_same_again(standard: Filter, crops: Tensor, alone: Tensor) -> None:
    """A filter loaded anew gives the same bits, whatever random numbers were drawn in between."""
    torch.rand(17)
    assert torch.equal(Filter.load("standard").perturbation(crops[:3]), alone[:3])
    assert torch.equal(standard.perturbation(crops[:3]), alone[:3])


def test_memory_layout_does_not_matter(standard: Filter, crops: Tensor, alone: Tensor) -> None:
    """A transposed or strided view of the same pixels gives the same bits."""
    strided = crops[:3].contiguous(memory_format=torch.channels_last)
    assert torch.equal(standard.perturbation(strided), alone[:3])


def test_input_is_left_alone(standard: Filter, crops: Tensor) -> None:
    """The caller's tensor is not written to, keeps its flags, and the result carries no gradient."""
    faces = crops[:2].clone()
    delta = standard.perturbation(faces)
    assert torch.equal(faces, crops[:2])
    assert not faces.requires_grad and not delta.requires_grad


def test_faces_get_their_own(alone: Tensor) -> None:
    """Different photos get different perturbations: the filter is not the universal part alone."""
    assert (alone[0] - alone[1]).abs().mean() > 0.01 * 8 / 255


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        (torch.zeros(3, 112, 112), "align them first"),
        (torch.zeros(1, 1, 112, 112), "align them first"),
        (torch.zeros(1, 112, 112, 3), "align them first"),
        (torch.zeros(2, 3, 128, 112), "align them first"),
        (torch.zeros(1, 3, 112, 112, dtype=torch.float64), "float32"),
        (torch.zeros(1, 3, 112, 112, dtype=torch.uint8), "divide"),
        (torch.full((1, 3, 112, 112), 1.001), r"\[0, 1\]"),
        (torch.full((1, 3, 112, 112), -0.001), r"\[0, 1\]"),
        (torch.full((1, 3, 112, 112), torch.nan), r"\[0, 1\]"),
        (torch.full((1, 3, 112, 112), 255.0), r"\[0, 1\]"),
    ],
    ids=["no batch", "grey", "channels last", "size", "float64", "uint8", "above", "below", "nan", "0..255"],
)
def test_unfit_faces_are_refused(standard: Filter, faces: Tensor, message: str) -> None:
    """A wrong shape, type or range is a ValueError that names the value and the cure."""
    with pytest.raises(ValueError, match=message):
        standard.perturbation(faces)


@pytest.mark.parametrize(
    ("stages", "timed"),
    [(("gradient", "transfer", "universal"), {"gradient", "transfer", "universal"}), (("universal",), {"universal"})],
    ids=["all", "universal"],
)
def test_clock_takes_each_stage(crops: Tensor, stages: tuple[Stage, ...], timed: set[str]) -> None:
    """The clock gets the seconds of the stages that run, and only of those."""
    clock = StageClock()
    Filter.load(with_stages(stages)).perturbation(crops[:1], clock)
    assert set(clock.seconds) == timed
    assert all(seconds > 0 for seconds in clock.seconds.values())


def test_recipe_from_a_toml_file(tmp_path: Path, crops: Tensor, alone: Tensor) -> None:
    """A TOML file with the standard recipe's fields gives the standard recipe's bits."""
    file = tmp_path / "mine.toml"
    file.write_text('epsilon_levels = 8\nstages = ["gradient", "transfer", "universal"]\nsteps = 0\n')
    filter = Filter.load(file)
    assert filter.recipe.name == "mine" and filter.recipe.id == load_recipe("standard").id
    assert torch.equal(filter.perturbation(crops[:2]), alone[:2])


def test_unknown_recipe() -> None:
    """A name that is neither built in nor a file is a RecipeError."""
    with pytest.raises(RecipeError, match="use one of light, standard, strong, fast"):
        Filter.load("gentle")


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_other_weights_are_refused(digest: str) -> None:
    """A recipe made for other weights does not run on these: two workers never protect one album differently."""
    recipe = load_recipe("standard").model_copy(update={"weights": digest})
    with pytest.raises(WeightsError, match="install the same version everywhere"):
        Filter.load(recipe)


@pytest.mark.parametrize("damage", ["missing", "cut", "other keys"])
def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    """Missing, cut and foreign weight files are WeightsErrors that name the file."""
    for file in WEIGHTS_DIR.glob("*.safetensors"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_sums(tmp_path)
    probe = tmp_path / "probe.safetensors"
    if damage == "missing":
        probe.unlink()
    elif damage == "cut":
        probe.write_bytes(probe.read_bytes()[:-100])
    else:
        save_file({f"old.{name}": tensor for name, tensor in load_file(probe).items()}, probe)
        write_sums(tmp_path)
    monkeypatch.setattr(filter_module, "WEIGHTS_DIR", tmp_path)
    with pytest.raises(WeightsError, match=r"probe\.safetensors"):
        Filter.load("standard")


def test_digest_follows_the_bytes(tmp_path: Path) -> None:
    """The digest is of all weight files: another byte or another name is another digest."""
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    first = weights_digest(tmp_path)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    weights_digest.cache_clear()
    second = weights_digest(tmp_path)
    save_file({"a": torch.ones(3)}, tmp_path / "b.safetensors")
    weights_digest.cache_clear()
    assert len({first, second, weights_digest(tmp_path)}) == 3
