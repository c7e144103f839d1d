"""ONNX files that users bring are looked at before ONNX Runtime, or torch, opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from apf.detection.insightface_pack import InsightFacePack
from apf.errors import DetectorError, GuideError, WeightsError
from apf.guides.loading import load_guide
from apf.guides.torch_recogniser import load_recogniser
from apf.runtime import onnx_check
from apf.runtime.onnx_check import checked
from tests.apf.guides.networks import Net, network


def flat(net: Net, x: str) -> str:
    return str(net.add("Flatten", x))


def model() -> onnx.ModelProto:
    return network(flat, 3 * 9 * 8)


def external(path: str) -> onnx.ModelProto:
    """Its weights are said to lie in another file."""
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return made


def external_constant() -> onnx.ModelProto:
    """The same of a constant inside a node."""
    made = model()
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    made.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    return made


def looping() -> onnx.ModelProto:
    made = model()
    body = helper.make_graph([], "body", [], [])
    made.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))
    return made


def foreign() -> onnx.ModelProto:
    made = model()
    made.graph.node.append(helper.make_node("Evil", ["x"], ["y"], domain="com.example"))
    return made


def huge() -> onnx.ModelProto:
    """A few bytes that ask for four terabytes."""
    made = model()
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape")
    made.graph.initializer.append(shape)
    made.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["y"]))
    return made


def functions() -> onnx.ModelProto:
    made = model()
    made.functions.add(name="own", domain="own")
    return made


def claiming() -> onnx.ModelProto:
    """Weights that claim a size and bring nothing."""
    made = model()
    made.graph.initializer.add(name="big", data_type=1, dims=[2**20, 2**20])
    return made


REFUSED = {
    "in another file": external("/etc/passwd"),
    "is in another file": external_constant(),
    "holds a program": looping(),
    "needs the operator com.example.Evil": foreign(),
    "'y' has 1,099,511,627,776 numbers": huge(),
    "functions of its own": functions(),
    "'big' has 1,099,511,627,776 numbers": claiming(),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_network_has_no_need_of_is_refused(said: str, tmp_path: Path) -> None:
    """As a guide, as a recogniser and in a detector's pack, by what is wrong with it; nothing was run."""
    path = tmp_path / "own.onnx"
    path.write_bytes(REFUSED[said].SerializeToString())
    with pytest.raises(GuideError, match=said):
        load_guide(str(path))
    with pytest.raises(WeightsError, match=said):
        load_recogniser(path)
    with pytest.raises(DetectorError, match=said):
        InsightFacePack(str(tmp_path), "cpu")


def test_external_data_is_not_read(tmp_path: Path) -> None:
    """Not even where it is right, beside the file, and whole."""
    made = model()
    onnx.save(made, tmp_path / "own.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").exists()
    with pytest.raises(GuideError, match="in another file, which is not read"):
        load_guide(str(tmp_path / "own.onnx"))


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is looked at before its bytes are."""
    path = tmp_path / "own.onnx"
    with path.open("wb") as file:
        file.truncate(2**33)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    for load, error in ((load_guide, GuideError), (load_recogniser, WeightsError)):
        with pytest.raises(error, match="8,589,934,592 bytes"):
            load(str(path))  # type: ignore[operator]


def test_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything walks over them."""
    monkeypatch.setattr(onnx_check, "MAX_NODES", 1)
    with pytest.raises(ValueError, match="nodes, over 1"):
        checked(model().SerializeToString())


def test_an_honest_network_is_taken() -> None:
    """It is as it was."""
    made = model()
    assert checked(made.SerializeToString()) == made
