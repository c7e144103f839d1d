"""Faces in batches against the same faces one by one on a CPU: same changes up to rounding, same verdicts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from apf.attack.batched import road as road_module
from apf.attack.batched.batch import Batch
from apf.attack.batched.packing import STATE, packed
from apf.attack.batched.road import BatchedRoad, TorchGuides, torch_guides
from apf.attack.batched.step import Steps
from apf.attack.bound import Bound
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.attack.protect_face import FIRST_ROOM, Hidden, Task, hide
from apf.attack.recipe_guides import Guides, load_guides
from apf.errors import DeviceMemoryError
from apf.faces.geometry import CROP
from apf.guides import load_guide
from apf.guides.loading import find_source
from apf.guides.torch_guide import TorchGuide, torch_guide, torch_probe
from apf.recipe import Recipe, load_recipe
from apf.runtime.cuda.batches import Limit
from tests.apf.attack.batched.conftest import MakeRoad
from tests.apf.attack.batched.faces import KINDS, face_of
from tests.apf.attack.scenes import change
from tests.apf.attack.test_protect_face import stepping
from tests.apf.runtime.cuda.captures import refused, warmed

NAMES = (f"work {number}" for number in itertools.count())
#: The guides of `standard`, once each.
STANDARD = stepping(1, guides=("dlib", "apf-mfn"))


@pytest.fixture(autouse=True)
def _own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test finds to fit says nothing to the next."""
    limits: dict[tuple[str, str], Limit] = {}
    monkeypatch.setattr(road_module, "limit", lambda *key: limits.setdefault(key, Limit()))


def face(portrait: np.ndarray, kind: str, start: Change | None = None) -> Task:
    one = face_of(portrait, **KINDS[kind])  # type: ignore[arg-type]
    return Task(one.pixels, one.matrix, one.grey, start)


def published(task: Task, hidden: Hidden, recipe: Recipe) -> np.ndarray:
    return paste(task.pixels, [hidden.change], [task.matrix], Bound.of(recipe), grey=task.grey).astype(int)


def assert_same(task: Task, found: Hidden, wanted: Hidden, recipe: Recipe, *, steps: int = 1) -> None:
    """After one step three of four changed pixels are equal and nine of ten within a level. Each step multiplies what
    rounding leads apart, such as a pixel that JPEG is given one level higher: after some, two of three are within one.
    """
    noise, levels = np.abs(found.change.noise - wanted.change.noise), published(task, wanted, recipe)
    assert noise.mean() < (0.03 if steps == 1 else 0.08)
    assert (found.change.field is None) == (wanted.change.field is None)
    one, other = (published(task, each, recipe) - task.pixels for each in (found, wanted))
    apart = np.abs(one - other)[(levels != task.pixels).any(2)]
    assert (apart == 0).mean() > (0.75 if steps == 1 else 0.4) and (apart <= 1).mean() > (0.9 if steps == 1 else 0.66)
    assert (one * other).sum() > 0.93 * np.linalg.norm(one) * np.linalg.norm(other)
    assert found.verdict is not None and wanted.verdict is not None
    assert found.verdict.likeness == pytest.approx(wanted.verdict.likeness, abs=0.04 if steps == 1 else 0.1)
    assert (found.verdict.weak, found.verdict.independent) == (wanted.verdict.weak, wanted.verdict.independent)


@pytest.mark.rotating("steps in batches")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "recipe",
    [STANDARD, load_recipe("fast"), stepping(2, guides=("apf-mfn",), warp_percent=0)],
    ids=["standard", "fast", "no warp"],
)
def test_a_face_gets_what_a_cpu_gives_it(road: MakeRoad, portrait: np.ndarray, kind: str, recipe: Recipe) -> None:
    """Faces from 25 to 1000 pixels, turned, grey, at the edge; from noise, and from the modules' answer."""
    task = face(portrait, kind, change(1, strength=0.5) if recipe.name == "fast" else None)
    (wanted,) = hide([task], recipe, load_guides(recipe))
    (found,) = road(recipe).hide([task], recipe)
    assert_same(task, found, wanted, recipe, steps=recipe.steps)


def test_faces_of_all_sizes_together(road: MakeRoad, portrait: np.ndarray) -> None:
    """In order, whatever batches they went in, as a CPU has them; a face beside its photo gets no change."""
    recipe = stepping(1, guides=("apf-mfn",))
    tasks = [face(portrait, kind) for kind in ("110 px, grey", "25 px", "100 px, at the edge", "60 px, turned")]
    away = tasks[0].matrix.copy()
    away[:, 2] -= 5000
    tasks.insert(1, Task(tasks[0].pixels, away, False, None))
    found, wanted = road(recipe).hide(tasks, recipe), hide(tasks, recipe, load_guides(recipe))
    assert not found[1].change.noise.any() and found[1].verdict is None
    for index in (0, 2, 3, 4):
        assert_same(tasks[index], found[index], wanted[index], recipe)


