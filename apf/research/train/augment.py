"""What happens to a photo between us and a recogniser: other alignment, other light, noise, JPEG, resizing."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Generator = torch.Generator
#: ITU-R BT.601, as Pillow converts to grey.
LUMA = (0.299, 0.587, 0.114)


def normal(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    """Return normal numbers drawn on the CPU, so that a seed means the same on every device."""
    return torch.randn(shape, generator=generator).to(like)


def uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def affine(faces: Tensor, std: float, generator: Generator) -> Tensor:
    """Each face under its own random affine map: the identity plus normal noise (shifts in half widths)."""
    theta = torch.eye(2, 3).to(faces) + std * normal((len(faces), 2, 3), generator, faces)
    with torch.autocast(faces.device.type, enabled=False):  # places need all of float32
        grid = F.affine_grid(theta, list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, mode="bilinear", padding_mode="border", align_corners=False)


def light(faces: Tensor, std: float, generator: Generator) -> Tensor:
    """Each face with its own contrast and brightness."""
    gain = 1 + std * normal((len(faces), 1, 1, 1), generator, faces)
    return ((faces - 0.5) * gain + 0.5 + std / 2 * normal((len(faces), 3, 1, 1), generator, faces)).clamp(0, 1)


def luma(faces: Tensor) -> Tensor:
    """Return the faces without colour: luma (ITU-R BT.601) in all three channels."""
    return (faces * faces.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def flip(faces: Tensor, generator: Generator) -> Tensor:
    """Half of the faces, mirrored."""
    mirrored = (torch.rand(len(faces), generator=generator) < 0.5).to(faces.device)
    return torch.where(mirrored[:, None, None, None], faces.flip(3), faces)


def jpeg(faces: Tensor, quality: int) -> Tensor:
    """Through JPEG and back. The gradient passes as if nothing had happened (straight-through)."""
    pixels = (faces.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    coded = torch.from_numpy(np.stack([recoded(picture, quality) for picture in pixels]))
    return faces + (coded.permute(0, 3, 1, 2).to(faces) / 255 - faces).detach()


def recoded(picture: np.ndarray, quality: int) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 RGB through JPEG of this quality, with Pillow's default 4:2:0 chroma."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resize(faces: Tensor, scale: float) -> Tensor:
    """Down by `scale` and back up, as platforms do."""
    return enlarged(smaller(faces, scale), faces.shape[-1])


def smaller(faces: Tensor, scale: float) -> Tensor:
    """Down to `scale` times the size."""
    return F.interpolate(faces, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False)


def enlarged(faces: Tensor, side: int) -> Tensor:
    """Up to `side` pixels in both directions."""
    return F.interpolate(faces, size=(side, side), mode="bilinear", align_corners=False)
