"""Whatever dies, each photo ends with exactly one correct outcome."""

import hashlib


def cheap_output(data: bytes) -> bytes:
    """What the cheap filter makes of a photo: the same bytes from the same bytes, and never the source's."""
    return b"protected " + hashlib.sha256(data).hexdigest().encode() + data[::-1]
