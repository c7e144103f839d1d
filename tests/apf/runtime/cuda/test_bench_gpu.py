"""The GPU's benchmark: what it says without one, and that its parts measure, run on the CPU."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.benchmarks import bench_gpu, record


def jpegs(count: int) -> list[bytes]:
    found = []
    for index in range(count):
        file = io.BytesIO()
        Image.new("RGB", (96, 64), (40 * index, 90, 120)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says why, and nothing is measured; `make bench` goes on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench_gpu, "measured", lambda *_, **__: pytest.fail("measured"))
    assert bench_gpu.main([]) == 0
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.rotating("evaluation")
def test_every_part_measures(group_photo: bytes) -> None:
    """Faces, tiles, JPEGs and whole photos a second come out, and both precisions agree with themselves."""
    stages = bench_gpu.stages("cpu", 0, sizes=(1,))
    assert [(row["precision"], row["graphs"]) for row in stages] == [
        ("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True),
    ]  # fmt: skip
    assert all(row["faces_per_s"] > 0 and 0 < row["gradient_percent"] < 100 for row in stages)
    assert all(row["tiles_per_s"] > 0 for row in bench_gpu.tiles("cpu", 0, sizes=(1,)))
    threads, nvjpeg = bench_gpu.decoding("cpu", 2, jpegs(3), 0)
    assert threads["photos_per_s"] > 0 and nvjpeg["photos_per_s"] is None and "CUDA" in nvjpeg["note"]
    assert all(row["photos_per_s"] > 0 and row["faces"] == 0 for row in bench_gpu.end_to_end("cpu", 2, jpegs(3)))
    exact = [row for row in bench_gpu.agreement("cpu", [group_photo]) if row["precision"] == "float32"]
    assert [row["faces"] for row in exact] == [1, 6, 1, 6] and all(row["mean_levels"] == 0 for row in exact)


def test_figures_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for each part, then one line of JSON, which the history has, too."""
    monkeypatch.setattr(record, "HISTORY", tmp_path)
    monkeypatch.setattr(bench_gpu, "measured", lambda *_, **__: {"tiles": [{"tiles": 1, "tiles_per_s": 2.0}]})
    assert bench_gpu.main(["--device", "cpu", "--short"]) == 0
    assert "| tiles | tiles_per_s |" in capsys.readouterr().out
    assert '"tiles_per_s": 2.0' in (tmp_path / "gpu.jsonl").read_text()
