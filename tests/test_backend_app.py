"""The application of docs/backend.md takes every callback that a worker may send."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import tutorials
from tests.receivers import SECRETS
from workers.callbacks.payload import Event, trial
from workers.webhooks.signing import parse_secrets, signed_headers

PAGE = Path(__file__).parents[1] / "docs" / "backend.md"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What app.py defines."""
    monkeypatch.setenv("APF_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("APF_CALLBACK_SECRETS", SECRETS[0])
    (block,) = [one for one in tutorials.blocks(PAGE, "python") if 'title="app.py"' in one.info]
    found: dict[str, Any] = {"__name__": "app"}
    exec(block.text, found)
    return found


def told(names: dict[str, Any], event: dict[str, Any]) -> int:
    """The status that a signed event is answered with."""
    body = json.dumps(event).encode()
    headers = signed_headers("msg_1", body, parse_secrets(SECRETS[0]), datetime.now(UTC))
    return int(names["app"].test_client().post("/hooks/apf", data=body, headers=headers).status_code)


def test_a_trial_is_taken_and_changes_nothing(names: dict[str, Any]) -> None:
    """`apf callback test` against it succeeds; so does that of an older worker, whose data is null."""
    event = json.loads(trial())
    assert told(names, event) == 204
    assert told(names, {**event, "data": None}) == 204
    assert names["ready"] == {}


@pytest.mark.parametrize("results", ["listed", "null", "absent"])
def test_a_batch_of_any_size_is_taken(names: dict[str, Any], results: str) -> None:
    """The results of a large batch are null, and whatever is absent is no error."""
    event = {**json.loads(trial()), "type": "batch.done"}
    if results == "null":
        event["data"]["results"] = None
    elif results == "absent":
        del event["data"]["results"]
    assert told(names, event) == 204
    expected = {"test/1.jpg": "protected", "test/2.jpg": "failed"} if results == "listed" else {}
    assert names["ready"] == expected


def test_a_trial_looks_like_a_batchs_end() -> None:
    """Field by field, with sums that add up."""
    data = Event.model_validate_json(trial()).data
    assert data and data.results and data.failures
    assert data.photos == len(data.results) == data.protected + data.failed
    assert {one.key for one in data.failures} == {one.key for one in data.results if one.outcome == "failed"}
