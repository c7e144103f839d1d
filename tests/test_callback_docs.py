"""docs/callbacks.md: its receivers take what workers send, and its example is an event."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.receivers import SECRETS
from workers.callbacks import throttle
from workers.callbacks.payload import LONGEST_REASON, MOST_FAILURES, trial
from workers.callbacks.retry_policy import FIRST_DELAY_S, REFUSED_TRIES, delay_after
from workers.config.settings import Settings
from workers.webhooks.signing import parse_secrets, signed_headers

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "callbacks.md").read_text()
FLASK, BY_HAND = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
EXAMPLE, STATE = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))

BODY = trial()


@pytest.fixture
def headers() -> dict[str, str]:
    """Of a delivery that is made now."""
    return signed_headers("msg_1", BODY, parse_secrets(" ".join(SECRETS)), datetime.now(UTC))


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(code, names)
    return names


@pytest.mark.parametrize("secret", SECRETS)
def test_flask_receives_it_once(secret: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With either secret; a second delivery is known, a changed one refused."""
    monkeypatch.setenv("APF_SECRET", secret)
    names = run(FLASK)
    client = names["app"].test_client()
    answers = [client.post("/hooks/apf", data=BODY, headers=headers).status_code for _ in range(2)]
    assert (answers, names["seen"]) == ([204, 204], {"msg_1"})
    assert client.post("/hooks/apf", data=BODY + b" ", headers=headers).status_code == 401


def test_by_hand_it_is_verified_too(headers: dict[str, str]) -> None:
    verified = run(BY_HAND)["verified"]
    for secret in SECRETS:
        assert verified(secret, headers, BODY)["type"] == "test"
    with pytest.raises(ValueError, match="fits"):
        verified(SECRETS[0], headers, BODY + b" ")
    old = signed_headers("msg_1", BODY, parse_secrets(SECRETS[0]), datetime.now(UTC) - timedelta(minutes=6))
    with pytest.raises(ValueError, match="old"):
        verified(SECRETS[0], old, BODY)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_by_hand_a_request_without_a_header_is_refused(missing: str, headers: dict[str, str]) -> None:
    """By the error that is documented, as a receiver that fails otherwise answers 500 to anyone."""
    del headers[missing]
    with pytest.raises(ValueError, match="no signature fits"):
        run(BY_HAND)["verified"](SECRETS[0], headers, BODY)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_by_hand_headers_of_any_text_are_refused(name: str, headers: dict[str, str]) -> None:
    """Servers give headers' bytes as Latin-1, so there may be other letters than ASCII's."""
    for text in ("", "v1,\xe4", "\xe4 \xff", "v1,"):
        with pytest.raises(ValueError, match="no signature fits"):
            run(BY_HAND)["verified"](SECRETS[0], {**headers, name: text}, BODY)


def test_the_example_is_an_event() -> None:
    jsonschema.validate(EXAMPLE, json.loads((ROOT / "docs" / "callback.schema.json").read_text()))
    data = EXAMPLE["data"]
    assert data["photos"] == sum(data[name] for name in ("protected", "no_face", "skipped", "failed", "missing"))


def test_the_state_has_the_codes_names() -> None:
    from workers.ledger.callback_state import Callback  # noqa: PLC0415

    assert set(STATE["callback"]) == set(Callback(end=1, id="x").as_json())


def test_settings_and_numbers_are_the_codes() -> None:
    """Each variable of the table is read, and what is said of tries and sizes holds."""
    told = set(re.findall(r"`(APF_CALLBACK_\w+)`", TEXT))
    assert told == {f"APF_{name.upper()}" for name in Settings.model_fields if name.startswith("callback_")}
    assert f"first {MOST_FAILURES}, with reasons cut at {LONGEST_REASON}" in TEXT
    assert f"given up after {REFUSED_TRIES} tries, which is about ten minutes" in TEXT
    assert 6 < sum(delay_after(n) for n in range(1, REFUSED_TRIES)) / 60 < 11
    assert f"after {FIRST_DELAY_S:.0f} s," in TEXT
    assert f"over {throttle.SLOW_S:.0f} s to answer" in TEXT
    assert f"more than {throttle.SLOW_BUDGET_S:.0f} s of a minute" in TEXT
    assert f"more than {throttle.BUDGET_S:.0f} s of a minute" in TEXT
    assert (throttle.REST_S, throttle.MINUTE_S) == (60, 60)
