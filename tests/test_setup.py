"""infra/setup.sh, with stand-ins for python, pip and uv that note what they are asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Makes a virtual environment of stand-ins, and notes each call of them.
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p .venv/bin
echo "VIRTUAL_ENV=\\"$PWD/.venv\\"" >.venv/bin/activate
for tool in python uv; do
    printf '#!/bin/sh\\n[ "$1" = -c ] || [ "$3" = --version ] || echo "%s $*" >>calls\\n' "$tool" >".venv/bin/$tool"
    chmod +x ".venv/bin/$tool"
done
"""


class Checkout:
    """A folder with the script and what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "infra").mkdir()
        for path in [*(ROOT / "infra").glob("constraints*.txt"), ROOT / "infra" / "setup.sh", *ROOT.glob("infra/*.py")]:
            shutil.copy(path, folder / "infra")
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.tool("python3", PYTHON)

    def tool(self, name: str, script: str) -> None:
        """Put a program on its PATH."""
        path = self.folder / "tools" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def setup(self, *arguments: str) -> list[str]:
        """The lock files that a run of the script installs from, those of the build aside."""
        calls = self.folder / "calls"
        calls.write_text("")
        environment = {"PATH": f"{self.folder / 'tools'}{os.pathsep}{os.defpath}", "HOME": str(self.folder)}
        command = [str(self.folder / "infra" / "setup.sh"), *arguments]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        installs = [line.split() for line in calls.read_text().splitlines() if line.startswith("uv")]
        assert all("--require-hashes" in line or line[-2:] == ["-e", "."] for line in installs)
        return [
            Path(word).stem.removeprefix("constraints") for line in installs for word in line if "/constraints" in word
        ]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_demo_gets_no_torch_without_a_gpu(checkout: Checkout) -> None:
    """What protects photos on a CPU is installed, and the packages with photos; a second run does nothing."""
    assert checkout.setup("demo") == ["-cpu", "-demo"]
    assert checkout.setup("demo") == []


def test_the_demo_gets_torch_where_a_gpu_is(checkout: Checkout) -> None:
    """An NVIDIA GPU has its own extra; a driver that sees none does not."""
    checkout.tool("nvidia-smi", "#!/bin/sh\necho No devices were found\n")
    assert checkout.setup("demo") == ["-cpu", "-demo"]
    checkout.tool("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    assert checkout.setup("demo") == ["-gpu", "-demo"]


def test_the_tests_get_everything_and_so_has_the_demo(checkout: Checkout) -> None:
    """From the demo's environment to the tests' and back: the second is added once, and serves both."""
    checkout.setup("demo")
    assert checkout.setup() == [""]
    assert checkout.setup() == checkout.setup("demo") == []


def test_changed_pins_are_installed(checkout: Checkout) -> None:
    """A pull that changes what is pinned, or the project's metadata, is followed by one installation."""
    checkout.setup()
    for name in ("infra/constraints.txt", "pyproject.toml", "infra/build_hook.py"):
        path = checkout.folder / name
        path.write_text(path.read_text() + "# changed\n")
        assert checkout.setup() == [""]
    assert checkout.setup() == []


def test_a_task_that_is_not_known_is_refused(checkout: Checkout) -> None:
    """A word that names no task installs nothing."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        checkout.setup("gpu")
    assert b"unknown task 'gpu'" in refused.value.stderr
