"""When a device's memory ends: smaller batches, every item done once, and nothing else taken for it."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from apf.errors import DeviceMemoryError
from apf.runtime.cuda import memory
from apf.runtime.cuda.batches import FACE_BATCHES, Limit
from apf.runtime.cuda.memory import find_limit, in_batches, is_out_of_memory

CPU = torch.device("cpu")


class Device:
    """Has room for so many at once, and says what it did."""

    def __init__(self, room: int) -> None:
        self.room, self.sizes, self.freed = room, list[int](), 0

    def attempt(self, start: int, stop: int, size: int) -> range:
        self.sizes.append(size)
        if size > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return range(start, stop)

    def let_go(self) -> None:
        self.freed += 1

    def run(self, count: int, limit: Limit) -> list[int]:
        return [i for part in in_batches(count, limit, FACE_BATCHES, self.attempt, self.let_go) for i in part]


@pytest.mark.parametrize("room", [1, 3, 8, 40, 128, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 130, 600])
def test_batches_shrink_until_they_fit(count: int, room: int) -> None:
    """Every item is done once and in order, whatever the memory; the cache is emptied at each failure."""
    device, limit = Device(room), Limit()
    assert device.run(count, limit) == list(range(count))
    assert device.freed == sum(size > room for size in device.sizes)


def test_the_smaller_batch_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    """A second run fails no more, and the log has said what happened."""
    device, limit = Device(40), Limit()
    device.run(600, limit)
    assert limit.most == 32 and "going on with" in caplog.text
    device.sizes.clear()
    device.run(600, limit)
    assert max(device.sizes) == 32


def test_one_that_does_not_fit_is_an_error() -> None:
    """With no room for a single item the error says what to do, after the memory was given back."""
    device = Device(0)
    with pytest.raises(DeviceMemoryError, match="batch of one"):
        device.run(3, Limit())
    assert device.sizes[-1] == 1 and device.freed == len(device.sizes)


def test_other_errors_pass() -> None:
    """A failure that is not about memory is not tried again."""
    calls = []

    def broken(start: int, stop: int, size: int) -> None:
        calls.append(size)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        in_batches(9, Limit(), FACE_BATCHES, broken, lambda: None)
    assert len(calls) == 1


def test_tensors_of_a_failed_attempt_are_free_when_memory_is_given_back() -> None:
    """The failure's traceback keeps its frames' tensors: it must be gone before the cache is emptied."""
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def attempt(start: int, stop: int, size: int) -> None:
        large = torch.zeros(size)
        kept.append(weakref.ref(large))
        if size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    gc.disable()  # what only a collection frees does not count
    try:
        in_batches(32, Limit(), FACE_BATCHES, attempt, lambda: alive.append(kept[-1]() is not None))
    finally:
        gc.enable()
    assert alive and not any(alive)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("Expected all tensors to be on the same device"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_counts_as_out_of_memory(error: RuntimeError, expected: bool) -> None:
    """An error of torch itself, and those of the libraries under it that it passes on."""
    assert is_out_of_memory(error) == expected


def test_the_limit_is_found_by_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 32 items take, measured, and the free memory give the largest size; a second call measures nothing."""
    monkeypatch.setattr(memory, "peak_bytes", lambda work, device: (work(), 32 * 10e6)[1])
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8e9)
    runs: list[int] = []
    limit = Limit()
    for _ in range(2):
        find_limit(limit, FACE_BATCHES, lambda: runs.append(1), 32, CPU)
    assert limit.most == 128 and len(runs) == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no such query")])
def test_a_trial_that_fails_does_not_stop_the_work(error: RuntimeError, caplog: pytest.LogCaptureFixture) -> None:
    """Half of the trial's items is tried then, and the log says why."""

    def trial() -> None:
        raise error

    limit = Limit()
    find_limit(limit, FACE_BATCHES, trial, 32, CPU)
    assert limit.most == 16 and str(error) in caplog.text


def test_graphs_of_every_kind_of_work_are_forgotten_where_memory_is_needed() -> None:
    """Its own, though it is at work, and those of others; but for those that another thread is at work with."""
    own, idle, busy = (memory.GraphCache[int, str]() for _ in range(3))
    for one in (own, idle, busy):
        one.batches[8] = "a graph"
    with ThreadPoolExecutor(1) as other:
        other.submit(busy.lock.acquire).result()
        with own.lock:
            memory.free_memory(CPU)
        other.submit(busy.lock.release).result()
    assert [one.batches for one in (own, idle, busy)] == [{}, {}, {8: "a graph"}]
    memory.free_memory(CPU)
    assert busy.batches == {}


def test_one_item_is_tried_again_once_other_work_has_given_its_memory_back() -> None:
    """A detector's only tile fits where the graphs of filters were; no smaller batch is left to try."""
    device, limit = Device(0), Limit()
    limit.find(1)

    def let_go() -> None:
        device.room = 1

    assert in_batches(2, limit, FACE_BATCHES, device.attempt, let_go) == [range(1), range(1, 2)]
    assert device.sizes == [1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_measured_memory_on_a_gpu() -> None:
    """The peak of a piece of work is what it allocated, also where the memory was reserved before."""
    device = torch.device("cuda")

    def work() -> None:
        torch.zeros(64 * 2**20, dtype=torch.uint8, device=device)

    work()
    assert memory.peak_bytes(work, device) == 64 * 2**20
    assert 0 < memory.free_bytes(device) <= torch.cuda.get_device_properties(device).total_memory
