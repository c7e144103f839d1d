"""Protect faces on a device: `apf.attack.protect_face.hide` in batches across photos, by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from apf.attack.batched.batch import Batch
from apf.attack.batched.packing import SIDES, STATE, Work, packed, read, read_bound, side_of
from apf.attack.batched.seer import Seer
from apf.attack.batched.step import Steps
from apf.attack.bound import Bound
from apf.attack.canvas import canvas_size
from apf.attack.chances import Chance
from apf.attack.gradient_steps import begin_climb, drawn_decoys
from apf.attack.jury import Verdict
from apf.attack.protect_face import FIRST_ROOM, FIRST_STEPS, Hidden, Task, beside_the_photo, hidden, nothing
from apf.attack.recipe_guides import Guides
from apf.faces.geometry import CROP
from apf.guides.torch_guide import TorchGuide
from apf.recipe import Recipe
from apf.runtime.cores import cores
from apf.runtime.cuda.batches import FACE_BATCHES, limit
from apf.runtime.cuda.graph import Capture, Recorder
from apf.runtime.cuda.memory import GraphCache, find_limit, free_memory, in_batches
from apf.stages.compose import Run, at_once

#: Faces of the trial that finds the largest batch.
TRIAL = 32


@dataclass(frozen=True)
class TorchGuides:
    """As `apf.attack.recipe_guides.Guides`, of guides by torch."""

    climbed: tuple[TorchGuide, ...]
    jury: tuple[TorchGuide, ...] = ()


def torch_guides(guides: Guides) -> TorchGuides:
    """Return a device's guides; raises TypeError where one is none of torch."""
    named = [*guides.climbed, *guides.jury]
    found = [one for one in named if isinstance(one, TorchGuide)]
    if len(found) != len(named):
        raise TypeError(f"guides {', '.join(one.name for one in named)} are not all of torch: load them for a device")
    return TorchGuides(tuple(found[: len(guides.climbed)]), tuple(found[len(guides.climbed) :]))


@dataclass(eq=False)
class _Face:
    """A face on its way through batches."""

    task: Task
    #: Of its canvas's size.
    side: int
    #: What comes next, which the host prepares beside the device's work.
    work: Future[Work] = field(default_factory=Future)
    likeness: float = float("inf")

    @property
    def ready(self) -> Work:
        return self.work.result()


