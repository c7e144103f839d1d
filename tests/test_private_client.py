"""The extra `private` in an empty virtual environment: without torch, under 300 MB, and it protects a photo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from apf.attack.bound import Bound
from apf.filters.torch_filter import Filter
from apf.protect.pipeline import protect_photo
from tests.apf.attack.scenes import without_warp
from tests.private_files import answer
from tests.wheels import build_wheel

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
LIMIT_MB = 300
#: Of one core of a laptop; ten times what was measured, for machines that are busy.
LIMIT_S_A_FACE = 10


class Client:
    """The `apf` command of a virtual environment that holds nothing but the extra."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        self._script = folder / "bin" / "apf"

    def __call__(self, *arguments: object) -> dict[str, object]:
        one_core = {"OPENBLAS_NUM_THREADS": "1", "HOME": str(self.packages), "PATH": os.environ["PATH"]}
        command = [str(self._script), "private", *map(str, arguments), "--json"]
        run = subprocess.run(command, env=one_core, check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found: dict[str, object] = json.loads(run.stdout)
        return found

    def has(self, module: str) -> bool:
        return not subprocess.run([self.python, "-c", f"import {module}"], check=False, capture_output=True).returncode


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """As docs/private.md has it installed: pinned wheels, then this project's own."""
    folder = tmp_path_factory.mktemp("client")
    wheel = build_wheel(folder / "wheels")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    pip = [str(UV), "pip", "install", "--quiet", "--no-deps", "--python", str(folder / "venv" / "bin" / "python")]
    pins = subprocess.run(
        [*pip, "--require-hashes", "-r", str(ROOT / "infra" / "constraints-private.txt")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if pins.returncode and os.environ.get("APF_REQUIRE_SERVICES") != "1":
        pytest.skip(f"the package index cannot be reached: {pins.stderr}")
    assert not pins.returncode, pins.stderr
    subprocess.run([*pip, "--offline", str(wheel)], check=True)
    return Client(folder / "venv")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A portrait, without JPEG's losses."""
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    return path


def test_it_is_small_and_has_no_torch(client: Client) -> None:
    """What is installed, bytecode aside, is under 300 MB, and nothing of it is a framework."""
    files = [path for path in client.packages.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"\nthe client takes {megabytes:.1f} MB")
    assert megabytes < LIMIT_MB
    assert client.has("apf.private.cli")
    assert [name for name in ("torch", "cv2", "scipy", "insightface") if client.has(name)] == []


def test_it_protects_a_photo(client: Client, photo: Path, tmp_path: Path) -> None:
    """Gradient on the small client, answer by the server's part, applied on the client: the photo road's own result."""
    started = time.monotonic()
    asked = client("gradient", photo, "-o", tmp_path / "gradients")
    took = time.monotonic() - started
    print(f"\none face, start and detection included: {took:.2f} s")
    assert asked["protected"] == 1 and took < LIMIT_S_A_FACE
    (gradient,) = (tmp_path / "gradients").iterdir()
    standard = Filter.load("standard")
    perturbation = tmp_path / "perturbation.safetensors"
    perturbation.write_bytes(answer(gradient.read_bytes(), "standard"))

    applied = client("apply", photo, perturbation, "-o", tmp_path / "out.png")

    assert applied["protected"] == 1
    road = protect_photo(photo.read_bytes(), without_warp(standard))
    road_path = tmp_path / "road.png"
    road_path.write_bytes(road.data)
    ours, theirs, before = (_pixels(path) for path in (tmp_path / "out.png", road_path, photo))
    changed = theirs != before
    assert changed.any()
    assert np.abs(ours - theirs)[changed].mean() < 1, "the roads differ by over a level, by four bits a value"
    assert np.abs(ours - before).max() <= Bound.of(standard.recipe).most


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)
