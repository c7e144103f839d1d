"""The page on private mode is true: its commands run, in a home of their own, and print what it says."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from pathlib import Path

import insightface
import numpy as np
import pytest
import skimage.data
from PIL import Image

from apf.private.files import Gradients, Perturbations, Terms
from apf.recipe import load_recipe
from tests import tutorials
from tests.private_files import answer

PAGE = Path(__file__).parents[1] / "docs" / "private.md"
SIX_FACES = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's, with an album of a group and a portrait."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "album").mkdir()
    (folder / "album" / "friends.jpg").write_bytes(SIX_FACES.read_bytes())
    Image.fromarray(skimage.data.astronaut()).save(folder / "album" / "portrait.jpg", quality=92)
    return folder


@pytest.fixture(scope="module")
def ran(home: Path) -> list[tutorials.Ran]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APF_", "AWS_", "XDG_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**kept, "HOME": str(home), "PATH": path, "LC_ALL": "C.UTF-8", "APF_STEPS": "2"}
    return tutorials.run(tutorials.commands(PAGE), environment=environment, folder=home, timeout_s=280)


def test_every_command_prints_what_the_page_says(ran: list[tutorials.Ran]) -> None:
    """Line by line, and each succeeds."""
    tutorials.check(PAGE, ran)
    assert [one.status for one in ran] == [0] * 5


@pytest.mark.usefixtures("ran")
def test_the_photos_are_protected_and_nothing_tells_their_names(home: Path) -> None:
    """Each photo has its output at its size; files that left the device are named by ids alone."""
    assert sorted(path.name for path in (home / "album-protected").iterdir()) == ["friends.jpg", "portrait.jpg"]
    for folder, name in itertools.product(("album-protected", "album-alone"), ("friends.jpg", "portrait.jpg")):
        with Image.open(home / "album" / name) as before, Image.open(home / folder / name) as after:
            assert before.size == after.size and before.tobytes() != after.tobytes()
    sent = list((home / "gradients").iterdir())
    assert {path.stem for path in sent} == {Gradients.decode(path.read_bytes()).id for path in sent}


@pytest.mark.usefixtures("ran")
def test_the_program_runs(home: Path) -> None:
    """The Python of the page, with a server that answers."""
    (program,) = tutorials.blocks(PAGE, "python")
    asked = program.text.replace("default_path(), create=True", "key, create=False")
    code = asked.replace("Perturbations.decode(answer)", "answered(question)")
    photo = (home / "album" / "portrait.jpg").read_bytes()

    def answered(question: bytes) -> Perturbations:
        return Perturbations.decode(answer(question, "standard"))

    names = {"photo": photo, "key": home / ".config" / "apf" / "device.key", "answered": answered}
    exec(compile(code, PAGE.name, "exec"), names)
    assert names["protected"] == (home / "album-protected" / "portrait.jpg").read_bytes()


def test_the_page_says_what_the_format_is() -> None:
    """The table of the format names each field and array that files have, and no other."""
    file = Gradients.of("0" * 32, Terms.of(load_recipe("light")), np.zeros((1, 6, 112, 112), np.float32), name="a.jpg")
    reply = Perturbations.of(file, np.zeros((1, 3, 112, 112), np.float32))
    held: set[str] = set()
    for data in (file.encode(), reply.encode()):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        held |= header.pop("__metadata__").keys() | header.keys()
    text = PAGE.read_text()
    table = text[text.index("## The format, version 1") : text.index("**The gradient** of a face")]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    arrays = re.findall(r"`(gradients|perturbations)`", table)
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) | set(arrays) == held
