"""The operator's pages in Chromium: driven by keyboard, on a phone, in the dark, without a message in the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.producer.server.platform import Platform
from tests.waiting import until
from tests.workers.report.conftest import chromium  # noqa: F401  a fixture

#: Of text on its ground, as WCAG's AA asks.
CONTRAST = 4.5
MEASURE = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  return [...document.querySelectorAll("body *")].filter((e) => e.offsetParent && [...e.childNodes].some((n) =>
    n.nodeType === 3 && n.textContent.trim())).map((e) => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.tagName + " " + e.textContent.trim().slice(0, 40)];
    }).sort((a, b) => a[0] - b[0])[0];
}"""
UNNAMED = """() => [...document.querySelectorAll("input:not([type=hidden], [hidden]), select, button, img, progress")]
  .filter((e) => !(e.labels?.length || e.ariaLabel || e.alt || e.textContent.trim())).map((e) => e.outerHTML)"""


class Windows:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.said: list[str] = []
        self.pages: list[Page] = []

    def open(self, url: str, **context: Any) -> Page:
        page = self._browser.new_context(**context).new_page()
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(url)
        self.pages.append(page)
        return page


@pytest.fixture
def windows(chromium: Browser) -> Iterator[Windows]:  # noqa: F811
    opened = Windows(chromium)
    yield opened
    for page in opened.pages:
        page.context.close()
    assert opened.said == []


def test_an_operator_finds_a_failed_photo_and_retries_it(working: Platform, windows: Windows) -> None:
    """By keyboard alone: log in, look for batches with failures, read reason and cure, retry; then all is done."""
    token = working.token("ops", scopes=["read", "submit", "operate"])
    with working.server() as (api, _):
        api.token = token
        asked = {"source": working.source, "destination": working.destination, "recipe": "light"}
        batch = api("POST", "/v1/batches", asked).json["batch"]
        api.ended(batch)
        (failure,) = api("GET", f"/v1/batches/{batch}/failures").json["failures"]
        page = windows.open(f"{api.url}/?having=failed")
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        link = page.get_by_role("link", name=batch)
        expect(link).to_be_visible()
        while not link.evaluate("e => e === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=failure["key"])).to_be_visible()
        expect(page.get_by_text("What to do:")).to_be_visible()
        expect(page.get_by_text(failure["reason"])).to_be_visible()
        working.world.source.put(failure["key"], b"face mended")
        button = page.get_by_role("button", name="Retry failed photos")
        while not button.evaluate("e => e === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("in the queue again")
        page.reload()
        expect(page.get_by_role("heading", name="Failed photos")).to_have_count(0, timeout=30_000)
        page.reload()
        expect(page.locator(".state").first).to_have_text("done", timeout=30_000)
        assert api("GET", f"/v1/batches/{batch}").json["failed"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable_on_a_phone_and_in_the_dark(place: Platform, windows: Windows, scheme: str) -> None:
    """No page is wider than the phone, each word stands out from its ground, and every control has a name."""
    asked = {"source": place.source, "destination": place.destination, "recipe": "light"}
    with place.server() as (api, _):
        batches = [api("POST", "/v1/batches", {**asked, "photos": [name]}).json["batch"] for name in place.world.photos]
        api("POST", f"/v1/batches/{batches[0]}/pause")
        schedule = {**asked, "name": "nightly", "cron": "0 3 * * *", "destination": place.destination + "/nightly"}
        assert api("POST", "/v1/schedules", schedule).status == 201
        page = windows.open(api.url, viewport={"width": 360, "height": 700}, color_scheme=scheme)
        for path in ("/", f"/batches/{batches[0]}", "/workers", "/schedules", "/recipes", "/login"):
            page.goto(api.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            contrast, where = page.evaluate(MEASURE)
            assert contrast >= CONTRAST, f"{path}: {where}"
            assert page.evaluate(UNNAMED) == [], path
            assert page.evaluate("document.querySelectorAll('h1').length") == 1


def test_progress_shows_as_it_happens(place: Platform, windows: Windows) -> None:
    """A page that is open follows a batch from waiting to done by itself."""
    names = sorted(place.world.photos)[:2]
    with place.server() as (api, _):
        asked = {"source": place.source, "destination": place.destination, "recipe": "light", "photos": names}
        batch = api("POST", "/v1/batches", asked).json["batch"]
        page = windows.open(f"{api.url}/batches/{batch}")
        expect(page.locator(".state").first).to_have_text("running")
        place.world.start_worker()
        expect(page.locator(".state").first).to_have_text("done", timeout=60_000)
        expect(page.locator(".of").first).to_have_text("2 of 2")


def test_a_schedule_is_run_now(place: Platform, windows: Windows) -> None:
    """One button fires it, and its batch is linked."""
    with place.server() as (api, _):
        schedule = {"name": "nightly", "source": place.source, "destination": place.destination, "recipe": "light",
                    "cron": "0 3 * * *"}  # fmt: skip
        assert api("POST", "/v1/schedules", schedule).status == 201
        page = windows.open(f"{api.url}/schedules")
        page.get_by_role("button", name="Run nightly now").click()
        expect(page.get_by_role("status")).to_have_text("The schedule runs.")
        expect(page.locator("td[data-name='Last run'] a")).to_have_count(1)
        until(lambda: len(api("GET", "/v1/batches").json["batches"]) == 1, 20, "the index has it")
