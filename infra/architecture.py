"""Draw the layers of the three packages from their import contracts: `python infra/architecture.py`.

Writes docs/architecture.md; a test compares.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
WIDTH, NAME_WIDTH = 110, 16

INTRODUCTION = """\
# Packages and layers

Imports run `producer -> workers -> apf`, never back. Inside each of the three a package imports from the layers below
its own, never from above, and packages of one layer do not import each other. `make lint` holds the code to it (the
contracts in `pyproject.toml`), and `python infra/architecture.py` draws this page from them.
"""


def page() -> str:
    """Return the page's text."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    parts = [INTRODUCTION]
    for contract in contracts:
        for package in contract.get("containers", ()):
            parts.append(f"## {package}\n\n{_summary(package)}\n\n```\n{_drawn(package, contract['layers'])}\n```\n")
    return "\n".join(parts)


def _drawn(package: str, layers: list[str]) -> str:
    """Return the layers, from the top, with a line between them."""
    rule = "+" + "-" * (WIDTH + 2) + "+"
    lines = [rule]
    for layer in layers:
        for name in layer.split(" | "):
            text = f"{name:<{NAME_WIDTH}}{_summary(f'{package}.{name}')}"
            lines += [f"| {line:<{WIDTH}} |" for line in textwrap.wrap(text, WIDTH, subsequent_indent=" " * NAME_WIDTH)]
        lines.append(rule)
    return "\n".join(lines)


def _summary(module: str) -> str:
    """Return the first paragraph of a module's docstring, on one line."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page())
