"""The GPU's benchmark: what it says without one, and that its parts measure, run on the CPU."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.benchmarks import bench_gpu, gpu_modules, gpu_steps, record


def jpegs(count: int) -> list[bytes]:
    found = []
    for index in range(count):
        file = io.BytesIO()
        Image.new("RGB", (96, 64), (40 * index, 90, 120)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


@pytest.fixture(autouse=True)
def _just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's time runs from its import, which here was long ago."""
    monkeypatch.setattr(bench_gpu, "STARTED", time.perf_counter())


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says why, and nothing is measured; `make bench` goes on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench_gpu, "tables", lambda *_, **__: pytest.fail("measured"))
    assert bench_gpu.main([]) == 0
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.rotating("evaluation")
def test_every_part_measures(group_photo: bytes) -> None:
    """Faces, tiles and JPEGs a second come out, and both precisions agree with themselves."""
    stages = list(gpu_modules.stages("cpu", 0, sizes=(1,)))
    assert [(row["precision"], row["graphs"]) for row in stages] == [
        ("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True),
    ]  # fmt: skip
    assert all(row["faces_per_s"] > 0 and 0 < row["gradient_percent"] < 100 for row in stages)
    assert all(row["tiles_per_s"] > 0 for row in gpu_modules.tiles("cpu", 0, sizes=(1,)))
    threads, nvjpeg = bench_gpu.decoding("cpu", 2, jpegs(3), 0)
    assert threads["photos_per_s"] > 0 and nvjpeg["photos_per_s"] is None and "CUDA" in nvjpeg["note"]
    exact = [row for row in gpu_modules.agreement("cpu", [group_photo]) if row["precision"] == "float32"]
    assert [row["faces"] for row in exact] == [1, 6, 1, 6] and all(row["mean_levels"] == 0 for row in exact)


@pytest.mark.rotating("evaluation")
def test_the_steps_are_measured() -> None:
    """Faces a second for each recipe, the shares of a step's parts, what the host takes, and equality with a CPU."""
    recipes = ["standard", "fast", "standard, jury"]
    rows = list(gpu_steps.faces_a_second("cpu", 0, short=True))
    assert [row["recipe"] for row in rows] == recipes and all(row["faces_per_s"] > 0 for row in rows)
    parts = list(gpu_steps.parts("cpu", short=True))
    shares = [sum(share for name, share in row.items() if name.endswith("_percent")) for row in parts]
    assert len(parts) == 2 and shares == [pytest.approx(100)] * 2
    (host,) = gpu_steps.host(short=True)
    assert all(host[f"{part}_ms"] > 0 for part in ("start", "chances", "pack", "paste"))
    equal = list(gpu_steps.equality("cpu", short=True))
    assert [row["recipe"] for row in equal] == recipes and all(row["mean_levels"] < 1 for row in equal)


@pytest.mark.rotating("evaluation")
def test_photos_go_from_file_to_file() -> None:
    """In both recipes, faces or none; on a GPU its idle share is told besides."""
    rows = list(bench_gpu.end_to_end("cpu", 2, jpegs(3), short=True))
    assert [row["recipe"] for row in rows] == ["standard", "fast"]
    assert all(row["photos_per_s"] > 0 and row["faces"] == 0 for row in rows)


def test_figures_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for each part, then one line of JSON, which the history has, too."""
    monkeypatch.setattr(record, "HISTORY", tmp_path)
    monkeypatch.setattr(bench_gpu, "tables", lambda *_, **__: {"tiles": lambda: [{"tiles": 1, "tiles_per_s": 2.0}]})
    assert bench_gpu.main(["--device", "cpu", "--short"]) == 0
    assert "| tiles | tiles_per_s |" in capsys.readouterr().out
    assert '"tiles_per_s": 2.0' in (tmp_path / "gpu.jsonl").read_text()


def test_a_table_that_fails_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it got done is printed, with the error; the tables after it are measured, and the exit status is 1."""

    def failing() -> Iterator[dict[str, float]]:
        yield {"faces_per_s": 3.0}
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(record, "HISTORY", tmp_path)
    tables = {"steps": failing, "tiles": lambda: [{"tiles_per_s": 2.0}]}
    monkeypatch.setattr(bench_gpu, "tables", lambda *_, **__: tables)
    assert bench_gpu.main(["--device", "cpu", "--short"]) == 1
    out = capsys.readouterr().out
    assert "| 3.00 |" in out and "an illegal memory access" in out and "| 2.00 |" in out
    assert '"failed": [{"table": "steps"}]' in (tmp_path / "gpu.jsonl").read_text()


def test_time_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table stops at the row after which no time is left, those after it do not begin; both say so."""
    monkeypatch.setattr(record, "HISTORY", tmp_path)
    assert bench_gpu.until(0.0, 0.0, lambda: [{"a": 1}, {"a": 2}]) == ([{"a": 1}], "no time was left after 1 rows")
    monkeypatch.setattr(bench_gpu, "tables", lambda *_, **__: {"steps": lambda: pytest.fail("measured")})
    assert bench_gpu.main(["--device", "cpu", "--within-s", "0"]) == 1
    assert "no time was left for it" in capsys.readouterr().out
