"""S-CIELAB (Zhang and Wandell 1996): colours as an eye blurs them before it compares them.

In opponent channels of their own, grey has colours, and blurring them apart gives its edges coloured fringes (Johnson
and Fairchild 2003); so here are channels and filters that came later.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2xyz, xyz2lab

from apf.faces.alignment import Float32, UInt8

Float = NDArray[np.floating]

#: Pixels a degree of sight: a screen of 96 dots an inch from 91 cm, or one of 220 from 40 cm.
PIXELS_A_DEGREE = 60
#: Of D65, in XYZ.
WHITE = np.array([0.95047, 1.0, 1.08883])
#: XYZ by its white to lightness, red against green, yellow against blue: linear, and grey has no colour in it.
OPPONENT = np.array([[0.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
#: What each of these is blurred by: weights and sigmas in degrees (FLIP's, Andersson et al. 2020).
BLURS = (((1.0, 0.01543),), ((1.0, 0.01639),), ((0.762, 0.04502), (0.238, 0.03559)))


def difference(clean: UInt8, changed: UInt8) -> Float:
    """CIEDE2000 of each pixel, (H, W), of two pictures (H, W, 3) uint8 sRGB."""
    found: Float = deltaE_ciede2000(xyz2lab(rgb2xyz(clean)), xyz2lab(rgb2xyz(changed)))  # type: ignore[no-untyped-call]
    return found


def seen_difference(clean: UInt8, changed: UInt8, pixels_a_degree: float = PIXELS_A_DEGREE) -> Float:
    """Return the same, after both were blurred as an eye's contrast sensitivity blurs them."""
    labs = [xyz2lab(blurred(rgb2xyz(one), pixels_a_degree)) for one in (clean, changed)]
    found: Float = deltaE_ciede2000(*labs)  # type: ignore[no-untyped-call]
    return found


def blurred(xyz: Float, pixels_a_degree: float) -> Float:
    """XYZ (H, W, 3) as an eye sees it, not below 0."""
    channels = np.moveaxis(xyz / WHITE @ OPPONENT.T, 2, 0).astype(np.float32)
    found = [
        sum(weight * _gaussian(channel, sigma * pixels_a_degree) for weight, sigma in kernels)
        for channel, kernels in zip(channels, BLURS, strict=True)
    ]
    seen: Float = np.maximum(np.stack(found, -1) @ np.linalg.inv(OPPONENT).T, 0) * WHITE
    return seen


def _gaussian(image: Float32, sigma: float) -> Float32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
