"""The package's extras: which is missing here, for what, and how it is installed. Nothing is imported for it."""

from __future__ import annotations

from importlib.util import find_spec

from apf.errors import MissingExtra

_CPU = ("cv2", "numpy", "onnx", "onnxruntime", "PIL", "pillow_heif", "safetensors", "scipy", "simplejpeg")
_GPU = (*_CPU, "insightface", "onnx2torch", "torch", "torchvision")
#: The modules that each brings.
MODULES: dict[str, tuple[str, ...]] = {
    "cpu": _CPU,
    "gpu": _GPU,
    "private": ("numpy", "onnx", "onnxruntime", "PIL", "safetensors"),
    "research": (*_GPU, "matplotlib", "skimage", "tqdm"),
    "otel": ("opentelemetry",),
}
#: What `apf doctor` says of each.
PURPOSES = {
    "cpu": "protecting photos, and `apf report`",
    "gpu": "NVIDIA GPUs, and the detectors of InsightFace packs",
    "private": "`apf private`",
    "otel": "traces (APF_OTEL)",
}


def extra_for(device: str) -> str:
    """Return the extra by which photos are protected on a device; one that is looked for is the CPU without torch."""
    return "cpu" if device in ("auto", "cpu") else "gpu"


def lacking(extra: str) -> str:
    """Return which modules of an extra are missing, and how it is installed; empty where it is all here."""
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    if not missing:
        return ""
    return f'the extra {extra} is not installed here (no {", ".join(missing)}): pip install "apf-protect[{extra}]"'


def need(extra: str, what: str) -> None:
    """Raise MissingExtra where `what` cannot be done here."""
    if reason := lacking(extra):
        raise MissingExtra(f"{what} cannot be had: {reason}")
