"""Run ONNX networks by ONNX Runtime, each call on one thread of its own.

With one thread a call, sums have one order: a photo comes out the same on two cores and on sixty-four.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.utils import Extractor
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from apf.errors import WeightsError

Float32 = NDArray[np.float32]
Simplify = Callable[[onnx.ModelProto], None]

#: Only errors: warnings are about how the files were written.
_ERRORS_ONLY = 3


def quiet_session(
    model: onnx.ModelProto,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnxruntime.InferenceSession:
    """Return a session of one thread on the CPU. Its memory is of the arena that all sessions share."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one plan of memory for each size of picture would be kept for ever
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def shrink_arena() -> None:
    """Give what is free of the networks' arena back to the C library. Other threads may run networks meanwhile."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    with suppress(InvalidArgument):  # the host application's allocator, which keeps nothing
        _NOTHING.run(None, {"given": np.zeros(1, np.float32)}, options)


def _share_an_arena() -> onnxruntime.InferenceSession:
    """Let all networks of the process share one arena; return one that does nothing.

    An arena of each network's own would keep the most that this network ever needed at once, and of a dozen networks
    few run at any time.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(RuntimeError):  # older versions allow one a process: the host application's serves as well
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({}))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("given", "made")]
    graph = helper.make_graph([helper.make_node("Identity", ["given"], ["made"])], "nothing", ends[:1], ends[1:])
    return quiet_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


_NOTHING = _share_an_arena()
shrink_arena()  # an arena's first piece is never given back: by this it is a small one


class RuntimeNetwork:
    """A network that is ready to run. Pictures go in and out as ONNX has them, (1, C, H, W). Threads may share it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._model = model
        self._session = quiet_session(model)
        self._inputs = [(value.name.replace(".", "_"), value.name) for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    @classmethod
    def load(cls, path: Path, *, any_size: bool = False, simplify: Simplify | None = None) -> RuntimeNetwork:
        """Of an ONNX file.

        Args:
            any_size: pictures may have another size than the file says.
            simplify: changes the model before it is prepared.

        Raises:
            WeightsError: it is missing or damaged, or cannot be run here.
        """
        try:
            model = onnx.load(path, load_external_data=False)
            if simplify:
                simplify(model)
            return cls(_prepared(model, any_size=any_size))
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error.strerror}): install the package again") from error
        except Exception as error:  # ONNX Runtime's own have no other base
            raise WeightsError(f"{path} cannot be run here: {error}") from error

    def only(self, output: str) -> RuntimeNetwork:
        """Return the part of the network that one of its outputs needs."""
        needed = _needed(self._model.graph, output)
        given = [value.name for value in self._model.graph.input if value.name in needed]
        return RuntimeNetwork(Extractor(self._model).extract_model(given, [output]))

    def __call__(self, **inputs: Float32) -> dict[str, Float32]:
        """Return the outputs by name; of the inputs, `input.1` is given as `input_1`."""
        given = {name: inputs[argument] for argument, name in self._inputs}
        found: list[Any] = self._session.run(self._outputs, given)
        return dict(zip(self._outputs, found, strict=True))


def _prepared(model: onnx.ModelProto, *, any_size: bool) -> onnx.ModelProto:
    """Return the same network as ONNX Runtime likes it."""
    graph = model.graph
    # Constants among the inputs could be overridden, and so are not folded into anything: half the speed.
    constants = {constant.name: constant for constant in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(given)
    if any_size:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.ClearField("shape")
        del graph.value_info[:]
    nodes = [_as_convolution(node, graph, constants) or node for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _as_convolution(
    node: onnx.NodeProto, graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]
) -> onnx.NodeProto | None:
    """Return a transposed convolution of stride 1 as the convolution that it is, with turned weights: twice as fast."""
    numbers = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "ConvTranspose" or numbers.get("group", 1) != 1:
        return None
    if set(numbers.get("strides", [1])) != {1} or set(numbers.get("dilations", [1])) != {1} or len(node.input) > 2:
        return None
    kernel = numpy_helper.to_array(constants[node.input[1]])  # (in, out, h, w)
    turned = np.ascontiguousarray(kernel.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    name = f"{node.output[0]}_kernel"
    graph.initializer.append(numpy_helper.from_array(turned, name))
    top, left, bottom, right = numbers.get("pads", [0, 0, 0, 0])
    height, width = (side - 1 for side in kernel.shape[2:])
    pads = [height - top, width - left, height - bottom, width - right]
    return helper.make_node("Conv", [node.input[0], name], list(node.output), strides=[1, 1], pads=pads)


def _needed(graph: onnx.GraphProto, output: str) -> set[str]:
    """Return the names of all values that an output is computed from."""
    needed = {output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed
