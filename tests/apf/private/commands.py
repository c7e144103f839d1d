"""The device's commands as tests run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apf.filters.torch_filter import Filter
from apf.private import cli
from apf.private.files import Gradients
from apf.private.server import perturb


def run(*arguments: object) -> int:
    return cli.main([str(one) for one in arguments])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object that was printed."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def answer(gradients: Path, answers: Path, filter: Filter) -> None:
    """The server's part, file by file, under the same names."""
    for path in (path for path in gradients.rglob("*") if path.is_file()):
        target = answers / path.relative_to(gradients)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(perturb([Gradients.decode(path.read_bytes())], filter)[0].encode())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}
