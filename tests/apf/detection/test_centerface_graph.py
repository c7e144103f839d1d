"""The detector's simplified graph and its tiles: less work, the same faces."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from apf.detection.centerface_graph import simplified
from apf.detection.centerface_maps import TILE, padded, weights_path
from apf.detection.tiling import tiles_of
from apf.runtime.onnx_session import RuntimeNetwork


def test_a_simplified_network_gives_the_same_maps(portrait: np.ndarray) -> None:
    """Of a real face all four maps agree to rounding, with four convolutions less."""
    picture = portrait[:256, 100:356].transpose(2, 0, 1)[None].astype(np.float32)
    plain = RuntimeNetwork.load(weights_path(), any_size=True)
    quick = RuntimeNetwork.load(weights_path(), any_size=True, simplify=simplified)
    expected, found = plain(input_1=picture), quick(input_1=picture)
    assert list(found) == list(expected)
    assert expected["537"].max() > 0.9
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4)
    model = onnx.load(weights_path())
    before = sum(node.op_type == "Conv" for node in model.graph.node)
    simplified(model)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == before - 4


@pytest.mark.parametrize("sides", [(4, 3), (3, 2), (16, 9)])
def test_two_tiles_see_a_large_photo(sides: tuple[int, int]) -> None:
    """A photo of 12 megapixels is two tiles, also upright, with less than 15 % looked at twice or filled up."""
    height = round((12e6 * sides[1] / sides[0]) ** 0.5)
    photo = np.zeros((height, round(height * sides[0] / sides[1]), 3), np.uint8)
    for turned in (photo, photo.transpose(1, 0, 2)):
        _, *fine = tiles_of(np.ascontiguousarray(turned), TILE)
        assert len(fine) == 2
        assert sum(padded(tile.pixels.shape[0]) * padded(tile.pixels.shape[1]) for tile in fine) < 1.15 * 3e6
