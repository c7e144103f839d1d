"""Non-maximum suppression by NumPy is torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from apf.detection.nms import nms


@given(st.integers(0, 60), st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 2**32 - 1))
def test_keeps_what_torchvision_keeps(count: int, iou: float, seed: int) -> None:
    """Of random boxes on a coarse grid, the same ones are kept in the same order.

    Many have equal scores, some are equal or empty, and many have exactly the limit's part in common.
    """
    random = np.random.default_rng(seed)
    corners = random.integers(0, 12, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(0, 8, (count, 2))], 1).astype(np.float64)
    scores = random.integers(0, 5, count) / 4
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    assert nms(boxes, scores, iou).tolist() == expected.tolist()


@pytest.mark.parametrize("iou", [0.3, 0.45])
def test_keeps_what_torchvision_keeps_of_many(iou: float) -> None:
    """The same of a thousand float32 boxes, as a detector gives them."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 300, (1000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 60, (1000, 2))], 1).astype(np.float32)
    scores = random.random(1000, np.float32)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    assert nms(boxes, scores, iou).tolist() == expected.tolist()
