"""Sign and verify webhooks as https://www.standardwebhooks.com has it; any library of that name does the other side."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105  what comes before one
#: Of a secret, decoded; the standard's own bounds.
SECRET_BYTES = range(24, 65)


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the keys of secrets with blanks between.

    Raises:
        ValueError: one is malformed; it is not told which text it has.
    """
    keys = []
    for number, secret in enumerate(text.split(), start=1):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
            raise ValueError(
                f"secret {number} is not {SECRET_PREFIX} and the base64 of {SECRET_BYTES.start} to "
                f'{SECRET_BYTES.stop - 1} bytes: make one by  echo "{SECRET_PREFIX}$(openssl rand -base64 32)"'
            )
        keys.append(key)
    return tuple(keys)


def signed_headers(message_id: str, body: bytes, keys: Sequence[bytes], moment: datetime) -> dict[str, str]:
    """Return the three headers that prove a body's sender and moment; a signature for each key."""
    timestamp = str(int(moment.timestamp()))
    signatures = [base64.b64encode(one).decode() for one in digests(message_id.encode(), timestamp, body, keys)]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def digests(message_id: bytes, timestamp: str, body: bytes, keys: Sequence[bytes]) -> list[bytes]:
    """Return a body's signature by each key: the HMAC-SHA256 of "id.timestamp.body"."""
    return [hmac.digest(key, b".".join((message_id, timestamp.encode(), body)), hashlib.sha256) for key in keys]


def given_signatures(header: str) -> list[bytes]:
    """Return the signatures that a `webhook-signature` header holds, the first eight; empty for those of no known
    kind.
    """
    return [_decoded(*part.partition(",")[::2]) for part in header.split()[:8]]


def _decoded(version: str, signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""
