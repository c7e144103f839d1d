"""Guides: recognisers that attack steps climb on.

    from apf.guides import load_guide, parse_guides

    for name in parse_guides("dlib,probe,/models/other.onnx"):
        guide = load_guide(name)                    # by ONNX Runtime, without torch; load_guide(name, "cuda") by torch
        own = guide.embed(crops)                    # (N, 3, 112, 112) float32 RGB in [0, 1] -> (N, D), unit length
        cosine, gradient = guide.climb(seen, own)   # (N,), (N, 3, 112, 112): d cosine / d seen; step against it

`guide.key` is the SHA-256 that belongs in a recipe's id; `guide.digest` that of the weights' file alone. The functions
load on first use: the producer lists guides without NumPy (`apf.guides.catalogue`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apf.guides.guide import Guide
    from apf.guides.loading import load_guide, parse_guides

__all__ = ["Guide", "load_guide", "parse_guides"]

_HOME = {"Guide": "apf.guides.guide", "load_guide": "apf.guides.loading", "parse_guides": "apf.guides.loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'apf.guides' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
