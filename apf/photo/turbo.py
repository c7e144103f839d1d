"""JPEGs through simplejpeg, where that is installed: straight into an array, in a third of Pillow's time.

Both are libjpeg-turbo, and give the same pixels. Whatever is not a plain whole JPEG in colour is left to Pillow, whose
word on it counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

try:
    import simplejpeg
except ImportError:  # pragma: no cover - the private client's own test runs without it
    simplejpeg = None

Pixels = npt.NDArray[np.uint8]


def decode_jpeg(image: Image.Image, data: bytes) -> Pixels | None:
    """Return the stored pixels, (H, W, 3) uint8 RGB, of a JPEG that `image` was opened from; None where Pillow
    should.
    """
    if simplejpeg is None or image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # damaged, or of a kind that it does not know
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None
