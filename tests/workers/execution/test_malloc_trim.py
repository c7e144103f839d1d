"""What is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.record import ROOT
from workers.execution.malloc_trim import _malloc_trim

#: Every eighth block lives on, so that the heap cannot shrink by itself.
PROGRAM = """
import psutil
from workers.execution.malloc_trim import trim_heap
def held(): return psutil.Process().memory_info().rss / 2**20
blocks = [bytes(20_000) for _ in range(5_000)]
blocks = blocks[::8]
before = held()
print(trim_heap(), trim_heap(), before - held() > 40)
"""


@pytest.mark.skipif(_malloc_trim() is None, reason="glibc alone keeps memory so, and has malloc_trim")
def test_free_memory_between_blocks_goes_back_and_only_now_and_then() -> None:
    """Most of 100 MB that are free between blocks that live on are given back, and not a second time at once."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True", "False", "True"]
