"""Capture work as one CUDA graph: one launch instead of thousands, which take longer than their kernels.

Captured as torch's notes on CUDA semantics describe for whole networks: warmed up and recorded on a side stream, from a
static input to a static output, with the gradient's backward passes inside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from apf.runtime.cuda.memory import is_out_of_memory

logger = logging.getLogger(__name__)

#: Runs before the recording, in which libraries choose kernels and set up their workspaces.
WARM_UPS = 3
#: A replay and a plain run differ by rounding, which the steps amplify; by more than this share something is wrong.
SAME = 0.05


class GraphError(RuntimeError):
    """Raised when a recorded graph does not compute what it was recorded from."""


class Capture(Protocol):
    """Makes a graph of work that reads and writes tensors of fixed places; the result is called to run it."""

    def __call__(self, work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]: ...


def captured(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Return the work as a graph. What the result returns is overwritten by its next call.

    Args:
        work: waits for nothing, and takes no input but tensors that stay where they are.

    Raises:
        RuntimeError: the device or the work cannot do it.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            expected = work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # The outer context leaves the side stream even where the recording fails.
    with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, stream=stream):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    check_same(replay(), expected)
    return replay


def check_same(found: Tensor, expected: Tensor) -> None:
    """Raise GraphError where a graph's first result is not that of the plain run."""
    difference = (found - expected).abs().mean().item()
    allowed = SAME * expected.abs().mean().item()
    if not difference <= allowed:  # also where it is no number
        raise GraphError(f"a CUDA graph's result is off by {difference:.3g} on average, more than {allowed:.3g}")


class Recorder:
    """Records work as graphs until a device refuses one; from then on nothing is tried, and the log says so.

    Args:
        what: the kind of work, for the log.
        capture: how a graph is made; None: none is.
    """

    def __init__(self, what: str, device: torch.device, capture: Capture | None) -> None:
        self._what, self._device, self._capture = what, device, capture

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor] | None:
        """Return the work as a graph, or None where it has to go launch by launch.

        Raises:
            RuntimeError: the device has no memory left for it.
        """
        if self._capture is None:
            return None
        try:
            return self._capture(work, self._device)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            logger.warning("CUDA graphs do not work for %s here, going on without: %s", self._what, error)
            self._capture = None
            return None
