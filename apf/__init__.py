"""APF: small bounded perturbations that keep face recognisers from matching a photo to its person.

The names below load on first use, so that `apf.recipe` and `apf.errors` can be had without torch.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from apf.extras import need

if TYPE_CHECKING:
    from apf.filters.load import load_filter
    from apf.filters.torch_filter import Filter
    from apf.protect.pipeline import protect_photo
    from apf.protect.publish import ProtectedPhoto

# ONNX Runtime's wheels report to their maker: its import writes a device's id below HOME, and a POST follows. Whatever
# of ours loads it imports this package first, and what we start inherits the variable. No setting turns it on again.
if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
    warnings.warn(
        "onnxruntime was imported before apf, and by now reports to its maker: import apf first, or set "
        "ORT_DISABLE_TELEMETRY=1",
        stacklevel=2,
    )
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["Filter", "ProtectedPhoto", "load_filter", "protect_photo"]

_HOME = {
    "Filter": "apf.filters.torch_filter",
    "ProtectedPhoto": "apf.protect.publish",
    "load_filter": "apf.filters.load",
    "protect_photo": "apf.protect.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'apf' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError:
        need("gpu" if name == "Filter" else "cpu", f"apf.{name}")
        raise
