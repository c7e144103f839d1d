"""The software tells nobody of itself: no file in HOME, no packet but to its queue and its store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.conftest import _redis_binary, _without

ROOT = Path(__file__).parents[1]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "in" / "a.jpg", quality=90)
    return tmp_path / "in"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user whose HOME is empty: where CI is set, ONNX Runtime is silent anyway."""
    left_out = ("APF_", "XDG_", "ORT_", "CI", "GITHUB_", "TF_BUILD")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    # One step on guides is enough for all that is loaded.
    return {**kept, "HOME": str(home), "APF_STEPS": "1", **more}


def python(code: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(home, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", [("protect",), ("private", "alone"), ("private", "gradient")])
def test_commands_leave_nothing_in_home(command: tuple[str, ...], album: Path, home: Path, tmp_path: Path) -> None:
    """A batch and the device's client, without CI, end with HOME as empty as it was."""
    out = [tmp_path / "out"] if command == ("protect",) else ["-o", tmp_path / "out"]
    key = {"APF_DEVICE_KEY": str(tmp_path / "device.key"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    ran = subprocess.run(
        [sys.executable, "-m", "producer", *command, album, *out],
        env=environment(home, **key), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert files(home) == []


@pytest.mark.rotating("imports")
@pytest.mark.parametrize(
    "module",
    [
        "apf.runtime.onnx_session",
        "apf.filters.load",
        "insightface",
        "workers.tasks",
        "apf.research.train.__main__",
        "apf.research.evaluate",
    ],
)
def test_the_library_leaves_nothing_in_home_whatever_the_variable_was(module: str, home: Path) -> None:
    """An import of ONNX Runtime by way of `apf` is silent, also where somebody set the variable to 0."""
    code = f"import apf, {module}, onnxruntime, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    python(code, home, ORT_DISABLE_TELEMETRY="0", MPLCONFIGDIR=os.devnull)
    assert files(home) == []


@pytest.mark.rotating("imports")
@pytest.mark.parametrize(
    "module", ["apf.errors", "producer.cli", "workers.celeryapp", "workers.decoding.decoder_pool", "apf.private.cli"]
)
def test_every_entrance_turns_it_off(module: str, home: Path) -> None:
    """Whatever a process begins with, what it starts inherits the variable."""
    code = f"import {module}, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    python(code, home, APF_BROKER_URL="redis://localhost", APF_ALLOWED_URLS="s3://photos")


def test_who_imports_onnx_runtime_first_is_warned(home: Path) -> None:
    """By then it has written its file, which nothing can undo; with the variable set there is no warning."""
    code = "import onnxruntime, apf"
    assert "import apf first" in python(code, home).stderr
    assert files(home) != [], "else ONNX Runtime has no such telemetry any more, and these tests prove nothing"
    assert python(code, home, ORT_DISABLE_TELEMETRY="1").stderr == ""


@pytest.mark.timeout(400)
def test_no_packet_goes_anywhere_but_to_queue_and_store(album: Path, home: Path, tmp_path: Path) -> None:
    """A worker that lives for a minute, a batch and the device's client, in a network whose every packet is read."""
    if subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode:
        _without("A network namespace", "unshare -n is not allowed here")
    command = ["unshare", "-n", sys.executable, "-m", "tests.lonely", str(tmp_path), str(album), _redis_binary()]
    ran = subprocess.run(command, env=environment(home), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["protected"] == 1, ran.stderr
    assert found["seen_probe"], "a packet to somewhere else would not have been noticed"
    assert found["foreign"] == []
    assert files(home) == []
