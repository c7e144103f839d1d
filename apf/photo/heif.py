"""HEIC through pillow-heif, where that is installed: a device that protects JPEGs need not carry libheif's 27 MB."""

from __future__ import annotations

from PIL import ImageFile

#: Opens a HEIC; None where pillow-heif is missing.
HEIF_OPENER: type[ImageFile.ImageFile] | None

try:
    import pillow_heif
except ImportError:  # pragma: no cover - the client's own test runs without it, in an environment of its own
    HEIF_OPENER = None
else:
    HEIF_OPENER = pillow_heif.HeifImageFile
    # AVIF is Pillow's own; the HEIF plugin's embedded thumbnails, depth and auxiliary images are never wanted.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
