"""The steps of a GPU's filter: what goes by batches, what does not, and the guides' precision."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

import apf.filters.steps_road as steps_road
from apf.attack.batched.road import BatchedRoad
from apf.attack.protect_face import Hidden, Task, hide
from apf.attack.recipe_guides import Guides
from apf.faces.alignment import align, alignment
from apf.filters.onnx_filter import CpuFilter
from apf.filters.steps_road import guide_at_precision, road_on
from apf.filters.torch_filter import Filter
from apf.guides.loading import find_source
from apf.guides.torch_guide import TorchGuide, torch_guide, torch_probe
from apf.photo import decode
from apf.protect.pipeline import protect_batch
from apf.recipe import Recipe
from apf.runtime.stage_clock import StageClock
from tests.apf.attack.conftest import LANDMARKS
from tests.apf.attack.test_protect_face import stepping

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def guides() -> Guides:
    return Guides((torch_probe("cpu"), torch_guide(find_source("apf-mfn"), "cpu")))


@pytest.fixture
def task(portrait: np.ndarray) -> Task:
    return Task(portrait, alignment(LANDMARKS), grey=False, start=None)


def test_without_a_gpu_the_steps_go_as_before(task: Task) -> None:
    """Torch's filter on a CPU does what the CPU's own does, to the bit, and makes no road."""
    recipe = stepping(1)
    here, there = Filter.load(recipe), CpuFilter.load(recipe)
    for one in (here, there):
        (found,), (wanted,) = one.hide([task]), hide([task], recipe, there.guides)
        np.testing.assert_array_equal(found.change.noise, wanted.change.noise)
        assert found.verdict == wanted.verdict
    assert "_road" not in vars(here)


class Noted:
    """Stands in for the road of a GPU that is not there, on the CPU, and notes what it is given."""

    def __init__(self, road: BatchedRoad) -> None:
        self.road, self.given = road, list[tuple[int, Recipe]]()

    def hide(self, tasks: Sequence[Task], recipe: Recipe) -> list[Hidden]:
        self.given.append((len(tasks), recipe))
        return self.road.hide(tasks, recipe)


def on_a_gpu(recipe: Recipe, guides: Guides) -> tuple[Filter, Noted]:
    filter, cpu = Filter.load(recipe), Filter.load(recipe)
    filter.detector = cpu.detector
    noted = Noted(road_on(CPU, guides, torch.float32, graphs=True))
    noted.road._sizes = (1, 2, 4)
    filter._road = noted  # type: ignore[assignment]
    filter.device = torch.device("cuda")
    return filter, noted


def test_a_gpu_takes_the_faces_of_all_photos_at_once(portrait: np.ndarray, guides: Guides) -> None:
    """One call for the photos that came together; each comes out as alone, with its verdicts; the clock knows steps."""
    recipe = stepping(1, guides=("probe", "apf-mfn"))
    filter, noted = on_a_gpu(recipe, guides)
    buffers = [io.BytesIO() for _ in range(3)]
    cut = portrait[:280, 90:370]
    for buffer, pixels in zip(buffers, (cut, cut[:, ::-1], cut[150:, :90]), strict=True):
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    photos, clock = [decode(buffer.getvalue()) for buffer in buffers], StageClock()
    found = protect_batch(photos, filter, clock)
    assert noted.given == [(2, recipe)] and "steps" in clock.seconds and "gradient" not in clock.seconds
    assert [one.outcome for one in found] == ["protected", "protected", "no_face"]
    assert [len(one.verdicts) for one in found] == [1, 1, 0]
    for photo, one in zip(photos[:2], found, strict=False):
        (alone,) = protect_batch([photo], filter)
        assert (np.abs(alone.pixels.astype(int) - one.pixels) <= 1).mean() > 0.95
        assert (alone.pixels != photo.pixels).any()


def test_a_recipe_without_steps_takes_no_road(task: Task, guides: Guides) -> None:
    """The modules' answer is all there is."""
    filter, noted = on_a_gpu(stepping(0), guides)
    (found,) = filter.hide([task])
    assert not found.change.noise.any() and found.verdict is None and not noted.given


def test_a_cpus_road_has_no_graphs(guides: Guides) -> None:
    """However it is asked for them."""
    assert road_on(CPU, guides, torch.float32, graphs=True)._record(lambda: torch.zeros(1)) is None


@pytest.mark.parametrize("name", ["dlib", "apf-mfn", "probe"])
def test_guides_in_bfloat16_lead_the_same_way(name: str, task: Task) -> None:
    """A gradient of nearly the same direction; how a face is fed stays float32, and so does the guide itself."""
    guide: TorchGuide = torch_probe("cpu") if name == "probe" else torch_guide(find_source(name), "cpu")
    lower = guide_at_precision(guide.network, torch.bfloat16)
    assert {one.dtype for one in lower.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in guide.network.parameters()} == {torch.float32}
    assert not {"mean", "std", "grid"} & {key for key, one in lower.named_buffers() if one.dtype == torch.bfloat16}
    found = []
    for network in (guide.network, lower):
        crop = torch.from_numpy(align(task.pixels, task.matrix))[None].requires_grad_(True)
        embedding = network(crop)
        toward = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((embedding * toward).sum(), crop)
        assert embedding.dtype == gradient.dtype == torch.float32
        found.append(gradient.flatten())
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.97


def test_float32_is_the_guide_itself(guides: Guides) -> None:
    """No copy is made."""
    (one, _) = guides.climbed
    assert isinstance(one, TorchGuide) and guide_at_precision(one.network, torch.float32) is one.network


def test_a_guide_that_cannot_goes_on_in_float32(
    guides: Guides, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its layers do not work in bfloat16, and the log says so."""

    def refuse(_: object) -> None:
        raise RuntimeError("no kernel for bfloat16")

    monkeypatch.setattr(steps_road, "try_to_climb", refuse)
    (one, _) = guides.climbed
    assert isinstance(one, TorchGuide)
    assert guide_at_precision(one.network, torch.bfloat16) is one.network
    assert "no kernel for bfloat16" in caplog.text
