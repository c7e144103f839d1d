"""Pages that are one file: templates, pictures inside the page, and a policy by the digests of style and script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader

from workers.report.card import legible

#: What every page begins with: its policy, and that it leads nowhere.
HEAD = "head.html"


@cache
def part(package: str, name: str) -> str:
    """Return a file that lies beside a page's module."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


@cache
def templates(package: str) -> Environment:
    """Return the templates that lie in a package, and the head of all; what is put into them is escaped."""

    def load(name: str) -> str:
        return part(__package__ if name == HEAD else package, name)

    made = Environment(autoescape=True, loader=FunctionLoader(load), trim_blocks=True, lstrip_blocks=True)
    made.filters["legible"] = legible
    return made


def embedded(jpeg: bytes) -> str:
    """Return a picture's source inside the page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def digest(text: str) -> str:
    """Return a style's or script's digest, as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
