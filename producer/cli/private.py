"""`apf private`: hands over to the device's own commands, which need NumPy and no queue (`apf.private.cli`)."""

from __future__ import annotations

from importlib import import_module

import typer

from producer.cli.console import fail


def private(context: typer.Context) -> None:
    """Private mode on this device: gradients of photos for a queue, and its answers put on them."""
    try:
        # By name: the producer itself loads no image library.
        cli = import_module("apf.private.cli")
    except ImportError as error:
        fail(f"private mode needs NumPy, Pillow and safetensors here ({error}): pip install 'apf-protect[private]'")
    raise typer.Exit(cli.main(context.args))
