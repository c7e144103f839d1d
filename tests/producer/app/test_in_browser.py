"""The app in Chromium: a person with a mouse, a kill in the middle, and nothing that leaves the machine."""

from __future__ import annotations

import base64
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.producer.app.conftest import App, small_photos
from tests.waiting import until
from tests.workers.report.conftest import browser_here

#: On a busy machine the filter loads in a minute.
SLOW_MS = 240_000

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = browser_here(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page that may ask loopback alone, and on which nothing may be said to the console."""
    said: list[str] = []
    asked: list[str] = []
    context = chromium.new_context(accept_downloads=True, viewport={"width": 1200, "height": 900})
    found = context.new_page()
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    yield found
    context.close()
    # Of an app that was killed the page hears nothing, or half an answer.
    assert [
        text for text in said if not re.search("ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|EMPTY_RESPONSE)", text)
    ] == []
    assert [url for url in asked if not re.match(r"http://127\.0\.0\.1:\d+/|blob:http://127", url)] == []


class Watch:
    """Looks again and again where the app's processes are connected to."""

    def __init__(self, pid: int) -> None:
        self.elsewhere: set[Any] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(psutil.Process(pid),))
        self._thread.start()

    def _look(self, process: psutil.Process) -> None:
        while not self._over.wait(0.2):
            with suppress(psutil.Error):
                for one in (process, *process.children(recursive=True)):
                    found = [link.raddr for link in one.net_connections() if link.raddr]
                    self.elsewhere |= {place for place in found if place.ip not in ("127.0.0.1", "::1")}

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def test_a_person_protects_an_album_by_mouse_alone(app: App, page: Page) -> None:
    """Twenty photos and a broken one: chosen, looked at, protected, compared, saved as a zip and to a folder."""
    photos = small_photos(app.home / "Pictures" / "Holiday", 20)
    (app.home / "Pictures" / "Holiday" / "torn.jpg").write_bytes(photos["photo 00.jpg"][:3000])
    assert app.process
    watch = Watch(app.process.pid)
    page.goto(app.links[0])
    assert "token" not in page.url
    page.get_by_role("link", name="Choose a folder").click()
    page.get_by_role("link", name="Holiday").click()
    expect(page.get_by_text("21 photos in this folder")).to_be_visible()
    page.get_by_role("button", name="Take “Holiday”").click()

    # The three looks of the first face, and a closer one.
    expect(page.locator('img[data-look="strong"]')).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("img", name="The face as it is")).to_be_visible()
    page.get_by_text("Safest").click()
    expect(page.get_by_role("radio", name="Safest")).to_be_checked()
    expect(page.locator('[data-close="after"]')).to_have_attribute("src", re.compile(r"/looks/strong\.jpg$"))
    page.get_by_role("button", name="Protect 21 photos").click()

    expect(page.get_by_role("heading", name="20 photos are ready")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("heading", name="1 photo was not protected")).to_be_visible()
    expect(page.get_by_text("The file is damaged.")).to_be_visible()
    expect(page.locator("#check-status")).to_contain_text("Two programs compared 20 photos", timeout=SLOW_MS)
    expect(page.locator('.said[data-photo="0"]')).to_contain_text("of the 19 other photos of this person")

    page.get_by_role("link", name="Compare photo 07.jpg").click()
    slider = page.get_by_role("slider", name="Before and after")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("% before"))  # the script has given it its shape
    box = slider.bounding_box()
    assert box
    assert 30 < float(slider.input_value()) < 70  # where the face is
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    assert float(slider.input_value()) > 80
    clip = page.locator(".compare .before").evaluate("(image) => getComputedStyle(image).clipPath")
    assert "100%" in clip or clip.startswith("inset(0")
    page.get_by_role("link", name="All photos").click()

    # Who is who: a face that is left out counts no more.
    page.get_by_role("link", name="Look who was taken for whom").click()
    expect(page.get_by_role("checkbox")).to_have_count(20)
    page.get_by_role("checkbox", name="Face 1, Person 1").check()
    page.get_by_role("button", name="Leave the ticked faces out").click()
    expect(page.get_by_role("group", name="Left out").get_by_role("checkbox")).to_have_count(1)
    page.get_by_role("button", name="All rows are right").click()
    expect(page.locator("#check-status")).to_contain_text("Two programs compared 19 photos", timeout=SLOW_MS)
    expect(page.locator("#check-status")).not_to_contain_text("itself found out")
    expect(page.locator(".said").filter(has_text="of the 18 other photos")).to_have_count(19)

    with page.expect_download() as download:
        page.get_by_role("link", name="Save as a zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        saved = {name.removeprefix("Holiday protected/"): archive.read(name) for name in archive.namelist()}
    assert saved.keys() == photos.keys() and all(saved[name] != data for name, data in photos.items())
    page.get_by_role("link", name="Save to a folder").click()
    page.get_by_role("button", name="Save in “Pictures”").click()
    expect(page.get_by_text("Saved in")).to_be_visible()
    place = app.home / "Pictures" / "Holiday protected"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == saved

    # The originals are what they were, and nothing was asked of any other machine.
    (app.home / "Pictures" / "Holiday" / "torn.jpg").unlink()
    assert {path.name: path.read_bytes() for path in (app.home / "Pictures" / "Holiday").iterdir()} == photos
    watch.end()
    assert watch.elsewhere == set()
    noted = (app.home / "noted").read_text().splitlines() if (app.home / "noted").exists() else []
    assert [line for line in noted if "127.0.0.1" not in line and "/" not in line and "localhost" not in line] == []


def test_a_killed_process_goes_on_where_it_was(app: App, page: Page) -> None:
    """Photos that were handed over by the browser; the next start ends the album, and the page shows it."""
    photos = small_photos(app.home / "elsewhere", 12)
    page.goto(app.links[0])
    page.get_by_role("button", name="Choose photos").click()
    files = sorted((app.home / "elsewhere").iterdir())
    page.locator('input[type="file"][multiple]').set_input_files(files)
    expect(page.locator("#count")).to_have_text("12")
    album = page.url
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Protect 12 photos").click()
    protected = next((app.home / "data" / "apf" / "app").glob("2*")) / "protected"
    until(lambda: list(protected.glob("*.jpg")), SLOW_MS / 1000, "a photo is protected", app.home / "log")
    app.kill()
    done = {path.name: path.stat().st_mtime_ns for path in protected.glob("*.jpg")}
    assert len(done) < 12

    page.goto(app.start())
    page.get_by_role("link", name="My photos").click()
    assert page.url.split("/albums/")[1] == album.split("/albums/")[1]
    expect(page.get_by_role("heading", name="12 photos are ready")).to_be_visible(timeout=SLOW_MS)
    assert {path.name for path in protected.glob("*.jpg")} == photos.keys()
    assert {name: (protected / name).stat().st_mtime_ns for name in done} == done  # none was done twice
    kept = protected.parent / "photos"
    assert {path.name: path.read_bytes() for path in kept.glob("*.jpg")} == photos


def test_a_person_may_stop_go_on_and_choose_anew(app: App, page: Page) -> None:
    """What was done stays; another look protects all photos anew."""
    photos = small_photos(app.home / "Pictures" / "Holiday", 12)
    page.goto(app.links[0])
    page.get_by_role("link", name="Choose a folder").click()
    page.get_by_role("link", name="Holiday").click()
    page.get_by_role("button", name="Take “Holiday”").click()
    page.get_by_role("button", name="Protect 12 photos").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", name="It has stopped")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name="12 photos are ready")).to_be_visible(timeout=SLOW_MS)
    protected = next((app.home / "data" / "apf" / "app").glob("2*")) / "protected"
    before = {name: (protected / name).read_bytes() for name in photos}
    page.get_by_role("button", name="Choose another look").click()
    page.get_by_role("radio", name="Hardly seen").check()
    page.get_by_role("button", name="Protect 12 photos").click()
    expect(page.get_by_role("heading", name="12 photos are ready")).to_be_visible(timeout=SLOW_MS)
    assert all((protected / name).read_bytes() != data for name, data in before.items())


#: Lets a file fall onto the page, as from a file manager.
DROP = """(place, [name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  place.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def test_photos_are_dropped_and_others_are_given_to_compare_with(app: App, page: Page) -> None:
    """One photo has nothing to be compared with, until others of the person are given; these are not protected."""
    photos = small_photos(app.home / "elsewhere", 3)
    page.goto(app.links[0])
    page.get_by_role("button", name="Choose photos").click()
    drop = page.locator("body[data-ready] #drop")
    drop.evaluate(DROP, ["notes.txt", "eA=="])
    expect(page.get_by_text("1 file left out: no photo.")).to_be_visible()
    drop.evaluate(DROP, ["photo 00.jpg", base64.b64encode(photos["photo 00.jpg"]).decode()])
    expect(page.locator("#count")).to_have_text("1")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Protect 1 photo").click()
    expect(page.get_by_role("heading", name="1 photo is ready")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#check-status")).to_contain_text("there is nothing to compare", timeout=SLOW_MS)
    others = [app.home / "elsewhere" / f"photo 0{number}.jpg" for number in (1, 2)]
    page.locator('input[data-kind="others"]').set_input_files(others)
    expect(page.locator("#upload-status")).to_contain_text("2 photos to compare with")
    expect(page.locator("#check-status")).to_contain_text("Two programs compared 1 photo", timeout=SLOW_MS)
    expect(page.locator('.said[data-photo="0"]')).to_contain_text("of the 2 other photos of this person")
    protected = next((app.home / "data" / "apf" / "app").glob("2*")) / "protected"
    assert [path.name for path in protected.glob("[!.]*")] == ["photo 00.jpg"]


@pytest.mark.parametrize("width", [390, 1200])
def test_the_keyboard_and_a_phone_are_enough(app: App, chromium: Browser, page: Page, width: int) -> None:
    """Tab reaches the first button by way of the skip link, and nothing is wider than the screen."""
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(app.links[0])
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose photos")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Choose photos")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_button_ends_the_program(app: App, page: Page) -> None:
    """And the page says that everything is kept."""
    page.goto(app.links[0])
    page.get_by_role("button", name="End the program").click()
    expect(page.get_by_role("heading", name="The program has ended")).to_be_visible()
    assert app.process and app.process.wait(30) == 0
    assert not (app.home / "data" / "apf" / "app" / "link").exists()


def test_a_face_is_moved_to_another_person_by_mouse_and_by_keyboard(app: App, page: Page) -> None:
    """A new row, back again, out and in; the check then goes by the rows, also by those of a second time."""
    small_photos(app.home / "Pictures" / "Holiday", 4)
    page.goto(app.links[0])
    page.get_by_role("link", name="Choose a folder").click()
    page.get_by_role("link", name="Holiday").click()
    page.get_by_role("button", name="Take “Holiday”").click()
    page.get_by_role("radio", name="Hardly seen").check()
    page.get_by_role("button", name="Protect 4 photos").click()
    status = page.locator("#check-status")
    expect(status).to_contain_text("Two programs compared 4 photos", timeout=SLOW_MS)
    page.get_by_role("link", name="Look who was taken for whom").click()
    first, second = (page.get_by_role("group", name=f"Person {number}") for number in (1, 2))
    ticks = first.get_by_role("checkbox")
    expect(ticks).to_have_count(4)

    # Enter on a face moves nothing, and what cannot be done is told without a loss of ticks.
    ticks.nth(3).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(ticks.nth(3)).to_be_checked()
    page.get_by_role("button", name="All rows are right").click()
    expect(page.get_by_role("alert")).to_contain_text("put them into a row first")
    expect(ticks.nth(3)).to_be_checked()
    button = page.get_by_role("button", name="The ticked faces are somebody else")
    while not button.evaluate("e => e === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(second.get_by_role("checkbox")).to_have_count(1)
    page.get_by_role("button", name="Leave the ticked faces out").click()
    expect(page.get_by_role("alert")).to_contain_text("Tick the faces first")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="All rows are right").click()
    expect(status).to_contain_text("Two programs compared 3 photos", timeout=SLOW_MS)
    expect(page.locator(".said").filter(has_text="of the 2 other photos")).to_have_count(3)

    # What was sorted outlives the process and other photos to compare with.
    app.kill()
    page.goto(app.start())
    page.get_by_role("link", name="Holiday").click()
    others = small_photos(app.home / "others", 1)
    page.locator('input[data-kind="others"]').set_input_files(app.home / "others" / next(iter(others)))
    expect(status).to_contain_text("The program itself found out", timeout=SLOW_MS)
    page.get_by_role("link", name="Look who was taken for whom").click()
    expect(first.get_by_role("checkbox")).to_have_count(4)
    expect(second.get_by_role("checkbox")).to_have_count(1)
    second.get_by_role("checkbox").check()
    page.get_by_role("button", name="The ticked faces are Person 1").click()
    expect(first.get_by_role("checkbox")).to_have_count(5)
    page.get_by_role("button", name="All rows are right").click()
    expect(status).to_contain_text("Two programs compared 4 photos", timeout=SLOW_MS)
    # The other photo is the first one once more, which that one is not compared with.
    expect(page.locator(".said").filter(has_text="of the 4 other photos")).to_have_count(3)
    expect(page.locator(".said").filter(has_text="of the 3 other photos")).to_have_count(1)
