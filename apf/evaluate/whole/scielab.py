"""S-CIELAB (Zhang and Wandell 1996): colours as an eye blurs them before it compares them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2xyz, xyz2lab

from apf.faces import Float32, UInt8

Float = NDArray[np.floating]

#: Pixels a degree of sight: a screen of 96 dots an inch from 91 cm, or one of 220 from 40 cm.
PIXELS_A_DEGREE = 60
#: XYZ to luminance, red against green, blue against yellow.
OPPONENT = np.array([[0.279, 0.72, -0.107], [-0.449, 0.29, -0.077], [0.086, -0.59, 0.501]])
#: What each of these is blurred by: weights and spreads in degrees, of exp(-(r / spread)^2).
BLURS = (
    ((0.921, 0.0283), (0.105, 0.133), (-0.108, 4.336)),
    ((0.531, 0.0392), (0.330, 0.494)),
    ((0.488, 0.0536), (0.371, 0.386)),
)
#: Sigma, in pixels, beyond which a blur is done on a smaller picture.
LARGE = 12.0


def difference(clean: UInt8, changed: UInt8) -> Float:
    """CIEDE2000 of each pixel, (H, W), of two pictures (H, W, 3) uint8 sRGB."""
    found: Float = deltaE_ciede2000(xyz2lab(rgb2xyz(clean)), xyz2lab(rgb2xyz(changed)))  # type: ignore[no-untyped-call]
    return found


def seen_difference(clean: UInt8, changed: UInt8, pixels_a_degree: float = PIXELS_A_DEGREE) -> Float:
    """The same, after both were blurred as an eye's contrast sensitivity blurs them."""
    labs = [xyz2lab(blurred(rgb2xyz(one), pixels_a_degree)) for one in (clean, changed)]
    found: Float = deltaE_ciede2000(*labs)  # type: ignore[no-untyped-call]
    return found


def blurred(xyz: Float, pixels_a_degree: float) -> Float:
    """XYZ (H, W, 3) as an eye sees it, not below 0."""
    channels = np.moveaxis(xyz @ OPPONENT.T, 2, 0).astype(np.float32)
    found = []
    for channel, kernels in zip(channels, BLURS, strict=True):
        total = sum(weight for weight, _ in kernels)
        parts = (weight / total * _gaussian(channel, pixels_a_degree * spread / 2**0.5) for weight, spread in kernels)
        found.append(np.sum(list(parts), 0))
    xyz_seen: Float = np.maximum(np.stack(found, -1) @ np.linalg.inv(OPPONENT).T, 0)
    return xyz_seen


def _gaussian(image: Float32, sigma: float) -> Float32:
    factor = max(1, int(sigma / LARGE))
    if factor == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    height, width = image.shape
    size = max(1, width // factor), max(1, height // factor)
    small = cv2.GaussianBlur(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        (0, 0),
        sigmaX=sigma * size[0] / width,
        sigmaY=sigma * size[1] / height,
        borderType=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
