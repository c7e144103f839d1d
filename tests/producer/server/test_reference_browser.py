"""The reference of the API in Chromium: readable on a phone, in the dark and on a desk, and reached by links alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.producer.server.platform import Platform
from tests.producer.server.test_pages_browser import (  # noqa: F401  a fixture, and what they need
    CONTRAST,
    MEASURE,
    UNNAMED,
    Windows,
    windows,
)
from tests.workers.report.conftest import chromium  # noqa: F401  a fixture


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_readable(place: Platform, windows: Windows, scheme: str, width: int) -> None:  # noqa: F811
    """No wider than the window, each word stands out from its ground, and no message in the console."""
    with place.server() as (api, _):
        page = windows.open(f"{api.url}/reference", viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        contrast, where = page.evaluate(MEASURE)
        assert contrast >= CONTRAST, where
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate("document.querySelectorAll('h1').length") == 1


def test_an_operator_finds_a_route_and_its_body(place: Platform, windows: Windows) -> None:  # noqa: F811
    """From the batches by links to a route, and from there to what its body may hold."""
    with place.server() as (api, _):
        page = windows.open(api.url)
        page.get_by_role("link", name="API", exact=True).click()
        expect(page.get_by_role("heading", name="The API")).to_be_visible()
        page.get_by_role("navigation", name="Routes").get_by_role("link", name="POST /v1/batches", exact=True).click()
        section = page.get_by_role("region", name="POST /v1/batches", exact=True)
        expect(section).to_be_in_viewport()
        section.get_by_role("link", name="BatchRequest").click()
        fields = page.get_by_role("region", name="BatchRequest")
        expect(fields).to_be_in_viewport()
        expect(fields.get_by_role("row", name="include_forgotten")).to_contain_text("operate")
