"""What logs must not tell: photos' keys in full, credentials in URLs, presigned queries.

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

#: Shorter keys are hidden only where they stand in quotes: they could be any word.
SHORTEST_BARE_KEY = 6

_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*@")
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


def masked(text: str) -> str:
    """The text without what must not be told."""
    text = _PRESIGNED.sub("?(presigned)", _CREDENTIALS.sub("(credentials)@", text))
    with _lock:
        keys = sorted(_hidden, key=len, reverse=True)
    for key in keys:
        text = text.replace(repr(key), alias(key))
        if len(key) >= SHORTEST_BARE_KEY:
            text = text.replace(key, alias(key))
    return text


def alias(key: str) -> str:
    """How a log names a photo: whoever has the key can find it."""
    return f"photo-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def install() -> None:
    """From now on every record of this process is masked; a second call changes nothing."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def make_masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = masked(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = masked(_FORMAT.formatException(record.exc_info))
        return record

    make_masked.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_masked)
