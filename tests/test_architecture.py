"""The drawing of the layers, and the recipes that name packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_drawing_is_that_of_the_contracts() -> None:
    """docs/architecture.md is what its command makes of today's contracts and docstrings."""
    code = "import sys; sys.path.insert(0, 'infra'); import architecture; print(architecture.page(), end='')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "architecture.md").read_text() == made, "run: python infra/architecture.py"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:apf|workers|producer|tests|infra)/[\w/.]+)`", CONTRIBUTING)))
)
def test_every_place_that_contributing_names_is_there(path: str) -> None:
    """CONTRIBUTING sends nobody to a file or package that has moved."""
    assert (ROOT / path).exists()
