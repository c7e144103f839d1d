"""The rotation leaves nothing out for good, and nothing at all where a test is run by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rotation import TENTHS, chosen

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("size", [1, 3, 10, 47])
def test_each_test_of_a_matrix_runs_within_ten_days_and_one_of_it_every_day(size: int) -> None:
    """A long matrix costs a tenth, and tests that are of none always run."""
    names = ["m"] * size + [None, "other"]
    days = [chosen(names, tenth) for tenth in range(TENTHS)]
    assert all(any(day[index] for day in days) for index in range(size))
    assert all(any(day[:size]) and sum(day[:size]) <= size / TENTHS + 1 for day in days)
    assert all(day[size:] == [True, True] for day in days)


MATRIX = """
import pytest

@pytest.mark.rotating
@pytest.mark.parametrize("number", range(20))
def test_one(number):
    pass
"""


@pytest.mark.parametrize(
    ("rotation", "said"),
    [("3", ["2 passed, 18 deselected", "APF_ROTATION=3 runs the same again"]), ("", ["20 passed"]), ("11", ["0 to 9"])],
)
def test_the_tenth_is_told_and_can_be_asked_for(tmp_path: Path, rotation: str, said: list[str]) -> None:
    """The run says what runs it again; without the variable all run; what is no tenth is refused."""
    (tmp_path / "test_matrix.py").write_text(MATRIX)
    (tmp_path / "conftest.py").write_text(
        "from tests import rotation\n"
        "pytest_configure = rotation.register\n"
        "def pytest_report_header():\n    return rotation.header()\n"
        "def pytest_collection_modifyitems(config, items):\n    rotation.rotate(items, config)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "APF_ROTATION": rotation}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov", str(tmp_path)]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert all(words in ran.stdout + ran.stderr for words in said), ran.stdout + ran.stderr


def test_the_soak_runs_every_matrix_whole() -> None:
    """`make soak` chooses no tenth, and no folder of tests is in neither of its two runs."""
    make = shutil.which("make")
    if not make:
        pytest.skip("make is not installed")
    told = {**os.environ, "APF_ROTATION": "3"}
    ran = subprocess.run([make, "-nC", str(ROOT), "soak"], env=told, capture_output=True, text=True, check=True).stdout
    before, at_length, whole = ran.replace("\\\n", "").split("-m pytest ")
    assert "export APF_ROTATION=;" in before and "APF_SOAK=1" in before
    assert at_length.startswith("tests/faults ")
    assert whole.startswith("tests -m rotating --ignore tests/faults ")
