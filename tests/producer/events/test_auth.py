"""Who is let in: signatures are compared with Standard Webhooks' own library."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from producer.events.auth import TOLERANCE_S, Unauthorized, authenticator_for
from workers.errors import SettingsError

SECRET = "whsec_" + base64.b64encode(b"twenty-four random bytes").decode()
TOKEN = "a-token-that-nobody-guesses"
NOW = 1_700_000_000


def signed(body: str, secret: str = SECRET, at: int = NOW, message: str = "msg_1") -> dict[str, str]:
    """The headers that a sender with that library sends."""
    signature = Webhook(secret).sign(message, datetime.fromtimestamp(at, UTC), body)
    return {"webhook-id": message, "webhook-timestamp": str(at), "webhook-signature": signature}


def check(
    headers: dict[str, str], body: str = "{}", secrets: str = SECRET, tokens: str = TOKEN, now: int = NOW
) -> None:
    authenticator = authenticator_for(secrets, tokens)
    type(authenticator)(authenticator.secrets, authenticator.tokens, clock=lambda: now).check(headers, body.encode())


def test_a_signed_request_is_let_in() -> None:
    """Also when it is signed with one of two secrets, or twice, while a secret is changed."""
    check(signed("{}"))
    other = "whsec_" + base64.b64encode(b"another secret of some length").decode()
    check(signed("{}"), secrets=f"{other} {SECRET}")
    headers = signed("{}")
    check({**headers, "webhook-signature": "v1a,other v1,AAAA " + headers["webhook-signature"]})


@pytest.mark.parametrize("drift", [-TOLERANCE_S, TOLERANCE_S])
def test_a_clock_may_differ_a_little(drift: int) -> None:
    """Five minutes either way, as the standard says."""
    check(signed("{}"), now=NOW + drift)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed('{"other": 1}'),
        signed("{}", secret="whsec_" + base64.b64encode(b"not the secret that is asked").decode()),
        {**signed("{}"), "webhook-id": "msg_2"},
        {**signed("{}"), "webhook-timestamp": str(NOW + 1)},
        {**signed("{}"), "webhook-timestamp": "now"},
        {**signed("{}"), "webhook-timestamp": "-1"},
        {**signed("{}"), "webhook-timestamp": "1" * 400},
        {**signed("{}"), "webhook-timestamp": ""},
        {**signed("{}"), "webhook-signature": ""},
        {**signed("{}"), "webhook-signature": "v1,"},
        {**signed("{}"), "webhook-signature": "v1,%%%"},
        {**signed("{}"), "webhook-signature": signed("{}")["webhook-signature"].removeprefix("v1,")},
        {**signed("{}"), "webhook-signature": "\u20ac"},
        # A bad signature is not made good by a token beside it.
        {**signed("x"), "authorization": f"Bearer {TOKEN}"},
        {"authorization": "Bearer "},
        {"authorization": ""},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {SECRET}"},
    ],
    ids=str,
)
def test_others_are_not(headers: dict[str, str]) -> None:
    """Whatever is missing, changed, or of another kind."""
    with pytest.raises(Unauthorized):
        check(headers)


@pytest.mark.parametrize("later", [TOLERANCE_S + 1, -TOLERANCE_S - 1, 10**9])
def test_an_old_request_is_not_let_in_again(later: int) -> None:
    """Whoever recorded it cannot repeat it for ever; nor is one from the future kept for later."""
    with pytest.raises(Unauthorized, match="webhook-timestamp"):
        check(signed("{}"), now=NOW + later)


def test_a_token_is_let_in_with_bearer_or_without() -> None:
    """MinIO sends the header as it is told, newer versions without a word before."""
    check({"authorization": f"Bearer {TOKEN}"})
    check({"authorization": TOKEN})
    check({"authorization": f"bearer {TOKEN}"}, tokens=f"the-token-before-this-one {TOKEN}")


def test_where_no_token_is_set_none_opens() -> None:
    """Not even an empty one."""
    for header in ("", "Bearer", "Bearer ", TOKEN):
        with pytest.raises(Unauthorized):
            check({"authorization": header}, tokens="")


@pytest.mark.parametrize(
    ("secrets", "tokens", "message"),
    [
        ("", " ", "needs a secret"),
        ("whsec_no-base64!", "", "base64"),
        ("whsec_AAAA", "", "16 bytes"),
        ("sh0rt", "", "16 bytes"),
        ("", "sh0rt", "16 bytes"),
    ],
)
def test_a_secret_that_protects_nothing_is_refused(secrets: str, tokens: str, message: str) -> None:
    """At the start; the error does not tell it."""
    with pytest.raises(SettingsError, match=message) as refused:
        authenticator_for(secrets, tokens)
    assert "sh0rt" not in str(refused.value)


HEADERS = st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"])


@given(headers=st.dictionaries(HEADERS, st.text(max_size=60)), body=st.binary(max_size=40))
def test_no_header_opens_or_breaks_it(headers: dict[str, str], body: bytes) -> None:
    """Anything but the right one is refused, with the one error for that."""
    with pytest.raises(Unauthorized):
        authenticator_for(SECRET, TOKEN).check(headers, body)