class BatchedRoad:
    """The steps of faces on one device; safe to share between threads, which take turns.

    Faces of all photos that come together go by the size of their canvas into batches of a few fixed sizes, each with
    its CUDA graphs. All random numbers are drawn on the host, as on a CPU and in the same order. Where a jury says when
    a face is done, those that are not fill batches of their own. A face's result may differ by rounding with the number
    of faces around it, not with which these are.

    Args:
        coarser: makes of a guide's network that which the steps climb on, such as one in bfloat16.
        sizes: of batches, ascending.
        capture: how a graph is made; None is launch by launch.
        run: is told the parts of a step, where these go launch by launch.
    """

    def __init__(
        self,
        guides: TorchGuides,
        device: torch.device,
        *,
        coarser: Callable[[nn.Module], nn.Module] = lambda network: network,
        sizes: Sequence[int] = FACE_BATCHES,
        capture: Capture | None = None,
        run: Run = at_once,
    ) -> None:
        self._device, self._sizes, self._run = device, tuple(sizes), run
        self._record = Recorder("steps", device, capture)
        seers = [
            *(_seer(one, device, coarser) for one in guides.climbed),
            *(_seer(one, device, lambda network: network) for one in guides.jury),
        ]
        count = len(guides.climbed)
        self._steps = {warps: Steps(seers[:count], seers[count:], warps=warps).to(device) for warps in (True, False)}
        self._name = " ".join(["steps", *(one.name for one in (*guides.climbed, *guides.jury))])
        with torch.no_grad():
            grey = torch.full((1, 3, CROP, CROP), 0.5, device=device)
            self._lengths = [seer.network(grey).shape[1] for seer in seers[:count]]
        self._kept = GraphCache[tuple[int, int, bool], Batch]()

    def hide(self, tasks: Sequence[Task], recipe: Recipe) -> list[Hidden]:
        """As `apf.attack.protect_face.hide`, of a recipe with steps.

        Raises:
            DeviceMemoryError: the device has no memory for one face.
        """
        faces = [None if beside_the_photo(task) else _Face(task, _side(task)) for task in tasks]
        todo = [face for face in faces if face is not None]
        allowed, steps, judged = Bound.of(recipe), recipe.steps, bool(self._steps[True].jury)
        first = max(1, round(FIRST_STEPS * steps)) if judged else steps
        with self._alone(), ThreadPoolExecutor(cores()) as pool:
            for face in todo:
                face.work = pool.submit(self._begun, face.task, allowed, first, FIRST_ROOM if judged else 1.0)
            self._climb(todo, warps=allowed.warp > 0)
            weak = [face for face in todo if not face.likeness < 1] if steps > first else []
            for face in weak:
                face.work = pool.submit(self._again, face.ready, steps - first)
            self._climb(weak, warps=allowed.warp > 0)
        return [
            Hidden(nothing()) if one is None else hidden(one.ready.face, Verdict(one.likeness, judged)) for one in faces
        ]

    def _begun(self, task: Task, allowed: Bound, steps: int, room: float) -> Work:
        face = begin_climb(task.pixels, task.matrix, allowed, start=task.start, grey=task.grey)
        decoys = drawn_decoys(face.rng, self._lengths)
        return Work(face, decoys, self._chances(face.rng, steps), room)

    def _again(self, before: Work, steps: int) -> Work:
        return Work(before.face, before.decoys, self._chances(before.face.rng, steps), 1.0)

    def _chances(self, rng: np.random.Generator, steps: int) -> list[Chance]:
        return [Chance.drawn(rng, len(self._lengths)) for _ in range(steps)]

    def _climb(self, faces: Sequence[_Face], *, warps: bool) -> None:
        """Take the next steps of faces, batch by batch; nothing is waited for before all are on their way."""
        started: list[Callable[[], None]] = []
        for side in SIDES:
            if own := [face for face in faces if face.side == side]:
                started += self._started(own, side, warps=warps)
        for finish in started:
            finish()

    def _started(self, faces: Sequence[_Face], side: int, *, warps: bool) -> list[Callable[[], None]]:
        known, guides = limit(str(self._device), f"{self._name} {side}"), len(self._lengths)

        def attempt(start: int, stop: int, size: int) -> Callable[[], None]:
            some = faces[start:stop]
            given = packed([face.ready for face in some], side, guides)
            batch = self._kept.batches.get((side, size, warps))
            if batch:
                batch.load(given)
            else:
                batch = Batch(self._steps[warps], given, size, self._device, self._recorded, self._run)
                self._kept.batches[side, size, warps] = batch
            return _read_into(some, batch.climb()[: len(some)])

        def trial() -> None:
            given = packed([faces[0].ready], side, guides)
            given.rows = given.rows[:, :1]
            Batch(self._steps[warps], given, TRIAL, self._device, _as_it_is, at_once).climb()

        if self._device.type == "cuda":
            find_limit(known, self._sizes, trial, TRIAL, self._device)
        return in_batches(len(faces), known, self._sizes, attempt, lambda: free_memory(self._device))

    def _recorded(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return self._record(work) or work

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One caller's turn, on the road's device, whatever mode the caller is in."""
        here = torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
        with self._kept.lock, torch.inference_mode(False), torch.no_grad(), here:
            yield


def _side(task: Task) -> int:
    return side_of(canvas_size(task.matrix, task.pixels.shape))


def _seer(guide: TorchGuide, device: torch.device, coarser: Callable[[nn.Module], nn.Module]) -> Seer:
    network = guide.network.to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    return Seer(network, coarser(network), torch.from_numpy(guide.centre).to(device), guide.threshold)


def _as_it_is(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return work


def _read_into(faces: Sequence[_Face], found: Tensor) -> Callable[[], None]:
    """Begin to copy results to the host; what is returned waits for them, and notes them."""
    here, event = found, None
    if found.is_cuda:
        here = torch.empty(found.shape, pin_memory=True)
        here.copy_(found, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()

    def finish() -> None:
        if event is not None:
            event.synchronize()
        for face, row in zip(faces, here.numpy(), strict=True):
            read(row, face.ready.face)
            face.likeness = float(row[STATE])
            read_bound(row[STATE + 1 :].reshape(face.side, face.side), face.ready.face)

    return finish
