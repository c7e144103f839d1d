"""`apf check` as its users call it, on photos that were really protected."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import insightface
import pytest
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Browser, sync_playwright

from tests.apf.guides.networks import face_network
from tests.command import apf, apf_json
from tests.workers.report.conftest import browser_here

T1 = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six people on one photo, protected, and the folder of their other photos: mirrored, and brighter."""
    folder = tmp_path_factory.mktemp("checked")
    source, others = folder / "album", folder / "others"
    for place in (source, others):
        place.mkdir()
    shutil.copy(T1, source / "team.jpg")
    photo = Image.open(T1)
    ImageOps.mirror(photo).save(others / "mirrored.jpg", quality=90)
    ImageEnhance.Brightness(photo).enhance(1.3).save(others / "bright.jpg", quality=90)
    (others / "broken.jpg").write_bytes(T1.read_bytes()[:9000])
    assert apf_json("protect", source, folder / "out", APF_STEPS="8")["faces"] == 6
    return folder / "out", others


def check_json(*args: str | Path) -> dict[str, Any]:
    """What the command prints; its status is 1 exactly where a photo is still matched."""
    ended = apf("check", *args, "--json", code=None)
    found = json.loads(ended.stdout)
    assert ended.returncode == bool(found["still_matched"])
    return dict(found)


@pytest.fixture(scope="module")
def result(checked: tuple[Path, Path]) -> dict[str, Any]:
    """What the command prints of them, and the page."""
    out, others = checked
    return check_json(out, others, "-o", out.parent / "page.html")


def test_each_face_is_compared_with_its_own_person_in_the_other_photos(result: dict[str, Any]) -> None:
    """Six faces, each with the two other photos of its person; before they were protected all were matched."""
    (photo,) = result["photos"]
    assert (photo["photo"], len(photo["faces"]), result["people"]) == ("team.jpg", 6, 6)
    assert {face["person"] for face in photo["faces"]} == {f"Person {number}" for number in range(1, 7)}
    for face in photo["faces"]:
        for said in face["recognisers"].values():
            assert (said["others"], said["matched_before"]) == (2, 2)
            assert 0 <= said["matched"] <= 2
    names = {one["name"]: one for one in result["recognisers"]}
    assert sorted(names) == ["apf-mfn", "dlib"]
    assert all(one["decides"] and one["threshold_from"] == "known" for one in names.values())
    assert names["dlib"]["matched"] < names["dlib"]["matched_before"] == 12


def test_a_photo_is_as_badly_off_as_its_worst_face(result: dict[str, Any]) -> None:
    """Few steps leave some faces matched with copies that are only mirrored or brighter: its sentence says how many."""
    (photo,) = result["photos"]
    known = [face for face in photo["faces"] if face["verdict"] in ("matched", "partly")]
    assert 0 < len(known) < 6 and result["still_matched"] == result["compared"] == 1
    are = "is" if len(known) == 1 else "are"
    assert photo["sentence"].startswith(f"Of 6 faces, {len(known)} {are} still recognised")
    assert not result["confirmed"]
    assert [(one["photo"], "cannot be decoded" in one["reason"]) for one in result["unread"]] == [
        ("others/broken.jpg", True)
    ]


def test_a_users_own_recogniser_decides(checked: tuple[Path, Path], tmp_path: Path) -> None:
    """With a threshold that nothing reaches all is well, whatever the jury says; without one it is estimated."""
    out, others = checked
    path = face_network(tmp_path, "mine")
    asked = [out, others, "--recogniser", path, "-o", tmp_path / "p.html"]
    estimated = {one["name"]: one for one in check_json(*asked)["recognisers"]}
    # 18 clean faces of six people: 153 pairs, 18 of them of one person.
    assert (estimated["mine"]["threshold_from"], estimated["mine"]["threshold_pairs"]) == ("estimated", 135)
    (tmp_path / "mine.json").write_text('{"input": {}, "threshold": 1.0}')
    found = check_json(*asked)
    assert [(one["name"], one["decides"]) for one in found["recognisers"]] == [
        ("dlib", False), ("apf-mfn", False), ("mine", True),
    ]  # fmt: skip
    assert found["still_matched"] == 0
    assert "Your own recogniser decides" in (tmp_path / "p.html").read_text()


