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
