"""Run a function of faces on one device, in batches of a few fixed sizes, each a CUDA graph where that works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apf.runtime.cuda.batches import FACE_BATCHES, Limit, limit
from apf.runtime.cuda.graph import Capture, Recorder, captured
from apf.runtime.cuda.memory import GraphCache, find_limit, free_memory, in_batches
from apf.runtime.stage_clock import StageClock
from apf.stages.compose import Run, at_once

#: Faces of the trial that finds the largest batch.
TRIAL = 32
#: Fills up a batch.
GREY = 0.5


@dataclass
class _Batch:
    """One size: where its input lies, (size, c, 112, 112) channels last, and its graph."""

    given: Tensor
    #: None: eager execution.
    replay: Callable[[], Tensor] | None = None
    #: Each stage's share of the time, as eager execution takes it: inside a graph it cannot be measured.
    shares: dict[str, float] = field(default_factory=dict)


class Runner:
    """Runs one function of faces in batches of fixed sizes; safe to share between threads, which take turns.

    How many faces come together decides the size of their batch (`apf.runtime.cuda.batches.next_batch`), and each size
    has its own kernels. So a face's result may differ by rounding with the number of faces around it, not with which
    faces they are. Batches of one size always run the same kernels: cuDNN chooses them by its own rules, not by timing.

    Args:
        name: of the work, for the process's memory of what fits (`apf.runtime.cuda.batches.limit`).
        work: (B, c, 112, 112) to (B, d, 112, 112), waiting for nothing but in the `Run` that it is given.
        graphs: record each size as a CUDA graph; where one fails, no more are tried, and the log says so.
        capture: how a graph is made, for tests.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Tensor, Run], Tensor],
        device: torch.device,
        *,
        graphs: bool = True,
        capture: Capture = captured,
    ) -> None:
        self._work, self._device = work, device
        self._record = Recorder("modules", device, capture if graphs else None)
        self._kept = GraphCache[int, _Batch]()
        #: Seconds that the clock has already, or that are set-up and no stage's.
        self._accounted_s = 0.0
        self.limit: Limit = limit(str(device), name)

    def __call__(self, given: Tensor, clock: StageClock) -> Tensor:
        """(B, c, 112, 112) float32, here or on the device, to (B, d, 112, 112) on the device; B is at least 1.

        Raises:
            DeviceMemoryError: the device has no memory for one face.
        """
        # A batch's place must take part in gradients, whatever mode the caller is in.
        with self._kept.lock, torch.inference_mode(False), torch.no_grad(), self._here():
            started, accounted = time.perf_counter(), self._accounted_s
            with self._apart():
                self._find_limit(given)
            parts = in_batches(
                len(given),
                self.limit,
                FACE_BATCHES,
                lambda start, stop, size: self._run(given[start:stop], size, clock),
                lambda: free_memory(self._device),
            )
            result = torch.cat(parts)
            self._wait()
            self._account(clock, time.perf_counter() - started - (self._accounted_s - accounted))
            return result

    def _run(self, chunk: Tensor, size: int, clock: StageClock) -> Tensor:
        batch = self._kept.batches.get(size) or self._set_up(chunk, size)
        self._fill(batch.given, chunk)
        if batch.replay:
            result = batch.replay()
        else:
            with self._apart():
                result = self._plainly(batch.given, clock)
        return result[: len(chunk)].clone(memory_format=torch.contiguous_format)

    def _fill(self, place: Tensor, chunk: Tensor) -> None:
        """Copy the chunk into the batch's place without waiting for the GPU, and grey into the rest."""
        if chunk.device.type == "cpu" and self._device.type == "cuda":
            # Pinned memory is kept and used again by torch, which knows when the copy is over.
            chunk = chunk.contiguous().pin_memory().to(self._device, non_blocking=True)
        place[: len(chunk)].copy_(chunk)
        place[len(chunk) :].fill_(GREY)

    def _set_up(self, chunk: Tensor, size: int) -> _Batch:
        with self._apart():
            place = torch.full((size, *chunk.shape[1:]), GREY, device=self._device)
            batch = _Batch(place.contiguous(memory_format=torch.channels_last))
            self._fill(batch.given, chunk)
            self._recorded(batch)
            self._kept.batches[size] = batch
            return batch

    def _recorded(self, batch: _Batch) -> None:
        batch.replay = self._record(lambda: self._work(batch.given, at_once))
        if batch.replay is None:
            return
        clock = StageClock()
        self._plainly(batch.given, clock)
        whole = sum(clock.seconds.values())
        batch.shares = {stage: seconds / whole for stage, seconds in clock.seconds.items()}

    def _plainly(self, given: Tensor, clock: StageClock) -> Tensor:
        """Return the work launch by launch, each stage timed by what the device takes for it."""

        def run(stage: str, part: Callable[[], Tensor]) -> Tensor:
            with clock.stage(stage):
                result = part()
                self._wait()
                return result

        return self._work(given, run)

    def _find_limit(self, given: Tensor) -> None:
        if self._device.type != "cuda":
            return
        shape = (TRIAL, *given.shape[1:])

        def trial() -> Tensor:
            faces = torch.full(shape, GREY, device=self._device).contiguous(memory_format=torch.channels_last)
            return self._work(faces, at_once)

        find_limit(self.limit, FACE_BATCHES, trial, TRIAL, self._device)

    def _account(self, clock: StageClock, seconds: float) -> None:
        """Divide the time of graphs among the stages."""
        shares = next((batch.shares for batch in self._kept.batches.values() if batch.shares), {})
        for stage, share in shares.items():
            clock.add(stage, share * seconds)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Time that is not of graphs."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._accounted_s += time.perf_counter() - start

    def _here(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