def test_faces_are_sorted_into_folders_and_read_back_as_the_user_left_them(
    checked: tuple[Path, Path], tmp_path: Path
) -> None:
    """A renamed folder is a name, and a deleted picture counts no more."""
    out, others = checked
    people = tmp_path / "people"
    sorted_ = apf_json("check", out, others, "--sort-into", people)
    assert (sorted_["faces"], sorted_["people"]) == (18, 6)
    assert {len(list(one.iterdir())) for one in people.iterdir()} == {3}
    (people / "Person 1").rename(people / "Ann")
    mirrored = next(path for path in (people / "Ann").iterdir() if path.name.startswith("mirrored"))
    mirrored.unlink()
    shutil.rmtree(people / "Person 2")
    found = check_json(out, others, "--people", people, "-o", tmp_path / "p.html")
    others_of = {f["person"]: f["recognisers"]["dlib"]["others"] for f in found["photos"][0]["faces"]}
    assert others_of == {"Ann": 1, **{f"Person {number}": 2 for number in range(3, 7)}}
    assert found["confirmed"]
    assert "is not empty" in apf("check", out, others, "--sort-into", people, code=2).stderr


def test_folders_of_people_need_no_originals(checked: tuple[Path, Path], tmp_path: Path) -> None:
    """The largest face of each photo is its folder's person's."""
    out, others = checked
    for folder, photo in (("new", out / "team.jpg"), ("old", others / "bright.jpg"), ("old", others / "mirrored.jpg")):
        for person in ("ann", "bob"):
            (tmp_path / folder / person).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, tmp_path / folder / person)
    found = check_json(tmp_path / "new", tmp_path / "old", "--person-folders", "-o", tmp_path / "p.html")
    assert [(p["photo"], p["faces"][0]["person"]) for p in found["photos"]] == [
        ("ann/team.jpg", "ann"), ("bob/team.jpg", "bob"),
    ]  # fmt: skip
    assert found["photos"][0]["faces"][0]["recognisers"]["dlib"]["others"] == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["others"], "name their folder with --originals"),
        (["out", "--limit", "1"], "no protected face has another photo of its person"),
        (["out", "--person-folders"], "name OTHERS, too"),
        (["out", "others", "--people", "album"], "holds no sorted faces"),
        (["out", "others", "--recogniser", "nobody"], "no guide named 'nobody'"),
        (["out", "others", "-o", "out/page.html"], "would be published"),
    ],
)
def test_what_cannot_be_checked_says_what_to_do(
    asked: list[str], message: str, checked: tuple[Path, Path], tmp_path: Path
) -> None:
    """Status 2 and the cure; no page is written."""
    place = checked[0].parent
    args = [place / one if one in ("out", "others", "album", "out/page.html") else one for one in asked]
    output = [] if "-o" in asked else ["-o", tmp_path / "p.html"]
    ended = apf("check", *args, *output, code=2)
    assert message in ended.stderr
    assert not list(tmp_path.iterdir()) and not list((place / "out").glob("*.html"))


def test_people_read_the_verdict_the_warnings_and_where_the_page_is(checked: tuple[Path, Path], tmp_path: Path) -> None:
    """On stderr, with the page's path alone on stdout; it says that the jury's word flatters where it does."""
    out, others = checked
    ended = apf("check", out, others, "-o", tmp_path / "p.html", code=1)
    assert ended.stdout == f"{tmp_path / 'p.html'}\n"
    assert "0 of 1 photos are not matched any more, by dlib and apf-mfn" in ended.stderr
    assert "The program has grouped the faces" in ended.stderr and "unprotected faces" in ended.stderr


def test_without_the_workers_libraries_it_says_what_to_install(checked: tuple[Path, Path]) -> None:
    """On a machine with the producer alone the command is there, loads nothing heavy, and names its cure."""
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'cv2' else real(name, *a)\n"
        "from producer.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code)\n"
        "assert not {'torch', 'numpy', 'PIL', 'cv2'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "check", str(checked[0])], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.returncode) == ("2\n", 0), ended.stderr
    assert "no cv2" in ended.stderr


def test_no_torch_is_needed(checked: tuple[Path, Path]) -> None:
    """On a CPU all is done by ONNX Runtime."""
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None)\n"
        "import apf\n"
        "from workers.check.run import CheckOptions, judge, look\n"
        "from workers.config.settings import Settings\n"
        "seen = look(CheckOptions(protected=sys.argv[1], others=sys.argv[2]), Settings(device='cpu'))\n"
        "print(judge(seen).compared)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, checked)], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "1\n", ended.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield browser_here(playwright)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_stands_alone_and_fits_a_phone(
    browser: Browser, result: dict[str, Any], width: int, scheme: Any
) -> None:
    """In Chromium it asks for nothing, breaks no rule of its own policy, is as wide as the screen, and shows pairs."""
    text = Path(result["page"]).read_text()
    assert not re.search(r"https?://|<script", text)
    asked: list[str] = []
    said: list[str] = []
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.on("request", lambda request: asked.append(request.url[:40]))
    page.on("console", lambda message: said.append(message.text))
    page.goto(Path(result["page"]).as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.get_by_role("heading", name="Are they still matched?").is_visible()
    assert page.get_by_alt_text("In others/mirrored.jpg, not protected").count() == 6
    assert page.get_by_text("so that their word flatters it").is_visible()
    page.context.close()
