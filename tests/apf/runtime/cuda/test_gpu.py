"""What only a GPU can show: graphs, batches, memory and copies on the device itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from apf.attack.batched.jpeg import Jpeg
from apf.attack.gradient_steps import through_jpeg
from apf.attack.protect_face import Task, hide
from apf.attack.recipe_guides import load_guides
from apf.detection.detector import load_detector
from apf.filters.torch_filter import Filter
from apf.recipe import DEFAULT_GUIDES, load_recipe, make_recipe
from apf.research.evaluate.devices import Difference
from apf.runtime.cuda.batches import Limit
from apf.runtime.stage_clock import StageClock
from apf.stages.constants import CHANNELS
from tests.apf.attack.batched.faces import KINDS, face_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def graphed() -> Filter:
    return Filter.load("standard", "cuda", precision="float32")


@pytest.fixture(scope="module")
def plain() -> Filter:
    return Filter.load("standard", "cuda", precision="float32", graphs=False)


@pytest.mark.parametrize("count", [1, 8, 20, 200])
def test_graphs_compute_what_launches_compute(
    graphed: Filter, plain: Filter, crops: Tensor, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """For whole, padded and several batches; and graphs are really used: no warning, a graph in each batch."""
    photos = crops[torch.arange(count) % 200]
    found = graphed.perturbation(photos).cpu()
    assert Difference.of(photos, found, plain.perturbation(photos).cpu()).is_small
    batches = graphed._runners["_stages"]._kept.batches
    assert batches and all(batch.replay for batch in batches.values()), caplog.text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_do_not_matter(crops: Tensor, precision: str) -> None:
    """With other faces in a batch of the same size a face's result is the same but for rounding."""
    filter = Filter.load("standard", "cuda", precision=precision)  # type: ignore[arg-type]
    one = filter.perturbation(crops[:8]).cpu()
    two = filter.perturbation(torch.cat([crops[:1], crops[20:27]])).cpu()
    assert Difference.of(crops[:1], two[:1], one[:1]).is_small


def test_faces_may_lie_on_either_side(graphed: Filter, crops: Tensor) -> None:
    """Faces in host memory, strided, and on the device give the same but for rounding, and stay on the device."""
    here = graphed.perturbation(crops[:9])
    there = graphed.perturbation(crops[:9].cuda())
    strided = graphed.perturbation(crops[:9].contiguous(memory_format=torch.channels_last))
    assert here.is_cuda
    for other in (there, strided):
        assert Difference.of(crops[:9], other.cpu(), here.cpu()).is_small


def test_the_private_road(graphed: Filter, standard: Filter) -> None:
    """Perturbations from gradients agree with the CPU's."""
    gradients = torch.randn(40, CHANNELS, 112, 112, generator=torch.Generator().manual_seed(1))
    found = graphed.perturbation_from(gradients).cpu()
    assert (found - standard.perturbation_from(gradients)).abs().mean() < 0.01 * standard.recipe.epsilon


def test_no_faces(graphed: Filter) -> None:
    """An empty batch is empty on a GPU, too."""
    assert graphed.perturbation(torch.zeros(0, 3, 112, 112)).shape == (0, 3, 112, 112)


def test_the_clock(graphed: Filter, crops: Tensor) -> None:
    """A graph's time is divided among the stages."""
    graphed.perturbation(crops[:8])
    clock = StageClock()
    graphed.perturbation(crops[:8], clock)
    assert set(clock.seconds) == {"gradient", "transfer", "universal"}


def test_real_memory_that_ends(crops: Tensor, standard: Filter) -> None:
    """Held to little memory, batches shrink, all faces are done, and the device works on after it."""
    filter = Filter.load("standard", "cuda", precision="float32")
    runner = filter._runners["_stages"]
    runner.limit = Limit()
    runner.limit.find(512)  # as if the trial had seen a device that was free
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 700 * 2**20) / total)
    try:
        found = filter.perturbation(crops.repeat(3, 1, 1, 1))[:3].cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert runner.limit.most is not None and runner.limit.most < 512
    assert Difference.of(crops[:3], found, standard.perturbation(crops[:3])).is_small


def test_many_tiles_of_several_shapes(portrait: np.ndarray) -> None:
    """A GPU's batches of tiles find what a CPU finds, photo by photo."""
    photos = [portrait, portrait[:300], np.ascontiguousarray(portrait[:, ::-1]), *[portrait] * 20]
    found = load_detector("centerface", "cuda").detect(photos)
    for own, other in zip(found, load_detector("centerface").detect(photos), strict=True):
        for one, expected in zip(own, other, strict=True):
            np.testing.assert_allclose(one.box, expected.box, atol=0.5)


#: As users have them, whatever the tests' environment says of steps.
STEPPING = {
    "standard": make_recipe({"name": "standard", "epsilon_levels": 8, "steps": 20, "guides": DEFAULT_GUIDES}),
    "fast": load_recipe("fast"),
}


def _tasks(portrait: np.ndarray) -> list[Task]:
    """Faces of 25 to 1000 pixels, turned, grey and at the edge, twice each."""
    return [face_of(portrait, **kind) for kind in KINDS.values()] * 2  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["standard", "fast"])
def test_one_step_is_that_of_a_cpu(portrait: np.ndarray, name: str) -> None:
    """Of faces of all sizes in graphs: nearly all noise within a tenth of the bound, the same likeness."""
    recipe = STEPPING[name].model_copy(update={"steps": 1})
    tasks = _tasks(portrait)
    found = Filter.load(recipe, "cuda", precision="float32").hide(tasks)
    wanted = hide(tasks, recipe, load_guides(recipe))
    for one, other in zip(found, wanted, strict=True):
        assert one.verdict is not None and other.verdict is not None
        assert (np.abs(one.change.noise - other.change.noise) < 0.1).mean() > 0.9
        assert one.verdict.likeness == pytest.approx(other.verdict.likeness, abs=0.05)


def test_steps_go_by_graphs(portrait: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    """All three pieces of each size's work are recorded: no warning; twice the same gives nearly the same."""
    recipe = STEPPING["standard"].model_copy(update={"steps": 2})
    filter, tasks = Filter.load(recipe, "cuda"), _tasks(portrait)
    one, other = filter.hide(tasks), filter.hide(tasks)
    assert filter._road._capture is not None and not caplog.text, caplog.text
    for first, second in zip(one, other, strict=True):
        assert first.verdict is not None and second.verdict is not None
        assert first.verdict.likeness == pytest.approx(second.verdict.likeness, abs=0.1)


def test_steps_with_a_jury(portrait: np.ndarray) -> None:
    """Faces that the jury still knows go on in batches of their own; each has an independent verdict."""
    recipe = make_recipe({"name": "jury", "epsilon_levels": 8, "steps": 6, "jury": ("probe",)})
    found = Filter.load(recipe, "cuda").hide(_tasks(portrait))
    assert all(one.verdict is not None and one.verdict.independent for one in found)


def test_jpeg_on_the_gpu_is_libjpegs(portrait: np.ndarray) -> None:
    """The integer transforms hold on a GPU, too: nearly all bytes equal, none further than a level or two."""
    images = torch.from_numpy(portrait[:416, :416].transpose(2, 0, 1).astype(np.float32))[None].cuda()
    size = torch.tensor([416], device="cuda")
    found = Jpeg().cuda()(images, torch.tensor([85], device="cuda"), size, size)[0].permute(1, 2, 0).cpu().numpy()
    apart = np.abs(found - through_jpeg(portrait[:416, :416].astype(np.float32), 85))
    assert (apart == 0).mean() > 0.999 and apart.max() <= 8
