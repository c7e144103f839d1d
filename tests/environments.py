"""Virtual environments that hold the project's wheel and what one of infra/constraints-*.txt pins, and nothing else.

The packages are links to those that the tests run on: nothing is fetched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


class Environment:
    """One of them, and its commands, run in a folder of their own, without anything on PATH.

    Args:
        wheel: the project's own.
        pins: names of lock files, as `cpu` of infra/constraints-cpu.txt.
    """

    def __init__(self, folder: Path, wheel: Path, *pins: str) -> None:
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        self.python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        packages = Path(sysconfig.get_path("purelib", vars=paths))
        for entry in {entry for name in pins for entry in _entries(ROOT / "infra" / f"constraints-{name}.txt")}:
            (packages / entry.name).symlink_to(entry)
        install = [str(UV), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(self.python)]
        subprocess.run([*install, str(wheel)], check=True)

    def apf(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the `apf` command."""
        return self.run(self.python.with_name("apf"), *arguments, **variables)

    def run(self, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.folder), "PATH": "/nowhere", "LC_ALL": "C.UTF-8", **variables}
        return subprocess.run(
            [str(one) for one in command],
            cwd=self.folder, env=environment, check=False, capture_output=True, text=True, timeout=240,
        )  # fmt: skip


def _entries(lock: Path) -> Iterator[Path]:
    """What the packages of a lock file put into site-packages, as far as they are for this platform."""
    for name in re.findall(r"^([a-z0-9._-]+)==", lock.read_text(), re.MULTILINE):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        yield from (Path(str(found.locate_file(top))) for top in tops)
