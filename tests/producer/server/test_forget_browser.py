"""Forgetting a photo on the operator's page, in Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.producer.server.platform import Platform
from tests.producer.server.test_pages_browser import CONTRAST, MEASURE, UNNAMED, Windows, windows
from tests.workers.report.conftest import chromium

__all__ = ["chromium", "windows"]


def readable(page: Page) -> None:
    """It fits a phone, stands out from its ground, and every control has a name."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    contrast, where = page.evaluate(MEASURE)
    assert contrast >= CONTRAST, where
    assert page.evaluate(UNNAMED) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_forgets_a_failed_photo_by_two_clicks(
    working: Platform,
    windows: Windows,
    scheme: str,
) -> None:
    """On a phone, in the light and in the dark; who did it stands on the page behind the link."""
    secret = "a folder of anna's/IMG_20260101_120000.jpg"
    working.world.source.put(secret, b"corrupt")
    with working.server() as (api, _):
        names = [secret, *sorted(working.world.photos)[:2]]
        asked = {"source": working.source, "destination": working.destination, "recipe": "light", "photos": names}
        batch = api("POST", "/v1/batches", asked).json["batch"]
        api.ended(batch)
        page = windows.open(f"{api.url}/batches/{batch}", viewport={"width": 360, "height": 700}, color_scheme=scheme)
        readable(page)
        page.get_by_role("button", name=f"Forget photo {secret}").click()
        expect(page.get_by_role("heading", name="Forget this photo?")).to_be_visible()
        readable(page)
        page.get_by_role("link", name="Keep it").click()
        page.get_by_role("button", name=f"Forget photo {secret}").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.get_by_role("status")).to_have_text("The photo is forgotten.")
        expect(page.get_by_text("anna")).to_have_count(0)
        page.get_by_role("link", name="who did what").click()
        for act in ("submit", "forget"):
            expect(page.get_by_role("cell").get_by_text(act, exact=True)).to_be_visible()
        readable(page)
        page.get_by_role("link", name="Back to the batch").click()
        expect(page.get_by_role("heading", name=batch)).to_be_visible()
