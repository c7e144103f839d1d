"""Lazy commands: listed by a line of help, and loaded when they are called."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand


class LazyCommand(TyperCommand):
    """Stands for a command, or a group of them, that is a function or a `typer.Typer` of another module."""

    #: As "package.module:name".
    home: ClassVar[str]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the real command's context: it takes the arguments, prints its own help, and is what runs."""
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """Return the real command."""
        module, _, name = self.home.partition(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(self.name, context_settings=dict(self.context_settings))(found)
        return typer.main.get_command(alone)


def lazily(app: typer.Typer, name: str, home: str, listed: str, *, settings: dict[Any, Any] | None = None) -> None:
    """Add a command to `app`.

    Args:
        name: what it is called by.
        home: where it is, as "package.module:name": a function, or a `typer.Typer` with commands below this one.
        listed: what the list of commands says of it, the first line of its own help.
        settings: as Typer's `context_settings`.
    """
    kind = type("LazyCommand", (LazyCommand,), {"home": home})
    app.command(name, cls=kind, help=listed, context_settings=settings)(_loaded_when_called)


def _loaded_when_called() -> None:
    """Never runs: the context is the real command's."""