def with_threshold(guides: dict[str, TorchGuide], threshold: float) -> TorchGuides:
    juror = copy.copy(guides["probe"])
    juror.threshold = threshold
    return TorchGuides((guides["apf-mfn"],), (juror,))


class Noted:
    """Notes how many faces each batch held, and how many steps they took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.steps = 0
        climb, update = Batch.climb, Steps.update

        def noted(batch: Batch) -> Tensor:
            self.sizes.append(batch._size)
            return climb(batch)

        def counted(steps: Steps, *given: Tensor) -> Tensor:
            self.steps += 1
            return update(steps, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(Batch, "climb", noted)
        monkeypatch.setattr(Steps, "update", counted)


def test_a_jury_is_asked_as_on_a_cpu(road: MakeRoad, portrait: np.ndarray) -> None:
    """All its steps and the same verdict, where it still knows the face; momentum goes on after it was asked."""
    recipe = stepping(2, guides=("apf-mfn",), jury=("probe",))
    task = face(portrait, "100 px, at the edge")
    (wanted,) = hide([task], recipe, load_guides(recipe))
    (found,) = road(recipe).hide([task], recipe)
    assert wanted.verdict is not None and wanted.verdict.weak and wanted.verdict.independent
    assert_same(task, found, wanted, recipe, steps=2)


def test_faces_that_are_safe_leave_their_batch(
    monkeypatch: pytest.MonkeyPatch, torch_guides_here: dict[str, TorchGuide], portrait: np.ndarray
) -> None:
    """Those that the jury still knows after half of the steps fill a smaller batch; the others keep what they have."""
    recipe = stepping(4, guides=("apf-mfn",), jury=("probe",))
    tasks = [
        face(portrait, "60 px, turned"),
        face(portrait, "60 px, turned", change(2)),
        face(portrait, "60 px, turned"),
    ]
    loose = BatchedRoad(with_threshold(torch_guides_here, 5.0), torch.device("cpu"), sizes=(1, 2, 4))
    said = [one.verdict.likeness for one in loose.hide(tasks, recipe) if one.verdict]
    between = 5.0 * sum(sorted(said)[:2]) / 2 if said[0] != said[1] else 5.0
    noted = Noted(monkeypatch)
    strict = BatchedRoad(with_threshold(torch_guides_here, between), torch.device("cpu"), sizes=(1, 2, 4))
    found = strict.hide(tasks, recipe)
    weak = [5.0 * one / between >= 1 for one in said]
    assert 0 < sum(weak) < 3
    assert sum(noted.sizes[:1]) == 4 and sum(noted.sizes[1:]) == sum(weak)
    for one, stubborn in zip(found, weak, strict=True):
        largest = float(np.abs(one.change.noise).max())
        assert largest > FIRST_ROOM if stubborn else largest == pytest.approx(FIRST_ROOM)


def test_neighbours_do_not_matter(road: MakeRoad, portrait: np.ndarray) -> None:
    """In any order, with other faces in a batch of the same size: the same but for rounding; and from any thread."""
    recipe = stepping(1, guides=("apf-mfn",))
    tasks = [face(portrait, "60 px, turned"), face(portrait, "60 px, turned", change(4)), face(portrait, "25 px")]
    own = road(recipe, sizes=(4,))
    alone = [own.hide([task], recipe)[0] for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        orders = [[2, 0, 1], [1, 1, 0]]
        for order, batch in zip(
            orders, pool.map(lambda order: own.hide([tasks[i] for i in order], recipe), orders), strict=True
        ):
            for index, one in zip(order, batch, strict=True):
                assert_same(tasks[index], one, alone[index], recipe)


def test_graphs_give_what_launches_give(road: MakeRoad, portrait: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    """Recorded once and used for other faces; where they are refused the steps go on without, and the log says so."""
    recipe = stepping(2, guides=("apf-mfn",))
    batches = [[face(portrait, "60 px, turned")], [face(portrait, "60 px, turned", change(1))]]
    plain, graphed, without = road(recipe), road(recipe, capture=warmed), road(recipe, capture=refused)
    for tasks in (*batches, batches[0]):
        (wanted,) = plain.hide(tasks, recipe)
        for other in (graphed, without):
            (found,) = other.hide(tasks, recipe)
            np.testing.assert_array_equal(found.change.noise, wanted.change.noise)
            assert found.verdict == wanted.verdict
    assert len(graphed._kept.batches) == 1
    assert caplog.text.count("CUDA graphs do not work for steps here") == 1


@pytest.mark.parametrize("room", [2, 1, 0])
def test_memory_that_ends(road: MakeRoad, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Batches are halved until they fit, each face's chances are drawn once, and no room for one is an error."""
    recipe = stepping(1, guides=("apf-mfn",))
    tasks = [face(portrait, "25 px"), *(face(portrait, "25 px", change(seed)) for seed in range(3))]
    wanted = road(recipe, sizes=(1,)).hide(tasks, recipe)
    load = Batch.load

    def limited(batch: Batch, given: object) -> None:
        if batch._size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        load(batch, given)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "load", limited)
    own = road(recipe, sizes=(4,))
    if not room:
        with pytest.raises(DeviceMemoryError):
            own.hide(tasks, recipe)
        return
    for task, one, other in zip(tasks, own.hide(tasks, recipe), wanted, strict=True):
        assert_same(task, one, other, recipe)
    assert {batch._size for batch in own._kept.batches.values()} == {room}


