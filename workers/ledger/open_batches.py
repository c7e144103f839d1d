"""Index of open batches: a periodic task finds them without searching every prefix of a bucket.

`<root>/.apf/open/<id>` holds a batch's URL. The root is `APF_LEDGER_URL`, or the allowed URL that the destination lies
under, or the destination itself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta

from workers.config.access import EVERYTHING, check_allowed
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import Batch
from workers.errors import NotFound, SettingsError, WorkerError
from workers.ledger.batch_ledger import Ledger, open_batch
from workers.store import ObjectInfo, Store, inside, open_store

log = logging.getLogger(__name__)

OPEN = ".apf/open/"
#: After so long a batch that is registered has its record, or never will.
STALE_S = 24 * 3600.0


def roots(settings: Settings) -> list[str]:
    """Where open batches are registered, as far as the settings say; others have to be named."""
    if settings.ledger_root:
        return [settings.ledger_root]
    return [url for url in settings.allowed if url != EVERYTHING]


def check_registry(settings: Settings) -> None:
    """Raise SettingsError where producers and workers of a queue would not look for open batches in one place."""
    if settings.broker_url and not roots(settings):
        raise SettingsError(
            "nothing says where open batches are registered, so that none could be found and reconciled: set "
            "APF_ALLOWED_URLS to buckets and folders (not *), or APF_LEDGER_URL, alike for producers, workers and beat"
        )


def register(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Note that the batch is open; raises StoreError."""
    url = ledger.batch_url(batch.id).encode()
    _root(batch.destination, settings).put(OPEN + batch.id, url, content_type="text/plain")


def is_registered(destination: str, batch_id: str, settings: Settings) -> bool:
    """Return whether a batch into this destination is noted as open: it is for a while after it is done, too."""
    return _root(destination, settings).head(OPEN + batch_id) is not None


def open_ids(destination: str, settings: Settings) -> set[str]:
    """Return the batches noted as open where those of this destination are; some may be of others, and some be done."""
    return {info.key.removeprefix(OPEN) for info in _root(destination, settings).list(OPEN)}


def unregister(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Unregister a batch that is done; silent where it was not registered. A forged record takes no other batch's entry
    away.
    """
    root = _root(batch.destination, settings)
    with suppress(NotFound):
        if root.get(OPEN + batch.id, max_bytes=4096).data == ledger.batch_url(batch.id).encode():
            root.delete(OPEN + batch.id)


def open_batches(urls: Iterable[str], settings: Settings) -> Iterator[tuple[Ledger, str]]:
    """Yield the batches that are registered under these URLs. Entries that cannot be read are logged and left out."""
    for url in urls:
        try:
            store = open_store(url, s3=settings.s3)
            entries = list(store.list(OPEN))
            # A pass that runs out of time leaves out others each time.
            random.shuffle(entries)
        except WorkerError as error:
            log.warning("open batches of %s cannot be listed: %s", url, error)
            continue
        for entry in entries:
            key = entry.key
            try:
                ledger, batch_id = _opened(store, key, settings)
                if _is_stale(entry) and not ledger.has_batch(batch_id):
                    store.delete(key)  # its producer died in between, or the batch was deleted by hand
                    continue
                yield ledger, batch_id
            except NotFound:
                continue  # done meanwhile
            except (WorkerError, UnicodeDecodeError) as error:
                log.warning("open batch %s of %s is left out: %s", key, url, error)


def _is_stale(entry: ObjectInfo) -> bool:
    return entry.last_modified is not None and now() - entry.last_modified > timedelta(seconds=STALE_S)


def _opened(store: Store, key: str, settings: Settings) -> tuple[Ledger, str]:
    url = store.get(key, max_bytes=4096).data.decode()
    check_allowed(url, settings.allowed_for_batches, what="batch")
    return open_batch(url, s3=settings.s3)


def _root(destination: str, settings: Settings) -> Store:
    within = [url for url in roots(settings) if inside(destination, url)]
    url = settings.ledger_root or max(within, key=len, default=destination)
    return open_store(url, s3=settings.s3, create=True)
