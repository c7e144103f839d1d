"""Marks of forgotten photos, in the ledger: no later batch, shard or schedule makes their outputs again.

    <prefix>/forgotten/salt.json        32 random bytes, made with the first mark
                      /keys/<digest>    one for each key, named by its HMAC-SHA256 under the salt

No object names a forgotten key. Whoever reads the ledger can ask of a key that he knows or guesses whether it was
forgotten, as every worker does; the keys themselves cannot be read back.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pydantic import BaseModel

from workers.core.clock import now
from workers.core.records import parse
from workers.errors import LedgerError, NoConditions
from workers.ledger.batch_ledger import Ledger, all_of
from workers.store.base import put_if_absent

FOLDER = "forgotten"
#: Of no more marks than a page of a listing has, all are listed; of more, each key's is asked for, up to so many keys.
PAGE, ASKED = 1000, 256


class _Salt(BaseModel):
    salt: str
    created_at: str


@dataclass(frozen=True)
class ForgottenKeys:
    """The marks of one ledger, as they are when they are asked for. All methods raise StoreError."""

    ledger: Ledger
    salt: bytes

    def name(self, key: str) -> str:
        """Return the name of a key's mark."""
        digest = hmac.digest(self.salt, key.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{self._folder}{digest.hex()}"

    def among(self, keys: Collection[str]) -> frozenset[str]:
        """Return those of these keys that are forgotten."""
        names = {key: self.name(key) for key in keys}
        marks = self.ledger.store.list(self._folder)
        found = {info.key for info in islice(marks, PAGE)}
        if len(found) == PAGE and len(keys) <= ASKED:
            heads = all_of(self.ledger.store.head, list(names.values()))
            return frozenset(key for key, head in zip(names, heads, strict=True) if head)
        found |= {info.key for info in marks}
        return frozenset(key for key, name in names.items() if name in found)

    @cached_property
    def every(self) -> frozenset[str]:
        """The names of all marks, as they were when it was first asked for."""
        return frozenset(info.key for info in self.ledger.store.list(self._folder))

    @property
    def _folder(self) -> str:
        return f"{self.ledger.prefix}/{FOLDER}/keys/"


def forgotten_in(ledger: Ledger) -> ForgottenKeys | None:
    """Return the ledger's marks; None where nothing was ever forgotten, which costs one request."""
    data = ledger.read(_salt_key(ledger))
    return ForgottenKeys(ledger, bytes.fromhex(parse(_Salt, data, LedgerError, "salt.json").salt)) if data else None


def forgotten_among(ledger: Ledger, keys: Collection[str]) -> frozenset[str]:
    """Return those of these keys that are forgotten; raises StoreError."""
    marks = forgotten_in(ledger) if keys else None
    return marks.among(keys) if marks else frozenset()


def mark(ledger: Ledger, keys: Collection[str]) -> ForgottenKeys:
    """Mark keys as forgotten, before anything of them is deleted; raises StoreError."""
    marks = forgotten_in(ledger) or _begun(ledger)
    moment = now().isoformat(timespec="seconds").encode()
    all_of(lambda key: ledger.store.put(marks.name(key), moment, content_type="text/plain"), list(keys))
    return marks


def unmark(ledger: Ledger, keys: Collection[str]) -> int:
    """Take marks away; returns how many there were."""
    marks = forgotten_in(ledger)
    marked = sorted(marks.among(keys)) if marks else []
    if marks:
        all_of(lambda key: ledger.store.delete(marks.name(key)), marked)
    return len(marked)


def _begun(ledger: Ledger) -> ForgottenKeys:
    record = _Salt(salt=secrets.token_hex(32), created_at=now().isoformat(timespec="seconds"))
    key, data = _salt_key(ledger), record.model_dump_json().encode()
    try:
        put_if_absent(ledger.store, key, data)
    except NoConditions:  # not where the store did not answer: another's salt would be written over
        ledger.store.put(key, data, content_type="application/json")
    found = forgotten_in(ledger)  # somebody else's, who was quicker
    if found is None:
        raise LedgerError(f"{key} was written to {ledger.store.url} and is not there: the store loses what it is given")
    return found


def _salt_key(ledger: Ledger) -> str:
    return f"{ledger.prefix}/{FOLDER}/salt.json"
