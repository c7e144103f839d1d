"""Authenticate events over HTTP: signed as https://www.standardwebhooks.com says, or with a token.

Stores such as MinIO can only send a fixed Authorization header.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workers.errors import SettingsError, WorkerError
from workers.webhooks.signing import SECRET_PREFIX, digests, given_signatures

#: Seconds that a sender's clock may differ from ours, and that a request may be repeated.
TOLERANCE_S = 300
#: Fewer bytes can be guessed.
MIN_SECRET_BYTES = 16


class Unauthorized(WorkerError):
    """Raised when a request is not signed, wrongly signed, or signed too long ago."""


@dataclass(frozen=True, repr=False)
class Authenticator:
    """Whom to let in. Several secrets or tokens are for the time of a change."""

    secrets: tuple[bytes, ...] = ()
    tokens: tuple[bytes, ...] = ()
    clock: Callable[[], float] = time.time

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise Unauthorized unless the request's token or signature is right.

        Args:
            headers: by name in lower case.
        """
        if "webhook-signature" in headers:
            self._check_signature(headers, body)
        elif "authorization" in headers:
            self._check_token(headers["authorization"])
        else:
            raise Unauthorized("no signature and no token: send webhook-signature or Authorization")

    def _check_token(self, header: str) -> None:
        scheme, _, rest = header.strip().partition(" ")
        given = (rest if scheme.lower() == "bearer" and rest else header).strip().encode("utf-8", "replace")
        if not _any_equal(given, self.tokens):
            raise Unauthorized("wrong token")

    def _check_signature(self, headers: Mapping[str, str], body: bytes) -> None:
        stamp = headers.get("webhook-timestamp", "")
        if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 12):
            raise Unauthorized("webhook-timestamp is no number of seconds since 1970")
        if abs(self.clock() - int(stamp)) > TOLERANCE_S:
            raise Unauthorized(f"webhook-timestamp is over {TOLERANCE_S} s away from now: repeated, or a wrong clock")
        right = digests(headers.get("webhook-id", "").encode("latin-1", "replace"), stamp, body, self.secrets)
        given = given_signatures(headers["webhook-signature"])
        # No short cut: the time taken must not tell which one was nearly right.
        if not sum(_any_equal(signature, right) for signature in given):
            raise Unauthorized("wrong signature")


def authenticator_for(secrets: str, tokens: str) -> Authenticator:
    """Return an authenticator for secrets and tokens with spaces between.

    Args:
        secrets: `whsec_` and base64, or any text.

    Raises:
        SettingsError: there is none, or one is too short or no base64.
    """
    if not secrets.split() and not tokens.split():
        raise SettingsError(
            "--http needs a secret, or anybody could hand in events: set APF_LISTEN_SECRET to whsec_ and the base64 of "
            "24 or more random bytes, or APF_LISTEN_TOKEN for stores that cannot sign"
        )
    keys = tuple(_secret(part) for part in secrets.split())
    words = tuple(part.encode() for part in tokens.split())
    for name, values in (("APF_LISTEN_SECRET", keys), ("APF_LISTEN_TOKEN", words)):
        if any(len(value) < MIN_SECRET_BYTES for value in values):
            raise SettingsError(f"{name} has under {MIN_SECRET_BYTES} bytes, and could be guessed: take a longer one")
    return Authenticator(keys, words)


def _secret(text: str) -> bytes:
    if not text.startswith(SECRET_PREFIX):
        return text.encode()
    try:
        raw = text.removeprefix(SECRET_PREFIX)
        return base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(f"APF_LISTEN_SECRET begins with {SECRET_PREFIX}, and goes on with no base64") from None


def _any_equal(given: bytes, right: Sequence[bytes]) -> bool:
    return bool(sum(hmac.compare_digest(given, one) for one in right))
