"""The runner of batches, on the CPU: with a stand-in for CUDA's graphs, and with memory that ends where a test says."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from apf.errors import DeviceMemoryError
from apf.filters.cuda_runner import Runner
from apf.filters.torch_filter import Filter
from apf.runtime.cuda.graph import GraphError, check_same
from apf.runtime.stage_clock import StageClock
from apf.stages.compose import Run
from tests.apf.runtime.cuda.captures import refused, static

CPU = torch.device("cpu")
NAMES = (f"work {number}" for number in itertools.count())


class Work:
    """Doubles its input in two timed stages, and notes the size of each batch; larger ones do not fit."""

    def __init__(self, room: int = 1000) -> None:
        self.room, self.sizes = room, list[int]()

    def __call__(self, given: Tensor, run: Run) -> Tensor:
        self.sizes.append(len(given))
        if len(given) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        half = run("gradient", lambda: given[:, :3] * 1)
        return run("transfer", lambda: half * 2)


def full(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory")


def runner(work: Work, **options: object) -> Runner:
    return Runner(next(NAMES), work, CPU, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 8, 9, 40, 130, 300])
@pytest.mark.parametrize(
    "options", [{"graphs": False}, {"capture": static}, {"capture": refused}], ids=["plain", "graph", "refused"]
)
def test_every_face_gets_its_own(faces: Tensor, count: int, options: dict[str, object]) -> None:
    """In order and once, through whole and padded batches, with graphs, without, and where they fail."""
    work = Work()
    run = runner(work, **options)
    for _ in range(2):  # set up, and again
        assert torch.equal(run(faces[:count], StageClock()), 2 * faces[:count])
    assert set(work.sizes) <= {8, 32, 128, 512}


def test_an_earlier_result_stays(faces: Tensor) -> None:
    """A graph's next run overwrites its output, not what was given to the caller."""
    run = runner(Work(), capture=static)
    first = run(faces[:8], StageClock())
    run(faces[8:16], StageClock())
    assert torch.equal(first, 2 * faces[:8])


def test_a_failed_graph_is_tried_once(faces: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """The plain road goes on with a warning, and no other size is recorded."""
    tried: list[int] = []

    def refuse(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        tried.append(1)
        return refused(work, device)

    run = runner(Work(), capture=refuse)
    run(faces[:8], StageClock())
    run(faces[:32], StageClock())
    assert len(tried) == 1
    assert "CUDA graphs do not work for modules here" in caplog.text and "not permitted" in caplog.text


@pytest.mark.parametrize("capture", [None, static], ids=["plain", "graph"])
def test_memory_that_ends(faces: Tensor, capture: object) -> None:
    """Batches are halved until they fit, results are right, and the smaller size is kept."""
    work = Work(room=20)
    run = runner(work, capture=capture) if capture else runner(work, graphs=False)
    assert torch.equal(run(faces[:130], StageClock()), 2 * faces[:130])
    assert run.limit.most == 16
    work.sizes.clear()
    run(faces[:130], StageClock())
    assert max(work.sizes) == 16


def test_memory_that_ends_while_a_graph_is_recorded(faces: Tensor) -> None:
    """It is no failure of graphs: a smaller batch is tried, down to one, and then it is an error."""
    run = runner(Work(), capture=full)
    with pytest.raises(DeviceMemoryError):
        run(faces[:9], StageClock())
    assert run.limit.most == 1


def test_the_limit_is_shared(faces: Tensor) -> None:
    """Another runner of the same work on the same device starts with what the first one learnt."""
    name, work = next(NAMES), Work(room=8)
    Runner(name, work, CPU, graphs=False)(faces[:130], StageClock())
    work.sizes.clear()
    Runner(name, work, CPU, graphs=False)(faces[:130], StageClock())
    assert set(work.sizes) == {8}


@pytest.mark.parametrize("capture", [static, refused], ids=["graph", "plain"])
def test_the_clock_takes_each_stage(faces: Tensor, capture: object) -> None:
    """With a graph each stage gets its share of the whole, and no more than that: set-up is no stage's time."""
    run = runner(Work(), capture=capture)
    run(faces[:130], StageClock())
    clock, outer = StageClock(), StageClock()
    with outer.stage("whole"):
        run(faces[:130], clock)
    assert set(clock.seconds) == {"gradient", "transfer"}
    assert 0 < sum(clock.seconds.values()) <= outer.seconds["whole"]


@pytest.mark.rotating
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_filter_by_the_runner(standard: Filter, crops: Tensor, mode: Callable[[], torch.no_grad]) -> None:
    """The real stages, padded into a batch, give what they give face by face but for rounding, in any mode."""
    run = Runner(next(NAMES), standard._stages, CPU, capture=static)
    run.limit.find(4)
    with mode():
        found = run(crops[:3], StageClock())
    expected = standard._answers(crops[:3], None)
    assert not found.requires_grad and found.is_contiguous() and found.shape == expected.shape == (3, 6, 112, 112)
    assert (found - expected)[:, :3].abs().mean() < 1e-3 * standard.recipe.epsilon
    assert (found - expected)[:, 3:].abs().mean() < 1e-2 * expected[:, 3:].abs().mean()


def test_a_graph_that_computes_something_else_is_refused() -> None:
    """Rounding passes; another result, or none, does not."""
    expected = torch.linspace(-1, 1, 100)
    check_same(expected * 1.01, expected)
    for wrong in (torch.zeros(100), expected * 1.2, expected * torch.nan):
        with pytest.raises(GraphError, match="off by"):
            check_same(wrong, expected)
