"""Forget photos, and remember them again, for whoever may: of a tenant's token its own photos alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from urllib.parse import unquote

from producer.server.auth import check_may_remember
from producer.server.places import tenants_of
from producer.server.problems import NoSuchBatch
from producer.server.routes.photos import may_see
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.batches.create import ledgers_of
from workers.deletion.forget import Forgotten, forget, remember
from workers.errors import LedgerError, NotAllowed
from workers.ledger.batch_ledger import all_of
from workers.status.find_photo import find_photo
from workers.store import ObjectInfo, canonical_url, inside, open_store
from workers.store.output_metadata import is_output

#: Shards that began before are waited for so long; whoever asks again later goes on.
WAIT_S = 20.0


def forget_photos(
    the: Services, grant: Grant, destination: str, keys: Sequence[str], batch: str | None = None
) -> tuple[Forgotten, list[str]]:
    """Forget photos; returns what was done, and the keys that are none of the grant's holder's, which were left alone.

    Args:
        batch: of which failed photos are; an output says by itself whose it is.

    Raises:
        NotAllowed: the destination is not the holder's, or not the server's.
        As `workers.deletion.forget.forget`.
    """
    place = the.checked(destination, "destination")
    _check_keys(grant, place, keys)
    with the.long_acts.one(tenants_of(grant)):
        mine = list(keys) if grant.tenants is None else _own(the, grant, place, keys, batch)
        others = sorted(set(keys) - {*mine})
        if not mine:
            return Forgotten(0, 0, 0), others
        try:
            found = forget(place, mine, the.settings, actor=grant.name, wait_s=WAIT_S)
        finally:
            _drop(the, place)
    for ledger in ledgers_of(place, the.settings):
        the.index.remove(ledger.prefix, found.batches)
    return found, others


def remember_photos(the: Services, grant: Grant, destination: str, keys: Sequence[str]) -> int:
    """Let photos be protected again; raises as `forget_photos`, and Problem (403)."""
    place = the.checked(destination, "destination")
    _check_keys(grant, place, keys)
    check_may_remember(grant)
    with the.long_acts.one(tenants_of(grant)):
        return remember(place, keys, the.settings, actor=grant.name)


def _check_keys(grant: Grant, place: str, keys: Collection[str]) -> None:
    """Raise NotAllowed where a photo lies under none of the token's places."""
    own = [canonical_url(url) for url in grant.urls or ()]
    if grant.urls is None or any(inside(place, url) for url in own):
        return
    below = [url.removeprefix(f"{place}/") for url in own if inside(url, place)]
    folders = tuple(f"{unquote(one) if place.startswith('file:') else one}/" for one in below)
    for key in keys:
        if not key.startswith(folders):
            raise NotAllowed(
                f"photo {key!r} of {place} lies under none of the places of token {grant.name!r}: name those below "
                f"{', '.join(grant.urls)}"
            )


def _own(the: Services, grant: Grant, place: str, keys: Sequence[str], batch: str | None) -> list[str]:
    """Return the photos that are of the grant's tenants: by their outputs, their batch, or the token's places."""

    def is_own(key: str, output: ObjectInfo | None) -> bool:
        if output and is_output(output.metadata):
            return may_see(the, grant, place, output.metadata)
        return _is_theirs(the, grant, place, key, batch)

    outputs = all_of(open_store(place, s3=the.settings.s3).head, keys)
    return [key for key, output in zip(keys, outputs, strict=True) if is_own(key, output)]


def _is_theirs(the: Services, grant: Grant, place: str, key: str, batch: str | None) -> bool:
    """Return whether a photo without an output is of the token's places, or of the batch that is named."""
    if grant.urls is not None:
        return True
    with suppress(NoSuchBatch, LedgerError):
        ledger, summary = the.find(grant, batch or "", place)
        return find_photo(ledger, summary.batch, key) is not None
    return False


def _drop(the: Services, place: str) -> None:
    for ledger in ledgers_of(place, the.settings):
        the.board.forget_all(ledger)
