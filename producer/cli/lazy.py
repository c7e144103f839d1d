"""Lazy commands: listed by a line of help, and loaded when they are called."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand


class LazyCommand(TyperCommand):
    """Stands for a command, or a group of them, that is a function or a `typer.Typer` of another module."""

    #: As "package.module:name".
    home: ClassVar[str]

    @property
    def help(self) -> str:
        """The first paragraph of the command's own help, read from its source when the list of commands is printed."""
        return listed(self.home)

    @help.setter
    def help(self, _: object) -> None:
        """Nothing else is set: Typer would set this module's own."""

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


def lazily(app: typer.Typer, name: str, home: str, *, settings: dict[Any, Any] | None = None) -> None:
    """Add a command to `app`.

    Args:
        name: what it is called by.
        home: where it is, as "package.module:name": a function, or a `typer.Typer` with commands below this one.
        settings: as Typer's `context_settings`.
    """
    kind = type("LazyCommand", (LazyCommand,), {"home": home})
    app.command(name, cls=kind, context_settings=settings)(_loaded_when_called)


def listed(home: str) -> str:
    """Return what a list of commands says of one, without loading its module: of a group, its Typer's `help`."""
    module, _, name = home.partition(":")
    spec = find_spec(module)
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=found) if found == name:
                text = ast.get_docstring(node) or ""
                return " ".join(text.partition("\n\n")[0].split())
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Call(keywords=keywords)) if found == name:
                return next(str(ast.literal_eval(one.value)) for one in keywords if one.arg == "help")
    raise LookupError(home)


def _loaded_when_called() -> None:
    """Never runs: the context is the real command's."""
