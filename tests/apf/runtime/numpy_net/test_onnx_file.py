"""ONNX files are read whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from apf.detection.centerface_maps import weights_path
from apf.errors import WeightsError
from apf.runtime.numpy_net.onnx_file import read_onnx
from apf.weight_files import WEIGHTS_DIR
from tests.apf.runtime.numpy_net.graphs import model, node, values

PROBE = WEIGHTS_DIR / "probe_gradient.onnx"


@pytest.mark.parametrize("path", [weights_path(), PROBE], ids=["centerface", "probe"])
def test_reads_what_the_reference_reads(path: Path) -> None:
    """Nodes, constants, inputs, outputs and metadata are those that the `onnx` package reads."""
    graph, reference = read_onnx(path), onnx.load(path)
    assert [(n.kind, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in reference.graph.node
    ]
    assert len(graph.constants) == len(reference.graph.initializer)
    for tensor in reference.graph.initializer:
        np.testing.assert_array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor))
    assert set(graph.inputs) == {entry.name for entry in reference.graph.input} - set(graph.constants)
    assert graph.outputs == tuple(entry.name for entry in reference.graph.output)
    assert graph.metadata == {entry.key: entry.value for entry in reference.metadata_props}
    for own, other in zip(graph.nodes, reference.graph.node, strict=True):
        for attribute in other.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, float):
                assert own.reals[attribute.name] == pytest.approx(value)
            else:
                assert own.numbers[attribute.name] == (value if isinstance(value, list) else [value])


def small() -> bytes:
    constants = {"w": values(0, 3, 3, 3, 3), "axes": np.array([-1, 2])}
    return model([node("Conv", ["x", "w"], kernel_shape=[3, 3], pads=[1] * 4)], constants)


def test_negative_numbers_are_read(tmp_path: Path) -> None:
    """Whole numbers below zero are read as such."""
    path = tmp_path / "small.onnx"
    path.write_bytes(small())
    assert read_onnx(path).constants["axes"].tolist() == [-1, 2]


def test_both_ways_to_store_numbers_are_read(tmp_path: Path) -> None:
    """Numbers as raw bytes and as a list of their own type, with negative ones among them, are the same constants."""
    path = tmp_path / "lists.onnx"
    known = onnx.load_from_string(small())
    lists = [
        helper.make_tensor("whole", TensorProto.INT64, [3], [-5, 0, 2**40]),
        helper.make_tensor("real", TensorProto.FLOAT, [1, 2], [-0.5, 1e-3]),
    ]
    known.graph.initializer.extend(lists)
    path.write_bytes(known.SerializeToString())
    constants = read_onnx(path).constants
    for tensor in lists:
        assert not tensor.HasField("raw_data")
        np.testing.assert_array_equal(constants[tensor.name], numpy_helper.to_array(tensor))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Of a file that is not there the error says which, and what to do."""
    with pytest.raises(WeightsError, match=r"none\.onnx cannot be read .* install the package again"):
        read_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"no network at all", small()[:-1], small()[:40]])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, foreign and cut-off files are refused."""
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="no whole ONNX file"):
        read_onnx(path)


def test_an_endless_number_is_refused_at_once(tmp_path: Path) -> None:
    """A number of a megabyte is not added up byte by byte, which would take minutes."""
    path = tmp_path / "endless.onnx"
    path.write_bytes(b"\x08" + b"\xff" * 2**20 + b"\x01")
    with pytest.raises(WeightsError, match="more than ten bytes"):
        read_onnx(path)


def test_of_a_real_file_every_cut_is_noticed(tmp_path: Path) -> None:
    """The probe's file cut anywhere is refused."""
    path, data = tmp_path / "cut.onnx", PROBE.read_bytes()
    for length in np.linspace(1, len(data) - 1, 12).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError):
            read_onnx(path)


@given(st.lists(st.tuples(st.integers(0, len(small()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """A file with some bytes changed is read, or refused with WeightsError: no other error comes out."""
    data = bytearray(small())
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(data)
    with suppress(WeightsError):
        read_onnx(path)
