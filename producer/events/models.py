"""Events as all formats and sources give them."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from workers.errors import WorkerError


class MalformedEvent(WorkerError):
    """Raised when a message is no event that we know. Permanent: it says the same the next time.

    Its words are logged, so they hold no key.
    """


@dataclass(frozen=True)
class Created:
    """An object's bytes are new."""

    bucket: str
    #: As the store has it, decoded.
    key: str
    #: Without quotes; empty where the event does not say it.
    etag: str = ""
    #: With its zone; None where the event does not say it.
    at: datetime | None = None


@dataclass(frozen=True)
class Removed:
    """An object, or a version of it, is gone."""

    bucket: str
    key: str


def dictionary(value: Any, what: str) -> dict[str, Any]:
    """Return the value, if it is a JSON object; raises MalformedEvent."""
    if not isinstance(value, dict):
        raise MalformedEvent(f"{what} is no object, but {type(value).__name__}")
    return value


def text(value: Any, what: str) -> str:
    """Return the value, if it is text with something in it; raises MalformedEvent."""
    if not isinstance(value, str) or not value:
        raise MalformedEvent(f"{what} is {'empty' if value == '' else 'no text, but ' + type(value).__name__}")
    return _unicode(value, what)


def unquoted(etag: Any) -> str:
    """Return an ETag without the quotes that some stores leave around it; empty for what is no text.

    Raises:
        MalformedEvent: it holds half a character.
    """
    return _unicode(etag, "the ETag").removeprefix("W/").strip('"') if isinstance(etag, str) else ""


def unforeseen(error: Exception) -> str:
    """Return what broke, and where: without the error's own words, which may hold a photo's key."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"a bug: {type(error).__name__} in {Path(at.filename).name}, line {at.lineno}"


def _unicode(value: str, what: str) -> str:
    # JSON can say half a character ("\ud800"), which no store, queue or log can write.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedEvent(f"{what} is no Unicode text: it holds half a character") from error
    return value
