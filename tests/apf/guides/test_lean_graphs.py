"""What guides spare themselves: fewer operations and copies, and the same numbers to the bit."""

from __future__ import annotations

import numpy as np

from apf.faces.alignment import CROP
from apf.guides.gradient_graph import value_and_gradient
from apf.guides.input_spec import InputSpec
from apf.guides.input_transform import Feeding
from tests.apf.guides.networks import Net, network, random

#: As dlib's: a crop of another size, with the face elsewhere in it.
SPEC = InputSpec(
    height=150,
    width=150,
    mean=(120.0,),
    std=(256.0,),
    landmarks_xy=((50.0, 68.0), (100.0, 67.0), (75.0, 96.0), (54.0, 124.0), (96.0, 123.0)),
)


def test_channels_are_fed_one_by_one_as_all_at_once() -> None:
    """The map to a guide's own crop, and its transpose, sum each channel in the order in which they sum all three."""
    feeding, face = Feeding(SPEC), np.random.default_rng(0).random((3, CROP, CROP), np.float32)
    crop = (feeding._forth @ face.reshape(3, -1).T).T.reshape(3, 150, 150)
    wanted = ((crop * np.float32(255) - np.float32(120)) / np.float32(256))[None]
    np.testing.assert_array_equal(feeding.there(face), wanted)
    gradient = np.random.default_rng(1).standard_normal((1, 3, 150, 150)).astype(np.float32)
    scaled = gradient[0] * np.float32(255 / 256)
    back = (feeding._back @ scaled.reshape(3, -1).T).T.reshape(3, CROP, CROP)
    np.testing.assert_array_equal(feeding.back(gradient), back)


def test_the_gradient_of_a_strided_convolution_is_not_copied() -> None:
    """Zeros behind the last value take the place of padding: none are cut off, which is a copy and a change of layout.

    A depthwise convolution of stride 2 with a padding of 1, as mobile networks have them; that the gradient is right is
    for the tests of operations.
    """

    def body(net: Net, x: str) -> str:
        weight, bias = net.const(random(3, 1, 3, 3)), net.const(random(3, seed=1))
        return str(net.add("Conv", x, weight, bias, group=3, strides=[2, 2], pads=[1, 1, 1, 1]))

    graph = value_and_gradient(network(body, 3 * 4 * 4, shape=(3, 8, 8)), (8, 8)).graph
    kinds = [node.op_type for node in graph.node]
    assert "Resize" in kinds and "Slice" not in kinds
