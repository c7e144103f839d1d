"""What happens to a protected face before a recogniser sees it: nothing, JPEG, another size, a blur.

And what a face was like before it was protected: sharper, of more contrast.

All conditions take and give (N, 3, 112, 112) uint8 RGB: an 8-bit picture is what leaves us, and what arrives.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apf.research.train.augment import recoded

#: The quality that platforms are taken to re-encode with, with Pillow's default 4:2:0 chroma.
JPEG_QUALITY = 75
#: Sigma of an unsharp mask, in pixels, and how much contrast there is when there is more.
UNSHARP_PX, CONTRAST = 1.5, 1.3

Condition = Callable[[Tensor], Tensor]
Picture = Callable[[Image.Image], Image.Image]


def eight_bits(faces: Tensor) -> Tensor:
    """Faces (N, 3, H, W) in [0, 1], which values outside are cut to, rounded to uint8."""
    return (faces.clamp(0, 1) * 255).round().to(torch.uint8)


def raw(faces: Tensor) -> Tensor:
    """Return the 8-bit faces as they are."""
    return faces


def jpeg(faces: Tensor) -> Tensor:
    """Through JPEG at quality 75."""
    return _each(faces, _through_jpeg)


def half(faces: Tensor) -> Tensor:
    """At half the width and height and back, bilinear with antialiasing (Pillow)."""
    return _each(faces, lambda picture: _at_half_size(picture, lambda small: small))


def jpeg_at_half(faces: Tensor) -> Tensor:
    """Resized to half, through JPEG at quality 75 at that size, and back."""
    return _each(faces, lambda picture: _at_half_size(picture, _through_jpeg))


def blur(faces: Tensor) -> Tensor:
    """Return a 3x3 Gaussian: (1, 2, 1) / 4 in both directions."""
    return _each(faces, lambda picture: Image.fromarray(cv2.GaussianBlur(np.asarray(picture), (3, 3), 0)))


def sharper(faces: Tensor, amount: float) -> Tensor:
    """By an unsharp mask: the face plus so many times what a Gaussian of 1.5 pixels takes away from it."""

    def masked(picture: Image.Image) -> Image.Image:
        pixels = np.asarray(picture, np.float32)
        found = pixels + amount * (pixels - cv2.GaussianBlur(pixels, (0, 0), UNSHARP_PX))
        return Image.fromarray(np.clip(np.rint(found), 0, 255).astype(np.uint8))

    return _each(faces, masked)


def contrasted(faces: Tensor) -> Tensor:
    """With 1.3 times the contrast, about each face's own mean."""
    pixels = faces.float()
    middle = pixels.mean((1, 2, 3), keepdim=True)
    return (middle + CONTRAST * (pixels - middle)).round().clamp(0, 255).to(torch.uint8)


#: By the name of the column.
CONDITIONS: dict[str, Condition] = {
    "raw": raw,
    "jpeg75": jpeg,
    "half": half,
    "both": jpeg_at_half,
    "blur": blur,
}

#: What the face is like before it is protected: LFW's crops are softer than press photos, which flatters.
SOURCES: dict[str, Condition] = {
    "sharp1": lambda faces: sharper(faces, 1.0),
    "sharp2": lambda faces: sharper(faces, 2.0),
    "contrast": contrasted,
}

#: The same, for people.
TITLES = {
    "raw": "As it is",
    "jpeg75": f"After JPEG {JPEG_QUALITY}",
    "half": "After half size and back",
    "both": f"After half size, JPEG {JPEG_QUALITY} there, and back",
    "blur": "After a 3x3 Gaussian blur",
    "sharp1": "Sharpened by an unsharp mask of amount 1, before protection",
    "sharp2": "Sharpened by an unsharp mask of amount 2, before protection",
    "contrast": f"With {CONTRAST} times the contrast, before protection",
}


def _each(faces: Tensor, change: Picture) -> Tensor:
    pictures = faces.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, 3)
    changed = [np.asarray(change(Image.fromarray(picture))) for picture in pictures]
    if not changed:
        return faces
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).contiguous()


def _through_jpeg(picture: Image.Image) -> Image.Image:
    return Image.fromarray(recoded(np.asarray(picture), JPEG_QUALITY))


def _at_half_size(picture: Image.Image, change: Picture) -> Image.Image:
    small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BILINEAR)
    return change(small).resize(picture.size, Image.Resampling.BILINEAR)
