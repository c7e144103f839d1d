"""Redact logs: photos' keys in full, credentials in URLs, presigned queries.

Installed once a process as the factory of log records, so that it holds for every handler, Celery's own too.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from apf.errors import ApfError
from workers.config.settings import load_settings
from workers.core.log_context import PhotoKey, current_context
from workers.errors import WorkerError

#: Shorter keys are hidden only where they stand in quotes: they could be any word.
SHORTEST_BARE_KEY = 6

#: A password may hold slashes, quotes and @: it ends at its word's last @. Bounded: no long line takes for ever.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s:]*:\S{0,4096}@|[^/\s]{0,4096}@)")
_PRESIGNED = re.compile(r"\?[^\s'\"]*(?:X-Amz-|Signature=|AWSAccessKeyId=)[^\s'\"]*", re.IGNORECASE)
_FORMAT = logging.Formatter()

_lock = threading.Lock()
_hidden: Counter[str] = Counter()


@contextmanager
def keys_hidden(keys: Iterable[str]) -> Iterator[None]:
    """While the block runs, these keys appear in logs as a short digest, the same for the same key."""
    mine = list(keys)
    with _lock:
        _hidden.update(mine)
    try:
        yield
    finally:
        with _lock:
            _hidden.subtract(mine)
            for key in mine:
                if _hidden[key] <= 0:
                    del _hidden[key]


def masked(text: str, more_keys: Iterable[str] = ()) -> str:
    """Return the text without what must not be told: credentials, and the keys that are hidden now or given here."""
    text = _PRESIGNED.sub("?(presigned)", _CREDENTIALS.sub("(credentials)@", text))
    with _lock:
        keys = sorted({*_hidden, *more_keys}, key=len, reverse=True)
    for key in keys:
        for form in _forms(key):
            text = text.replace(form, alias(key))
    return text


def _forms(key: str) -> list[str]:
    """How a key may stand in a text: quoted, as it is, inside a longer quoted path, and in a URL."""
    bare = [key, repr(key)[1:-1], quote(key, errors="surrogatepass")]
    return [repr(key), *(form for form in bare if len(form) >= SHORTEST_BARE_KEY)]


def alias(key: str) -> str:
    """How a log names a photo: with the key at hand it can be found."""
    return f"photo-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def install() -> None:
    """From now on every record of this process is masked, and carries what its thread is at.

    A second call changes nothing.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return
    settings = load_settings()
    # Without a queue this process is the `apf` command, whose log is its user's terminal.
    hides_keys = bool(settings.broker_url) and not settings.log_keys

    def make_masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        keys = [arg for arg in record.args or () if isinstance(arg, PhotoKey)] if hides_keys else []
        record.msg, record.args = masked(record.getMessage(), keys), ()
        if record.exc_info and isinstance(record.exc_info[1], (WorkerError, ApfError)):
            record.exc_info = None  # the message holds the reason and its cure; a traceback adds nothing
        if record.exc_info:
            record.exc_text = masked(_FORMAT.formatException(record.exc_info))
        record.apf_at = current_context()
        return record

    make_masked.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_masked)
