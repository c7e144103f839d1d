"""Words of the API and of its pages: routes for commands, and names as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import workers
from producer.server.problems import over_http
from tests.producer.server.platform import Platform

#: What errors call the program itself, and what only a process of the platform's own can do.
OWN = re.compile(r"apf (itself|and|beat|protect wrote|private apply|control)\b")
COMMAND = re.compile(r"(?<![\w-])apf [a-z]+[\w -]*")
#: Where errors come from that a request may meet.
PACKAGES = ("access", "batches", "deletion", "ledger", "schedules")


def commands() -> list[str]:
    """All commands that the text of an error in these packages names."""
    root = Path(next(iter(workers.__path__)))
    found = set()
    for package in PACKAGES:
        for path in (root / package).glob("*.py"):
            for line in path.read_text().splitlines():
                if re.match(r'\s*f?"', line.lstrip()) or 'Error(f"' in line or 'Request("' in line:
                    found |= {match for match in COMMAND.findall(line) if not OWN.match(match)}
    return sorted(found)


def test_the_search_finds_what_errors_say() -> None:
    """Else the next test would pass for nothing."""
    assert any(one.startswith("apf resume") for one in commands()) and len(commands()) > 8


@pytest.mark.parametrize("text", commands())
def test_every_command_that_an_error_names_has_a_route(text: str) -> None:
    """Whoever asks over HTTP has no command line."""
    assert not re.search(r"(?<![\w-])apf ", over_http(text)), text


def test_a_retry_of_a_pending_batch_says_which_route_goes_on_with_it(place: Platform) -> None:
    """As it is read by a program's author."""
    with place.server() as (api, _):
        asked = {"source": place.source, "destination": place.destination, "photos": [sorted(place.world.photos)[0]]}
        batch = api("POST", "/v1/batches", asked).json["batch"]
        answer = api("POST", f"/v1/batches/{batch}/retry")
        assert answer.status == 409 and "`POST /v1/batches/{batch}/resume` it first" in answer.json["detail"]


def test_names_that_would_turn_the_page_around_are_spelt_out(working: Platform) -> None:
    """A key is anybody's text: the page shows what it is, and its form still sends it as it is."""
    key = "safe\u202egpj.png"
    working.world.source.put(key, b"corrupt")
    with working.server() as (api, _):
        asked = {"source": working.source, "destination": working.destination, "recipe": "light", "photos": [key]}
        batch = api("POST", "/v1/batches", asked).json["batch"]
        api.ended(batch)
        page = api("GET", f"/batches/{batch}").data.decode()
        assert '<h3 class="place">safe\\u{202e}gpj.png</h3>' in page
        assert page.count("\u202e") == 1 and f'name="key" value="{key}"' in page
        assert "Then retry the batch." in page and "run apf" not in page
