"""What is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.record import ROOT
from workers.core.heap import _glibc

#: Every eighth block lives on, so that the heap cannot shrink by itself.
PROGRAM = """
import psutil
from workers.core.heap import trim_heap
def held(): return psutil.Process().memory_info().rss / 2**20
blocks = [bytes(20_000) for _ in range(5_000)]
blocks = blocks[::8]
before = held()
print(trim_heap(), trim_heap(), before - held() > 40)
"""


#: Arrays of 48 MB, again and again.
KEPT = """
import resource
from workers.core.heap import keep_freed, trim_heap
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(keep_freed(2**29))
bytearray(b"1") * 48_000_000
before = faults()
for _ in range(10):
    bytearray(b"1") * 48_000_000
print(faults() - before < 1_000)
trim_heap(0)
before = faults()
bytearray(b"1") * 48_000_000
print(faults() - before > 1_000)
"""

#: Twelve threads allocate at once, each by the C library itself; then it tells of its heaps.
HEAPS = """
import ctypes, os, psutil, tempfile, threading
from workers.core.heap import limit_heaps
print(limit_heaps(3))
met = threading.Barrier(12)
def work():
    met.wait()
    block = bytearray(100_000)
    met.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
c = ctypes.CDLL(None)
c.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    told = ctypes.c_void_p(c.fdopen(os.dup(file.fileno()), b"w"))
    c.malloc_info(0, told)
    c.fclose(told)
    file.seek(0)
    print(1 < file.read().count(b"<heap ") <= 3)
held = lambda: psutil.Process().memory_info().rss / 2**20
bytearray(b"1") * 20_000_000  # once freed, such a one would be of a heap the next time
blocks, before = [], held()
for _ in range(10):
    large = bytearray(b"1") * 20_000_000
    blocks.append(bytes(100_000))  # lives on behind it
    del large
print(held() - before < 10)
"""


@pytest.mark.skipif(_glibc("malloc_trim") is None, reason="glibc alone keeps memory so, and has malloc_trim")
def test_free_memory_between_blocks_goes_back_and_only_now_and_then() -> None:
    """Most of 100 MB that are free between blocks that live on are given back, and not a second time at once."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True", "False", "True"]


@pytest.mark.skipif(_glibc("mallopt") is None, reason="glibc alone gives back each large array")
def test_freed_arrays_are_kept_for_the_next_until_the_heap_is_trimmed() -> None:
    """Ten arrays after the first cost no new page; after a trim the next one does."""
    ran = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True", "True", "True"]


@pytest.mark.skipif(_glibc("mallopt") is None, reason="glibc alone has a heap for each thread")
def test_threads_share_a_few_heaps() -> None:
    """Twelve threads that allocate at once have three heaps between them, and large arrays are of none."""
    ran = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True"] * 3
