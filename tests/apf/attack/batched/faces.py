"""Real faces for the steps in batches: the astronaut's at any size, turned, grey, or over the photo's edge."""

from __future__ import annotations

import cv2
import numpy as np

from apf.attack.protect_face import Task
from apf.faces.alignment import alignment
from tests.apf.attack.conftest import LANDMARKS


def face_of(portrait: np.ndarray, height: float, *, angle: float = 0, grey: bool = False, beyond: float = 0) -> Task:
    """The face so many pixels high in a photo twice as large, turned, with this share of its height over the edge."""
    points = np.array(LANDMARKS)
    scale = height / 70  # of its height in the portrait
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    turn, side = np.array([[a, -b], [b, a]]), round(2 * height)
    middle = np.array([side / 2 - beyond * height - (height / 2 if beyond else 0), side / 2])
    shift = middle - turn @ points.mean(0)
    whole = np.hstack([turn, shift[:, None]])
    sigma = max(0.1, 0.5 / scale)
    soft = cv2.GaussianBlur(portrait, (0, 0), sigma) if scale < 1 else portrait
    photo = cv2.warpAffine(soft, whole, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    if grey:
        photo = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return Task(photo, alignment(points @ turn.T + shift), grey=grey, start=None)


#: By name: sizes from 25 to 1000 pixels, and all that changes a face's road.
KINDS: dict[str, dict[str, float | bool]] = {
    "25 px": {"height": 25},
    "60 px, turned": {"height": 60, "angle": 0.6},
    "100 px, at the edge": {"height": 100, "beyond": 0.1},
    "110 px, grey": {"height": 110, "grey": True},
    "300 px": {"height": 300},
    "1000 px, turned": {"height": 1000, "angle": -0.785},
}
