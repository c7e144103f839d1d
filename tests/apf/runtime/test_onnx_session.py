"""ONNX Runtime's memory: one arena for all networks, which gives back what is free."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.record import ROOT

#: Ten networks each need 100 MB besides their input, one after the other.
PROGRAM = """
import sys
import numpy as np, onnx, psutil
from onnx import helper
from apf.runtime.onnx_session import RuntimeNetwork, shrink_arena
from workers.core.heap import trim_heap
def held(): return psutil.Process().memory_info().rss / 2**20
ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in ("given", "made")]
nodes = [helper.make_node("Exp", ["given"], ["grown"]), helper.make_node("ReduceSum", ["grown"], ["made"], keepdims=1)]
model = helper.make_model(
    helper.make_graph(nodes, "sum", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
)
networks, given = [RuntimeNetwork(model) for _ in range(10)], np.ones(25_000_000, np.float32)
before = held()
sums = {float(network(given=given)["made"][0]) for network in networks}
print(60 < held() - before < 200)
trim_heap() if "trim" in sys.argv else shrink_arena()
print(held() - before < 30)
print(sums == {float(network(given=given)["made"][0]) for network in networks})
"""


@pytest.mark.parametrize("how", ["trim", "shrink"])
def test_networks_share_their_memory_and_give_it_back(how: str) -> None:
    """Ten networks hold what one of them needs, and nothing once it is given back; they compute the same afterwards."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True"] * 3


#: The host application has registered its allocator; older versions of ONNX Runtime refuse a second one.
EMBEDDED = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
kind, config = {"arena": ("ORT_ARENA_ALLOCATOR", onnxruntime.OrtArenaCfg({})), "plain": ("ORT_DEVICE_ALLOCATOR", None)}[
    sys.argv[1]
]
kind = getattr(onnxruntime.OrtAllocatorType, kind)
memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
onnxruntime.create_and_register_allocator(memory, config)
def refuse(*_): raise RuntimeError("An allocator for this device has already been registered for sharing.")
onnxruntime.create_and_register_allocator = refuse
from apf.runtime.onnx_session import shrink_arena
from apf.detection.centerface_onnx import light_detector
from skimage.data import astronaut
shrink_arena()
print(len(light_detector().detect([astronaut()])[0]))
"""

#: A shard ends while another thread imports what runs networks.
IMPORTED = """
import threading
import onnxruntime
from workers.core.heap import trim_heap
real, reached, go_on = onnxruntime.create_and_register_allocator, threading.Event(), threading.Event()
def slow(*given):
    reached.set()
    go_on.wait()
    real(*given)
onnxruntime.create_and_register_allocator = slow
threading.Thread(target=__import__, args=("apf.runtime.onnx_session",)).start()
reached.wait()
threading.Timer(0.5, go_on.set).start()
trim_heap()
print(go_on.is_set())
"""


@pytest.mark.parametrize("kind", ["arena", "plain"])
def test_a_host_application_may_have_an_allocator_of_its_own(kind: str) -> None:
    """Networks use that one where ONNX Runtime allows no second; where it keeps nothing, there is nothing to shrink."""
    ran = subprocess.run([sys.executable, "-c", EMBEDDED, kind], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["1"]


def test_the_heap_is_trimmed_once_another_thread_has_imported_the_networks() -> None:
    """A module that is half imported has no arena to shrink yet."""
    ran = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["True"]
