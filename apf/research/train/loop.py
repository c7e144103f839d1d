"""The loop that all trainings share: steps or minutes, checkpoints, a CSV log and a progress bar."""

from __future__ import annotations

import csv
import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from apf.research.train import together
from apf.research.train.data import DataError

#: Raised when the same steps would now train for something else: older checkpoints are not gone on with.
OBJECTIVE = 3
CHECKPOINT_EVERY_S = 120.0
LOG_EVERY_STEPS = 20
#: Between the seeds of the processes that train together: more than the steps of any course.
OTHERS = 500_000


class OutOfTime(DataError):
    """Raised when the minutes are up before the steps are done; the checkpoint is whole."""


class Stateful(Protocol):
    """What a checkpoint keeps: modules, optimisers."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train: a number of steps, and a number of minutes after which it stops all the same."""

    steps: int
    minutes: float = float("inf")
    #: Whether the minutes, of all runs together, are the whole course: it is done when they are up, and its learning
    #: rate follows them, where they end before the steps do.
    paced: bool = False


class Pace:
    """How much of a course is behind: by steps, or by the clock where that is ahead."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Of all runs together."""
        return self._before + time.monotonic() - self._started

    def share(self, done: int) -> float:
        """Return the share, 0 to 1, after so many steps."""
        by_clock = self.seconds / (60 * self._budget.minutes) if self._budget.paced else 0.0
        return min(1.0, max(done / self._budget.steps, by_clock))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: Any) -> None:
        self._before, self._started = state_dict["seconds"], time.monotonic()


def one_cycle(share: float, *, rise: float = 0.05) -> float:
    """Return a learning rate as a share of its height: up in the first part of the course, then down, by cosines."""
    down = share >= rise
    height = (1 - math.cos(math.pi * share / rise)) / 2 if not down else 1.0
    fall = (1 + math.cos(math.pi * (share - rise) / (1 - rise))) / 2 if down else 1.0
    return max(1e-4, height * fall)


def train(
    step: Callable[[int, torch.Generator], dict[str, float]],
    state: dict[str, Stateful],
    *,
    budget: Budget,
    seed: int,
    run: Path,
    name: str,
    given: Iterable[Tensor] = (),
) -> None:
    """Call `step(number, generator)` until the budget's steps are done, here or in earlier runs.

    Each step draws from a generator seeded by (seed, number) alone, so a run that was resumed from `run/name.pt` is the
    run that was never broken off. What a step returns is averaged into `run/name.csv`.

    Args:
        given: what the training depends on besides the seed and the modules as they are now.

    Raises:
        DataError: the checkpoint is of a run that was begun with something else.
        OutOfTime: the minutes are up.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoint, log = run / f"{name}.pt", run / f"{name}.csv"
    begun = _begun_with(seed, state, given)
    done = _resume(checkpoint, state, budget.steps, begun)
    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    counted = 0
    bar = tqdm(total=budget.steps, initial=done, desc=name, mininterval=2, smoothing=0.05, disable=together.rank() > 0)
    pace = state.get("pace")

    def up() -> bool:
        seconds = pace.seconds if budget.paced and isinstance(pace, Pace) else time.monotonic() - started
        return seconds >= budget.minutes * 60

    while done < budget.steps and not together.agreed(up()):
        figures = step(done, torch.Generator().manual_seed(seed * 1_000_003 + done + OTHERS * together.rank()))
        done += 1
        bar.update()
        sums, counted = {key: sums.get(key, 0.0) + value for key, value in figures.items()}, counted + 1
        if together.rank():
            continue
        if done % LOG_EVERY_STEPS == 0:
            means = {key: round(value / counted, 5) for key, value in sums.items()}
            sums, counted = {}, 0
            bar.set_postfix(means)
            _append(log, {"step": done, "seconds": round(time.monotonic() - started, 1), **means})
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            _save(checkpoint, state, done, budget.steps, begun)
            saved = time.monotonic()
    bar.close()
    if not together.rank():
        _save(checkpoint, state, done, budget.steps, begun)
    if done < budget.steps and not budget.paced:
        raise OutOfTime(f"{name}: {done} of {budget.steps} steps are done; the same command goes on from there")


def _begun_with(seed: int, state: dict[str, Stateful], given: Iterable[Tensor]) -> str:
    """Return a digest of all that a run starts from."""
    weights = [own for part in state.values() if isinstance(part, nn.Module) for own in part.state_dict().values()]
    digest = hashlib.sha256(f"{OBJECTIVE} {seed}".encode())
    for tensor in (*weights, *given):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resume(checkpoint: Path, state: dict[str, Stateful], steps: int, begun: str) -> int:
    if not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint)
    if kept.get("begun") != begun:
        raise DataError(
            f"{checkpoint} was begun with another seed, version, faces, models or weights: use another --run"
        )
    if kept["steps"] != steps and {"schedule", "pace"} & set(state):  # the learning rate follows the number of steps
        raise DataError(f"{checkpoint} was begun with --steps {kept['steps']}, not {steps}: use that, or another --run")
    for key, part in state.items():
        part.load_state_dict(kept[key])
    return int(kept["done"])


def _save(checkpoint: Path, state: dict[str, Stateful], done: int, steps: int, begun: str) -> None:
    """Write beside, then move: a checkpoint is always whole."""
    partial = checkpoint.with_suffix(".partial")
    told = {"done": done, "steps": steps, "begun": begun}
    torch.save({**{key: part.state_dict() for key, part in state.items()}, **told}, partial)
    partial.replace(checkpoint)


def _append(log: Path, row: dict[str, float]) -> None:
    new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def draw(size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Positions of a random batch."""
    return torch.randint(size, (batch,), generator=generator)
