"""Take photos out of a ledger object's JSON: their lines, hashes of them, and their names in texts.

Whatever object it is: one that a later version or another part of the product writes below the ledger is covered, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

from workers.core.records import FORGOTTEN, PhotoReport, Totals
from workers.errors import NewerRecord
from workers.ledger.jsonl import VERSION
from workers.store import AFTER_ALL

#: Texts that name places, processes, recipes and other photos; this one's name may be a part of one by chance.
PLACES = frozenset(
    {"id", "source", "destination", "recipe", "batch", "batch_url", "tenant", "queue", "lane", "schedule", "name",
     "worker", "host", "planner", "callback", "salt", "key", "etag", "exclude"}
)  # fmt: skip
#: What stands for a key that tells where a listing was: as if it had not come there, or, of a plan, as if the plan was
#: left from an earlier planner.
POSITIONS = {"cursor": "", "upto": "", "photo": "", "after": AFTER_ALL}


@dataclass(frozen=True)
class Names:
    """Photos to take out, in all forms in which something names them."""

    keys: frozenset[str]
    #: Digests, as `workers.batches.plan.key_digest` and `workers.schedules.outcome.digest` make them.
    hashes: frozenset[str] = frozenset()
    _texts: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, keys: Collection[str], etags: Collection[tuple[str, str]] = ()) -> Names:
        """Return them of these keys; `etags`: known versions, as (key, ETag)."""
        texts = [*keys, *(f"{key}\0{etag}" for key, etag in etags)]
        return cls(frozenset(keys), frozenset(_digest(text) for text in texts))

    def is_entry(self, value: object, field: str) -> bool:
        """Return whether an entry of a list is of such a photo, and goes."""
        if isinstance(value, dict):
            return value.get("key") in self.keys
        if not isinstance(value, str):
            return False
        named = value.removeprefix("/") if field == "exclude" else value  # a pattern that names one photo
        return named in self.keys or value in self.hashes

    def reworded(self, text: str) -> str:
        """Return a text for people without such names."""
        if text not in self._texts:
            self._texts[text] = self._pattern.sub(FORGOTTEN, text)
        return self._texts[text]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        forms = {form for key in self.keys for form in (key, quote(key, errors="replace"), repr(key)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def redacted(name: str, data: bytes, names: Names) -> bytes | None:
    """Return an object's bytes without these photos; None where it is torn and names one, and has to go.

    Raises:
        NewerRecord: it names one, and a newer version wrote it.
    """
    try:
        lines = [json.loads(line) for line in data.splitlines()] if name.endswith(".jsonl") else [json.loads(data)]
    except ValueError:
        return None if names.reworded(text := data.decode("utf-8", "replace")) != text else data
    if name.endswith(".jsonl"):
        clean = _lines(name, lines, names)
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in clean)
    else:
        clean = [_batch(lines[0], names) if name.endswith("/batch.json") else walked(lines[0], "", names)]
        text = json.dumps(clean[0], ensure_ascii=False, indent=1)
    return data if clean == lines else text.encode("utf-8", "surrogatepass")


def walked(value: Any, field: str, names: Names) -> Any:
    """Return a JSON value without these photos; `field` is the name under which it stands."""
    match value:
        case dict() if field != "recipe":
            return {key: walked(one, key, names) for key, one in value.items()}
        case list():
            return [walked(one, field, names) for one in value if not names.is_entry(one, field)]
        case str() if value in names.keys and field not in PLACES:
            return POSITIONS.get(field, FORGOTTEN)
        case str() if field not in PLACES and field not in POSITIONS:
            return names.reworded(value)
    return value


def _batch(record: Any, names: Names) -> Any:
    if not isinstance(record, dict):
        return record
    # Named photos keep their places: plans that are made anew are cut as before.
    named = [
        {**one, "key": FORGOTTEN, "etag": ""} if names.is_entry(one, "named") else one
        for one in record.get("named", ())
    ]
    return walked({**record, "named": named} if "named" in record else record, "", names)


def _lines(name: str, lines: list[Any], names: Names) -> list[Any]:
    header, *records = lines
    left = [record for record in records if not names.is_entry(record, "")]
    clean = [walked(header, "", names), *(walked(record, "", names) for record in left)]
    if clean == lines:
        return lines
    if header.get("version", VERSION) > VERSION:
        raise NewerRecord(f"{name} is of version {header['version']}, newer than {VERSION}: upgrade this installation")
    clean[0]["count"] = len(left)
    if clean[0].get("totals"):
        totals = Totals.of(PhotoReport.model_validate(record) for record in left)
        clean[0]["totals"] = {**clean[0]["totals"], **totals.model_dump()}
    return clean


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
