"""Operations of a network joined to ones that touch memory less often; the network stays the same function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from apf.runtime.numpy_net.onnx_file import Array, Graph, Node


def fused(graph: Graph) -> list[Node]:
    """Return the graph's operations, with each Relu in its Conv, and MobileNetV2's blocks in one piece."""
    uses = Counter(name for node in graph.nodes for name in node.inputs) + Counter(graph.outputs)
    return _blocks(_rectified(graph.nodes, uses), uses, graph.constants)


def _rectified(nodes: Sequence[Node], uses: Counter[str]) -> list[Node]:
    joined: list[Node] = []
    for node in nodes:
        before = joined[-1] if joined else None
        if before and node.kind == "Relu" and before.kind == "Conv" and _leads_only_to(before, node, uses):
            joined[-1] = replace(before, outputs=node.outputs, numbers={**before.numbers, "relu": [1]})
        else:
            joined.append(node)
    return joined


def _blocks(nodes: Sequence[Node], uses: Counter[str], constants: dict[str, Array]) -> list[Node]:
    joined: list[Node] = []
    for node in nodes:
        joined.append(node)
        three = tuple(joined[-3:])
        if len(three) == 3 and _is_block(three, uses, constants):
            joined[-3:] = [Node("InvertedResidual", three[0].inputs[:1], node.outputs, {}, three)]
    return joined


def _is_block(three: Sequence[Node], uses: Counter[str], constants: dict[str, Array]) -> bool:
    if any(node.kind != "Conv" for node in three):
        return False
    expand, each, project = (constants[node.inputs[1]].shape for node in three)
    return (
        expand[2:] == project[2:] == (1, 1)
        and all(_is_plain(node) for node in (three[0], three[2]))
        and each[1] == 1
        and each[0] == expand[0]
        and _leads_only_to(three[0], three[1], uses)
        and _leads_only_to(three[1], three[2], uses)
    )


def _is_plain(node: Node) -> bool:
    """Return whether each output belongs to one input place."""
    return set(node.numbers.get("strides", [1])) == {1} and set(node.numbers.get("pads", [0])) == {0}


def _leads_only_to(node: Node, following: Node, uses: Counter[str]) -> bool:
    return following.inputs[0] == node.outputs[0] and uses[node.outputs[0]] == 1
