"""How many cores there are, whoever limits them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apf.runtime import cores
from apf.runtime.cores import available_cores, side_by_side, use_cores, with_idle_cores


@pytest.fixture
def as_before() -> Iterator[None]:
    yield
    cores._share.clear()
    cores._pool.cache_clear()


@pytest.mark.parametrize(
    ("text", "found"),
    [("200000 100000\n", 2), ("50000 100000", 0.5), ("max 100000", math.inf), ("", math.inf), (None, math.inf)],
)
def test_a_containers_quota_is_read(tmp_path: Path, text: str | None, found: float) -> None:
    """As cgroup v2 writes it; without one, or in a file that is none, nothing limits."""
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert cores._quota(file) == found


@pytest.mark.parametrize(("quota", "most"), [(0.5, 1), (1.2, 2), (math.inf, 10**6)])
def test_a_quota_bounds_the_cores(monkeypatch: pytest.MonkeyPatch, quota: float, most: int) -> None:
    """A part of a core counts as one; never more than there are, and never none."""
    unlimited = available_cores()
    monkeypatch.setattr(cores, "_quota", lambda: quota)
    assert 1 <= available_cores() <= min(most, unlimited)


@pytest.mark.usefixtures("as_before")
def test_work_is_done_on_as_many_threads_as_are_asked_for() -> None:
    """In order, side by side, and never on more threads."""
    use_cores(3)
    together, seen = threading.Barrier(3, timeout=20), set()

    def work(number: int) -> int:
        seen.add(threading.current_thread().name)
        together.wait()
        return number * number

    assert side_by_side(work, range(6)) == [0, 1, 4, 9, 16, 25]
    assert len(seen) == 3
    assert side_by_side(work, []) == []


@pytest.mark.usefixtures("as_before")
def test_work_within_work_is_done_where_it_is() -> None:
    """On two threads that each ask for more: no thread waits for one that is to come, and all is done in order."""
    use_cores(2)
    together = threading.Barrier(2, timeout=20)

    def inner(number: int) -> tuple[int, str]:
        return number, threading.current_thread().name

    def outer(number: int) -> list[tuple[int, str]]:
        together.wait()
        return side_by_side(inner, range(number, number + 3))

    found = side_by_side(outer, [0, 10])
    assert [[number for number, _ in one] for one in found] == [[0, 1, 2], [10, 11, 12]]
    assert all(len({name for _, name in one}) == 1 for one in found)


@pytest.mark.usefixtures("as_before")
def test_one_core_needs_no_other_thread() -> None:
    """All is done by the caller."""
    use_cores(1)
    assert set(side_by_side(lambda _: threading.current_thread(), range(3))) == {threading.current_thread()}


@pytest.mark.usefixtures("as_before")
def test_small_work_does_not_queue_behind_large_work() -> None:
    """While all threads are busy the caller does everything itself, in order; where one is idle it takes its part."""
    use_cores(2)
    busy, done = threading.Barrier(3, timeout=20), threading.Event()

    def large(_: int) -> None:
        busy.wait()
        done.wait(20)

    def where(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    outside = threading.Thread(target=side_by_side, args=(large, range(2)))
    outside.start()
    busy.wait()
    found = with_idle_cores(where, range(3))
    done.set()
    outside.join(20)
    assert found == [(number, threading.current_thread()) for number in range(3)]
    together = threading.Barrier(2, timeout=20)
    assert len(set(with_idle_cores(lambda _: (together.wait(), threading.current_thread())[1], range(2)))) == 2
