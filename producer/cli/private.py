"""`apf private`: hands over to the device's own commands, which need NumPy and no queue (`apf.private.cli`)."""

from __future__ import annotations

from importlib import import_module

import typer

from apf.extras import lacking
from producer.cli.console import fail


def private(context: typer.Context) -> None:
    """Private mode on this device: gradients of photos for a queue, and its answers put on them."""
    if reason := lacking("private"):
        fail(reason)
    # By name: the producer itself loads no image library.
    raise typer.Exit(import_module("apf.private.cli").main(context.args))
