"""Parse the JSON that stores send when an object was written.

AWS S3 records (also inside SNS, and as EventBridge sends them), what MinIO, RustFS and Ceph make of them, and the
webhook of a SeaweedFS filer. docs/events.md names the documents; tests/producer/events/samples.py has an event of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from producer.events.formats import seaweedfs
from producer.events.models import Created, MalformedEvent, Removed, dictionary, text, unquoted
from workers.errors import InvalidKey
from workers.store.base import check_key

#: Twice the largest message that SQS carries by default; real ones have one or two kilobytes.
MAX_BODY_BYTES = 512 * 1024
#: Objects in one message. Stores send one.
MAX_RECORDS = 1000
#: SNS wraps S3's message as text in its own, once.
MAX_WRAPPINGS = 2

#: Events that make an object's bytes new. MinIO has names of this family for tags and locks, too.
CREATED = {f"ObjectCreated:{how}" for how in ("Put", "Post", "Copy", "CompleteMultipartUpload")}
REMOVED = ("ObjectRemoved:", "LifecycleExpiration:")
#: Of SNS itself. Nothing is ever fetched from the URL in it.
SUBSCRIPTIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")

Change = Created | Removed | None


@dataclass
class Notice:
    """One message of a store, understood."""

    created: list[Created] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    #: Records of other matters, such as tags, and tests.
    other: int = 0
    #: The error of each record that cannot be understood.
    malformed: list[str] = field(default_factory=list)


def understand(body: bytes | str) -> Notice:
    """Return what a message says. One bad record does not spoil the others.

    Raises:
        MalformedEvent: it is too large, is no JSON, has no form that is known, or not one good record.
    """
    notice = Notice()
    for count, record in enumerate(_records(_document(body), MAX_WRAPPINGS)):
        if count >= MAX_RECORDS:
            raise MalformedEvent(f"over {MAX_RECORDS} objects in one message: send fewer")
        try:
            change = _change(dictionary(record, "a record"))
            if change:
                _check(change.key)
        except MalformedEvent as error:
            notice.malformed.append(str(error))
            continue
        match change:
            case Created():
                notice.created.append(change)
            case Removed():
                notice.removed.append(change)
            case None:
                notice.other += 1
    if notice.malformed and not (notice.created or notice.removed or notice.other):
        raise MalformedEvent(notice.malformed[0])
    return notice


def _check(key: str) -> None:
    try:
        check_key(key)
    except InvalidKey as error:  # whose words hold the key, which is for no log
        raise MalformedEvent(f"an object's key of {len(key)} characters is more than S3 allows, or empty") from error


def _document(body: bytes | str) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise MalformedEvent(f"{len(body)} bytes, over the {MAX_BODY_BYTES} that an event may have")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedEvent(f"no JSON: {str(error)[:100]}") from error


def _records(document: Any, wrappings: int) -> Iterator[Any]:
    """Yield the single records of a message, each still in its store's form."""
    match document:
        case {"Records": list() as records} | {"Event": list() as records}:  # the latter is MinIO's for Redis
            yield from records
        case {"Type": "Notification", "Message": str() as message} if wrappings:
            yield from _records(_document(message), wrappings - 1)
        case list() as parts if wrappings:
            for part in parts:
                yield from _records(part, wrappings - 1)
        case dict():
            yield document
        case _:
            raise MalformedEvent(f"a {type(document).__name__} is no event: expected an object with Records")


def _change(record: dict[str, Any]) -> Change:
    match record:
        case {"eventName": str() as name, "s3": dict() as s3}:
            return _s3(record, name.removeprefix("s3:"), s3)
        case {"detail-type": str() as kind, "detail": dict() as detail}:
            return _eventbridge(record, kind, detail)
        case {"event_type": str(), "key": str() as path, "message": dict() as message}:
            return seaweedfs.change(path, message)
        case {"Event": "s3:TestEvent"}:
            return None
        case {"Type": kind} if kind in SUBSCRIPTIONS:
            return None
        case _:
            raise MalformedEvent(f"no known form: {', '.join(map(repr, list(record)[:5])) or 'empty'}"[:200])


def _s3(record: dict[str, Any], name: str, s3: dict[str, Any]) -> Change:
    if name not in CREATED and not name.startswith(REMOVED):
        return None
    bucket = text(dictionary(s3.get("bucket"), "s3.bucket").get("name"), "s3.bucket.name")
    item = dictionary(s3.get("object"), "s3.object")
    key = text(item.get("key"), "s3.object.key")
    if record.get("eventSource") != "ceph:s3":  # which alone sends the key as it is
        key = decoded(key)
    if name not in CREATED:
        return Removed(bucket, key)
    return Created(bucket, key, unquoted(item.get("eTag", item.get("etag"))), _time(record.get("eventTime")))


def _eventbridge(record: dict[str, Any], kind: str, detail: dict[str, Any]) -> Change:
    if record.get("source") != "aws.s3" or kind not in ("Object Created", "Object Deleted"):
        return None
    bucket = text(dictionary(detail.get("bucket"), "detail.bucket").get("name"), "detail.bucket.name")
    item = dictionary(detail.get("object"), "detail.object")
    key = text(item.get("key"), "detail.object.key")  # not encoded, unlike S3's own
    if kind == "Object Deleted":
        return Removed(bucket, key)
    return Created(bucket, key, unquoted(item.get("etag", item.get("eTag"))), _time(record.get("time")))


def decoded(key: str) -> str:
    """Return a key as S3 encodes it for events: like a form, with + for a space.

    Raises:
        MalformedEvent: it is no UTF-8.
    """
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedEvent("an object's key is no UTF-8 once it is decoded") from error


def _time(value: Any) -> datetime | None:
    """When it happened; None where that is not said, or not as ISO 8601. It is for the metrics alone."""
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
