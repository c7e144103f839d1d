"""The producer: plans a batch, sends its shards and reports their progress. Never loads torch.

The names below load on first use, so that the `apf` command starts without what only they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import apf as apf  # first of all: it turns ONNX Runtime's telemetry off

if TYPE_CHECKING:
    from producer.client import AsyncClient, Client, NotDone, Submitted

__all__ = ["AsyncClient", "Client", "NotDone", "Submitted"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'producer' has no attribute {name!r}")
    return getattr(import_module("producer.client"), name)
