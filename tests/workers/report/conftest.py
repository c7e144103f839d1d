"""A headless Chromium, whose every message and request is noted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.conftest import _without
from tests.waiting import until


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Of one module alone: while it is there its event loop runs, and no other test could call `asyncio.run`."""
    with sync_playwright() as playwright:
        browser = browser_here(playwright)
        yield browser
        browser.close()


def browser_here(playwright: Playwright) -> Browser:
    """The machine's own Chromium; without one the test skips, or fails where services are required."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        _without("Chromium", "no chromium on PATH: install it")
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@dataclass
class Window:
    """Opens pages from disk; at the end no console message and no request to a network may have come."""

    browser: Browser
    said: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    def open(self, path: Path, *, width: int = 1280, height: int = 900, **context: Any) -> Page:
        page = self.browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked_for.append(request.url[:200]))
        page.goto(path.as_uri())
        self.pages.append(page)
        return page


@pytest.fixture
def window(chromium: Browser) -> Iterator[Window]:
    opened = Window(chromium)
    yield opened
    for page in opened.pages:
        page.context.close()
    assert opened.said == []
    assert [url for url in opened.asked_for if not url.startswith(("file:///", "data:"))] == []


def loaded(page: Page) -> None:
    """Until every picture in sight is there."""
    shows(page, "[...document.images].every((i) => i.complete || i.getBoundingClientRect().top > innerHeight)")


def shows(page: Page, condition: str) -> None:
    """Playwright's own waiting compiles text to a function inside the page, which the page's policy refuses."""
    until(lambda: page.evaluate(condition), 30, condition, every_s=0.02)
