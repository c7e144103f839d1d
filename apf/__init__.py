"""APF: small bounded perturbations that keep face recognisers from matching a photo to its person.

The names below load on first use, so that `apf.recipe` and `apf.errors` can be had without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apf.filter import Filter
    from apf.filters import load_filter
    from apf.pipeline import protect_photo
    from apf.published import ProtectedPhoto

__all__ = ["Filter", "ProtectedPhoto", "load_filter", "protect_photo"]

_HOME = {
    "Filter": "apf.filter",
    "ProtectedPhoto": "apf.published",
    "load_filter": "apf.filters",
    "protect_photo": "apf.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'apf' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