def test_other_errors_pass(road: MakeRoad, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that is not about memory is not tried again, and the next call works."""
    recipe = stepping(1, guides=("apf-mfn",))
    own, tasks = road(recipe), [face(portrait, "25 px")]
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "climb", lambda _: (_ for _ in ()).throw(RuntimeError("illegal memory access")))
        with pytest.raises(RuntimeError, match="illegal"):
            own.hide(tasks, recipe)
    assert own.hide(tasks, recipe)[0].change.noise.any()


def test_parts_of_a_step_can_be_timed(road: MakeRoad, portrait: np.ndarray) -> None:
    """Launch by launch each part is told by name, once a step."""
    recipe, parts = stepping(2, guides=("apf-mfn",)), list[str]()

    def run(part: str, work: Callable[[], Tensor]) -> Tensor:
        parts.append(part)
        return work()

    road(recipe, run=run).hide([face(portrait, "25 px")], recipe)
    assert parts == ["draw", "jpeg", "view", "guides", "back", "update"] * 2


def test_no_faces(road: MakeRoad) -> None:
    """Nothing is to do."""
    recipe = stepping(1, guides=("apf-mfn",))
    assert road(recipe).hide([], recipe) == []


def test_guides_of_a_cpu_are_refused(torch_guides_here: dict[str, TorchGuide]) -> None:
    """A device's road takes guides by torch alone, and says which were given."""
    known: Sequence[TorchGuide] = [torch_guides_here["dlib"], torch_guides_here["probe"]]
    assert torch_guides(Guides((known[0],), (known[1],))) == TorchGuides((known[0],), (known[1],))
    with pytest.raises(TypeError, match="apf-mfn are not all of torch"):
        torch_guides(Guides((load_guide("apf-mfn"),)))


def test_a_step_climbs_on_two_of_many_guides(torch_guides_here: dict[str, TorchGuide], portrait: np.ndarray) -> None:
    """With three guides, each face's step counts the two that were drawn for it."""
    three = tuple(torch_guides_here.values())
    recipe = stepping(1, guides=("dlib", "apf-mfn", "probe"))
    own = BatchedRoad(TorchGuides(three), torch.device("cpu"), sizes=(1,))
    task = face(portrait, "25 px")
    (wanted,), (found,) = hide([task], recipe, load_guides(recipe)), own.hide([task], recipe)
    assert_same(task, found, wanted, recipe)
    assert found.change.noise.shape[1] < CROP


def test_no_part_waits_for_the_device(portrait: np.ndarray) -> None:
    """On tensors without values: neither steps nor verdict ask for one, or mix host and device, as no graph could."""
    recipe, meta = stepping(1, guides=("dlib", "apf-mfn"), jury=("probe",)), torch.device("meta")
    climbed = tuple(torch_guide(find_source(name), "meta") for name in recipe.guides)
    own = BatchedRoad(TorchGuides(climbed, (torch_probe("meta"),)), meta)
    work = own._begun(face(portrait, "60 px, turned"), Bound.of(recipe), 1, 1.0)
    given = packed([work], 160, 2)
    with torch.no_grad():
        for warps in (True, False):
            batch = Batch(own._steps[warps], given, 8, meta, road_module._as_it_is, road_module.at_once)
            assert batch.climb().shape == (8, STATE + 1 + 160 * 160)
