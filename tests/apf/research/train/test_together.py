"""A training by several processes, and one that follows the clock."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from apf.research.train import loop, together
from apf.research.train.data import DataError
from apf.research.train.loop import Budget, Pace, one_cycle, train

ONE = """
import sys
from pathlib import Path
import torch
from apf.research.train import together
from apf.research.train.loop import Budget, Pace, train

together.begin()
torch.manual_seed(0)
module = torch.nn.Linear(4, 1)
optimiser = torch.optim.SGD(module.parameters(), lr=0.1)

def step(number, generator):
    optimiser.zero_grad()
    module(torch.randn(8, 4, generator=generator)).square().mean().backward()
    together.average_gradients(module.parameters())
    optimiser.step()
    return {"share": together.agreed(float(together.rank()))}

budget = Budget(steps=3)
train(step, {"it": module, "pace": Pace(budget)}, budget=budget, seed=1, run=Path(sys.argv[1]), name="it")
torch.save(module.state_dict(), Path(sys.argv[1]) / f"after-{together.rank()}.pt")
together.end()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.rotating("training")
def test_processes_train_one_module(tmp_path: Path) -> None:
    """Each sees faces of its own, both step by the mean of their gradients, and the first alone writes."""
    folders = [tmp_path / str(rank) for rank in range(2)]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    for folder in folders:
        folder.mkdir()
    running = [
        subprocess.Popen([sys.executable, "-c", ONE, str(folder)], env={**os.environ, **common, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    ]
    assert [one.wait(120) for one in running] == [0, 0]
    first, second = (torch.load(folder / f"after-{rank}.pt") for rank, folder in enumerate(folders))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (folders[0] / "it.pt").exists() and not (folders[1] / "it.pt").exists()

    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    for number in range(3):
        module.zero_grad()
        for rank in range(2):
            generator = torch.Generator().manual_seed(1_000_003 + number + loop.OTHERS * rank)
            (module(torch.randn(8, 4, generator=generator)).square().mean() / 2).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.1 * parameter.grad)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(first[name], value)


def test_alone_nothing_changes() -> None:
    """One process is the first, agrees with itself, and keeps its gradients."""
    together.begin()
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    together.average_gradients([weight])
    assert (together.rank(), together.size(), together.agreed(0.3)) == (0, 1, 0.3)
    assert weight.grad.tolist() == [3.0, 3.0]


def test_a_paced_course_is_done_when_its_minutes_are_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock leads the share where it is ahead, counts on after a break, and its end is no failure."""
    now = [0.0]
    monkeypatch.setattr("apf.research.train.loop.time.monotonic", lambda: now[0])
    shares: list[float] = []

    def run(paced: bool, break_after: int) -> int:
        budget = Budget(steps=100, minutes=1, paced=paced)
        pace = Pace(budget)

        def step(number: int, _: torch.Generator) -> dict[str, float]:
            shares.append(pace.share(number))
            now[0] += 6
            if len(shares) == break_after:
                raise KeyboardInterrupt
            return {}

        module = nn.Linear(1, 1)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        monkeypatch.setattr("apf.research.train.loop.CHECKPOINT_EVERY_S", 5.0)
        train(step, {"it": module, "pace": pace}, budget=budget, seed=0, run=tmp_path / str(paced), name="it")
        return len(shares)

    with pytest.raises(KeyboardInterrupt):
        run(paced=True, break_after=4)
    assert shares == pytest.approx([0.0, 0.1, 0.2, 0.3])
    shares.clear()
    now[0] += 1000
    run(paced=True, break_after=0)
    assert shares == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]), "the break is not counted"
    shares.clear()
    with pytest.raises(DataError, match="the same command goes on"):
        run(paced=False, break_after=0)
    assert shares == pytest.approx([number / 100 for number in range(10)])


def test_one_cycle_rises_and_falls() -> None:
    """From nothing to its height at a twentieth, and back at the end."""
    assert one_cycle(0) == one_cycle(1) == 1e-4 and one_cycle(0.05) == 1
    heights = [one_cycle(number / 100) for number in range(101)]
    assert heights[:6] == sorted(heights[:6]) and heights[5:] == sorted(heights[5:], reverse=True)
    assert one_cycle(0.525) == pytest.approx(0.5)
