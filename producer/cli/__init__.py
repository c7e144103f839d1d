"""The `apf` command: a module for each group of subcommands, loaded when it is called."""

from __future__ import annotations

from producer.cli.commands import app, main

__all__ = ["app", "main"]
