"""`apf report` as its users call it, on photos that were really protected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests.command import APF, apf, apf_json
from tests.workers.report.albums import records


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Source, destination and batch of an astronaut (turned by EXIF), a cup of coffee and a broken photo."""
    folder = tmp_path_factory.mktemp("reported")
    source, out = folder / "in", folder / "out"
    source.mkdir()
    astronaut = Image.fromarray(skimage.data.astronaut())
    exif = Image.Exif()
    exif[0x0112] = 6
    astronaut.rotate(90, expand=True).save(source / "astronaut.png", exif=exif)
    Image.fromarray(skimage.data.coffee()).save(source / "coffee.jpg")
    (source / "broken.jpg").write_bytes((source / "coffee.jpg").read_bytes()[:9000])
    return source, out, apf_json("protect", source, out, code=1)["batch"]


def report(*args: str | Path) -> Any:
    return apf_json("report", *args)


def test_a_real_photos_figures_are_right(protected: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Face, PSNR and similarity of the astronaut, against the files' own pixels; the others beside it."""
    _, out, batch = protected
    written = report(out, "-o", tmp_path / "page.html")
    assert (written["batch"], written["photos"], written["measured"], written["folder"]) == (batch, 3, 1, None)
    assert written["bytes"] == Path(written["page"]).stat().st_size
    found = records(tmp_path / "page.html")
    assert {name: record["outcome"] for name, record in found.items()} == {
        "astronaut.png": "protected",
        "broken.jpg": "failed",
        "coffee.jpg": "no_face",
    }
    record = found["astronaut.png"]
    (face,) = record["faces"]
    left, top, width, height = face["box"]
    assert 0.33 < left + width / 2 < 0.5 and 0.15 < top + height / 2 < 0.3  # her face, upright
    assert record["similarity"] < 0.6
    before = skimage.data.astronaut().astype(int)
    with Image.open(out / "astronaut.png") as photo:
        moved = np.asarray(photo.convert("RGB")).astype(int) - before
    changed = np.abs(moved).max(axis=2) > 0
    # Inside the crop's square, whose corners beyond the face's outline did not move: the figure is a little above.
    assert record["psnr"] == pytest.approx(10 * np.log10(255**2 / (moved[changed] ** 2).mean()), abs=1.5)


def test_without_json_it_prints_the_page_alone_on_stdout(protected: tuple[Path, Path, str], tmp_path: Path) -> None:
    """For a script: stdout is the path; people read the rest, and the warning about originals, on stderr."""
    _, out, batch = protected
    ended = apf("report", out, batch, "-o", tmp_path / "folder", "--with-originals")
    page = tmp_path / "folder" / "index.html"
    assert ended.stdout == f"{page}\n"
    assert "unprotected photos" in ended.stderr and "3 photos, 1 measured" in ended.stderr
    assert "difference" in records(page)["astronaut.png"]["images"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("out/page.html", "would be published"),
        ("in/page.html", "would be published"),
        ("diary.html", "no report of apf's"),
    ],
)
def test_it_writes_nowhere_where_it_should_not(where: str, message: str, protected: tuple[Path, Path, str]) -> None:
    """Not among the photos, published or not, and not over a file of somebody's."""
    source, out, _ = protected
    (source.parent / "diary.html").write_text("dear diary")
    ended = apf("report", out, "--measure", "0", "-o", source.parent / where, code=2)
    assert message in ended.stderr
    assert (source.parent / "diary.html").read_text() == "dear diary"
    assert not list(out.glob("*.html")) and not list(source.glob("*.html"))


def test_an_unknown_batch_and_an_empty_destination_are_refused(
    protected: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """Each with what to do about it."""
    _, out, _ = protected
    assert "there is no batch 'nonsense'" in apf("report", out, "nonsense", code=2).stderr
    assert "no batch was ever run" in apf("report", tmp_path, code=2).stderr


def test_without_the_workers_libraries_it_says_what_to_install(protected: tuple[Path, Path, str]) -> None:
    """On a machine with the producer alone the command is there, loads nothing heavy, and names its cure."""
    _, out, _ = protected
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'onnx' else real(name, *a)\n"
        "from producer.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code)\n"
        "assert not {'torch', 'numpy', 'PIL', 'cv2'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "report", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("2\n", 0), ended.stderr
    assert "(no onnx)" in ended.stderr and 'pip install "apf-protect[cpu]"' in ended.stderr


def test_it_opens_the_page_only_when_asked(protected: tuple[Path, Path, str], tmp_path: Path) -> None:
    """--open hands the page's URL to the user's browser; without it none is started."""
    _, out, _ = protected
    log = tmp_path / "opened"
    for flags in ([], ["--open"]):
        environment = {**os.environ, "BROWSER": f"sh -c 'echo \"$0\" >> {log}' %s"}
        command = [*APF, "report", str(out), "--measure", "0", "-o", str(tmp_path / "p.html"), *flags, "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert json.loads(ended.stdout)["measured"] == 0
    assert log.read_text() == f"{(tmp_path / 'p.html').as_uri()}\n"
