"""The page in Chromium, opened from disk: it works by mouse, by keyboard and for a screen reader, and stays quick."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from tests.workers.report.albums import Album, pixels
from tests.workers.report.conftest import Window, loaded, shows
from workers.core.records import Outcome

#: Names that would run, end an element, or turn the text around, if the page let them.
HOSTILE = [
    "</script><script>alert(1)</script>.png",
    "<img src=x onerror=alert(2)>.png",
    "\"'><svg onload=alert(3)>.png",
    "safe\u202egnp.exe",
    "new\nline\0.png",
    "&amp;<!--.png",
    "x" * 400 + ".png",
]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos with originals, one without a face, one that failed."""
    album = Album.new()
    for index, (height, width) in enumerate([(300, 400), (400, 300), (300, 300), (200, 600)]):
        album.photo(f"photo {index}.png", before=pixels(index, height, width))
    album.photo("tree.png", Outcome.no_face, published=Outcome.no_face)
    album.failed("zebra.png", "JPEG photo, its pixels cannot be decoded: truncated")
    return album.report(tmp_path_factory.mktemp("full") / "a page.html", with_originals=True).page


def seen(place: Locator) -> np.ndarray:
    """What the user sees there, as (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("RGB")).astype(int)


def test_the_slider_moves_by_keyboard_and_shows_one_photo_and_the_other(window: Window, full: Path) -> None:
    """Home shows the protected photo, End the original; an arrow moves it by one, and a screen reader hears it."""
    page = window.open(full)
    loaded(page)
    page.locator("#boxes").uncheck()
    slider = page.get_by_role("slider", name="Original and protected photo, photo 0.png")
    photo = page.locator(".photo").first
    start = int(slider.input_value())  # where the largest face is
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value(str(start + 1))
    expect(slider).to_have_attribute("aria-valuetext", f"{start + 1} % original, {99 - start} % protected")
    page.keyboard.press("Home")
    protected = seen(photo)
    page.keyboard.press("End")
    original = seen(photo)
    middle = np.s_[20:-40, 30:-30]  # without the focus ring, the line and the labels
    assert np.abs(protected[middle] - (255 - original[middle])).mean() < 25
    assert np.abs(protected[middle] - original[middle]).mean() > 60


def test_the_slider_follows_the_mouse(window: Window, full: Path) -> None:
    """A click a quarter in, and a drag to three quarters, take the line there; left of it is the original."""
    page = window.open(full)
    slider = page.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.click(box["x"] + box["width"] / 4, y)
    assert 18 <= float(slider.input_value()) <= 32
    page.mouse.move(box["x"] + box["width"] / 4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 3 * box["width"] / 4, y, steps=5)
    page.mouse.up()
    value = float(slider.input_value())
    assert 68 <= value <= 82
    clip = page.locator(".photo .before").first.evaluate("(image) => getComputedStyle(image).clipPath")
    assert clip.startswith("inset(0") and f"{100 - value:g}%" in clip.replace("calc(100% - ", "").replace(")", "")


def test_the_difference_and_the_protected_photo_alone_can_be_chosen(window: Window, full: Path) -> None:
    """In the large view three radio buttons say what is shown; the difference is black where nothing changed."""
    page = window.open(full)
    page.get_by_role("button", name="photo 0.png").click()
    dialog = page.get_by_role("dialog", name="photo 0.png")
    expect(dialog.get_by_role("slider")).to_be_visible()
    dialog.get_by_text("Difference").click()
    expect(
        dialog.get_by_role("img", name="Ten times the difference that protecting made to photo 0.png")
    ).to_be_visible()
    expect(dialog.get_by_role("slider")).to_have_count(0)
    dialog.get_by_role("radio", name="Protected").check(force=True)
    expect(dialog.get_by_role("img", name="Protected photo photo 0.png, 1 face")).to_be_visible()
    expect(dialog.get_by_text("similarity")).to_be_visible()


def test_the_keyboard_alone_opens_turns_and_closes_photos(window: Window, full: Path) -> None:
    """Arrows walk the grid, Enter opens, arrows go to the neighbours, Escape closes, and focus comes back."""
    page = window.open(full)
    first = page.get_by_role("button", name="photo 0.png")
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="photo 1.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="photo 1.png")).to_be_visible()
    page.get_by_role("button", name="Next photo").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="photo 2.png")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="photo 1.png")).to_be_focused()


def test_focus_is_seen_wherever_it_goes(window: Window, full: Path) -> None:
    """Tab reaches every control once around, and what has the focus looks different from what has not."""
    page = window.open(full)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
        outlined = page.evaluate(
            """() => { const at = document.activeElement, ring = (style) => parseFloat(style.outlineWidth) > 1
                         && style.outlineStyle !== 'none' || parseFloat(style.borderWidth) > 2;
                       return at === document.body || ring(getComputedStyle(at))
                         || ring(getComputedStyle(at.parentElement, '::after')); }"""
        )
        assert outlined, name
        reached.append(name)
    assert "Skip to the photos" in reached[0]
    assert {"photo 0.png", "zebra.png", "Original and protected photo, photo 0.png"} <= set(reached)


def test_everything_has_a_name_for_a_screen_reader(window: Window, full: Path) -> None:
    """In the browser's accessibility tree no control and no picture is nameless, in the page or in the dialog."""
    page = window.open(full)

    def nameless() -> list[Any]:
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        wanted = {"button", "slider", "checkbox", "combobox", "searchbox", "image", "radio", "dialog", "navigation"}
        named = [node for node in tree if not node["ignored"] and node["role"]["value"] in wanted]
        assert len(named) > 10
        return [node for node in named if not node.get("name", {}).get("value")]

    assert nameless() == []
    page.get_by_role("button", name="photo 0.png").click()
    assert nameless() == []
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    headings = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((h) => Number(h.tagName[1]))")
    assert headings.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(headings))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: Any, window: Window, full: Path) -> None:
    """Every text has a contrast of 4.5 or more against what is behind it (WCAG AA)."""
    page = window.open(full, color_scheme=scheme)
    page.locator("summary").click()
    page.get_by_role("button", name="photo 0.png").click()
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (at) => { for (; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter((at) => !at.matches('script, .tag, :disabled, noscript')
    && [...at.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && at.checkVisibility())
    .map((at) => { const [a, b] = [light(parse(getComputedStyle(at).color)), light(behind(at))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), at.textContent.trim().slice(0, 40)]; })
    .filter(([contrast]) => contrast < 4.5);
}"""


def test_a_phone_shows_everything_without_scrolling_sideways(window: Window, full: Path) -> None:
    """At 360 pixels nothing sticks out, in the page or in the dialog, and fingers find the buttons."""
    page = window.open(full, width=360, height=740)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    heights = page.locator("button:visible:not(.open)").evaluate_all("(all) => all.map((b) => b.offsetHeight)")
    assert min(heights) >= 40
    page.get_by_role("button", name="photo 3.png").click()
    box = page.get_by_role("dialog").locator(".photo").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 361
    assert page.evaluate("document.querySelector('.viewer-body').scrollWidth") <= 360


def test_nothing_moves_while_pictures_load(window: Window, full: Path) -> None:
    """The browser's own count of layout shifts stays at zero from the first paint on."""
    page = window.open(full)
    loaded(page)
    shift = page.evaluate(
        """() => new Promise((done) => { let sum = 0;
             new PerformanceObserver((list) => list.getEntries().forEach((e) => { sum += e.value; }))
               .observe({ type: 'layout-shift', buffered: true });
             setTimeout(() => done(sum), 500); })"""
    )
    assert shift == 0


def test_hostile_names_and_reasons_are_text(window: Window, tmp_path: Path) -> None:
    """Nothing of a key or a reason runs or is taken for markup; what cannot be seen is spelt out."""
    album = Album.new()
    for key in HOSTILE:
        album.failed(key, key)
    album.photo("ok<b>.png")
    page = window.open(album.report(tmp_path / "page.html").page)
    names = page.locator(".open").all_text_contents()
    assert {"</script><script>alert(1)</script>.png", "<img src=x onerror=alert(2)>.png", "ok<b>.png"} <= set(names)
    assert "safe\\u{202e}gnp.exe" in names and "new\\u{a}line\\u{0}.png" in names
    assert page.locator(".grid script, .grid svg, .failures script, .failures svg, .failures img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 1280


def test_the_page_lets_nothing_of_others_run(window: Window, full: Path) -> None:
    """Its own policy refuses a script, a style and a picture that were added to it."""
    page = window.open(full)
    page.evaluate(
        """() => { window.ran = false; const script = document.createElement('script');
                   script.textContent = 'window.ran = true'; document.body.append(script);
                   const image = new Image(); image.alt = 'x'; image.src = 'https://example.org/x.png';
                   image.onerror = () => { window.refused = true; }; document.body.append(image); }"""
    )
    shows(page, "window.refused === true")
    assert page.evaluate("window.ran") is False
    assert len(window.said) == 2 and all("Content Security Policy" in said for said in window.said)
    window.said.clear()
    window.asked_for.remove("https://example.org/x.png")  # what was wanted, and refused before it left


def test_a_page_without_originals_has_no_slider(window: Window, tmp_path: Path) -> None:
    """There is nothing to compare with: the published photo is shown, boxed, and the switch takes the boxes away."""
    album = Album.new()
    album.photo("a.png")
    page = window.open(album.report(tmp_path / "page.html").page)
    assert page.get_by_role("slider").count() == 0
    expect(page.locator(".box")).to_be_visible()
    page.get_by_label("Box faces").uncheck()
    expect(page.locator(".box")).to_be_hidden()
    page.get_by_role("button", name="a.png").click()
    expect(page.get_by_role("group", name="What to show")).to_be_hidden()
