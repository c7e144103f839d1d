"""What happens to a published photo before a stranger compares its face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from apf.attack.outline import FACE_SIDE
from apf.faces.alignment import UInt8
from apf.research.evaluate.conditions import JPEG_QUALITY
from apf.research.train.augment import recoded

#: From and to the upright pixels (H, W, 3) uint8 RGB of a photo, of any size.
Change = Callable[[UInt8], UInt8]
#: The same, of a photo with a face of this side in pixels.
Purifier = Callable[[UInt8, float], UInt8]

#: Spread of the landmarks as another detector finds them, in sides of the face.
JITTER = 0.02
#: Quality of an attacker's JPEG, and the side of the face that is brought down and up again.
PURIFYING_QUALITY, SMALL_PX = 40, 80


def as_it_is(pixels: UInt8) -> UInt8:
    """Return the photo itself."""
    return pixels


@dataclass(frozen=True)
class Condition:
    """The road from the published photo to the aligned face."""

    #: What a platform does to the photo; it stays as small as it was made.
    sent: Change = as_it_is
    #: What an attacker does to it, once the face was found.
    purified: Purifier | None = None
    #: How far the landmarks stray, in sides of the face.
    jitter: float = 0.0
    #: The face is found by another detector than ours.
    elsewhere: bool = False


def halved(pixels: UInt8) -> UInt8:
    """At half the width and height, by area averaging."""
    size = max(1, pixels.shape[1] // 2), max(1, pixels.shape[0] // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def through_jpeg(pixels: UInt8) -> UInt8:
    """Through JPEG at quality 75."""
    return recoded(pixels, JPEG_QUALITY)


def both(pixels: UInt8) -> UInt8:
    """At half the size, and through JPEG there."""
    return through_jpeg(halved(pixels))


def blurred(pixels: UInt8, side: float) -> UInt8:
    """Return a Gaussian whose sigma is one pixel of the aligned crop."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), side / FACE_SIDE), np.uint8)


def small_and_back(pixels: UInt8, side: float) -> UInt8:
    """Return the face at 80 pixels, by area averaging, and back, bicubic; one that is smaller stays."""
    if side <= SMALL_PX:
        return pixels
    height, width = pixels.shape[:2]
    size = max(1, round(width * SMALL_PX / side)), max(1, round(height * SMALL_PX / side))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def median(pixels: UInt8, side: float) -> UInt8:
    """Return a median filter of three by three pixels of the aligned crop."""
    return np.asarray(cv2.medianBlur(pixels, 2 * max(1, round(1.5 * side / FACE_SIDE - 0.5)) + 1), np.uint8)


#: By the name of the column: what platforms do, other places of the face, attackers that purify.
CONDITIONS: dict[str, Condition] = {
    "published": Condition(),
    "jpeg75": Condition(through_jpeg),
    "half": Condition(halved),
    "both": Condition(both),
    "jittered": Condition(jitter=JITTER),
    "other detector": Condition(elsewhere=True),
    "jpeg40": Condition(purified=lambda pixels, _: recoded(pixels, PURIFYING_QUALITY)),
    "blur": Condition(purified=blurred),
    "80 px": Condition(purified=small_and_back),
    "median": Condition(purified=median),
}

#: The same, for people.
TITLES = {
    "published": "As it is published",
    "jpeg75": f"After JPEG {JPEG_QUALITY}",
    "half": "After half size",
    "both": f"After half size and JPEG {JPEG_QUALITY}",
    "jittered": f"Landmarks {100 * JITTER:g} % of the face aside",
    "other detector": "Found by another detector",
    "jpeg40": f"Purified by JPEG {PURIFYING_QUALITY}",
    "blur": "Purified by a Gaussian blur, sigma one pixel of the aligned crop",
    "80 px": f"Purified by the way to a face of {SMALL_PX} px and back",
    "median": "Purified by a median filter of three pixels of the aligned crop",
}
