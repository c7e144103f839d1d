"""Pages for people: links lead somewhere, each page is found from the index, and the README stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "apf" / "weights" / "MODEL_CARD.md"]
INLINE_LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_LINES = 220


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links that are no URL."""
    yield from (link for link in INLINE_LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", link))


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by, as GitHub makes it."""
    found = set()
    fenced = False
    for line in page.read_text().splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            text = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(text.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that is there, and an anchor that one of its headings makes."""
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to all pages beside it."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {page for page in index.parent.glob("*.md") if page != index} <= linked


def test_the_readme_stays_short() -> None:
    """A newcomer reads it to its end; the rest is in docs/."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MOST_LINES
