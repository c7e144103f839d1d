"""Events of every store come down to the same few facts, and nothing that is sent breaks the listener."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.events.formats.s3 import MAX_BODY_BYTES, MAX_RECORDS, understand
from producer.events.models import Created, MalformedEvent, Removed
from tests.producer.events import samples
from tests.producer.events.samples import ETAG, s3_record, seaweedfs

HELLO = "5d41402abc4b2a76b9719d911017c592"
MINIO_TIME = datetime(2019, 10, 22, 9, 27, 27, 123000, UTC)
MINIO = Created("uploads", "ann/hello world.jpg", "5fc7298143efe1276d39a3466d4e255f-1", MINIO_TIME)

CREATED: list[tuple[str, Any, Created]] = [
    ("AWS", samples.AWS, Created("uploads", "red floweré+1.jpg", ETAG, datetime(1970, 1, 1, tzinfo=UTC))),
    ("SNS", samples.SNS, Created("uploads", "red floweré+1.jpg", ETAG, datetime(1970, 1, 1, tzinfo=UTC))),
    ("EventBridge", samples.EVENTBRIDGE, Created("uploads", "a b+c%41.jpg", ETAG, datetime(2021, 11, 12, tzinfo=UTC))),
    ("MinIO's webhook", samples.MINIO_WEBHOOK, MINIO),
    ("MinIO's Redis list", samples.MINIO_REDIS, MINIO),
    ("Ceph", samples.CEPH, Created("uploads", "50%+off/my image.jpg", "37b51d194a7513e45b56f6524f2d51f2",
                                   datetime(2019, 11, 22, 13, 47, 35, 124724, UTC))),
    ("SeaweedFS", samples.SEAWEEDFS, Created("uploads", "ann/hello world.jpg", HELLO)),
    ("SeaweedFS, moved", samples.SEAWEEDFS_MOVED, Created("uploads", "bob/hello world.jpg", HELLO)),
]  # fmt: skip


@pytest.mark.parametrize(("event", "wanted"), [case[1:] for case in CREATED], ids=[case[0] for case in CREATED])
def test_an_event_says_which_object_is_new(event: Any, wanted: Created) -> None:
    """Bucket, key as the store has it, ETag without quotes, and time, whoever sent it."""
    notice = understand(json.dumps(event))
    assert notice.created == [wanted]
    assert (notice.removed, notice.other, notice.malformed) == ([], 0, [])


@pytest.mark.parametrize("name", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
@pytest.mark.parametrize("prefix", ["", "s3:"])
def test_every_way_to_write_an_object_counts(name: str, prefix: str) -> None:
    """With the prefix of MinIO and without."""
    assert understand(json.dumps({"Records": [s3_record("a.jpg", f"{prefix}ObjectCreated:{name}")]})).created


@pytest.mark.parametrize(
    "event",
    [
        samples.AWS_TEST,
        samples.SNS_CONFIRMATION,
        {"Records": [s3_record("a.jpg", "ObjectTagging:Put")]},
        {"Records": [s3_record("a.jpg", "s3:ObjectCreated:PutRetention")]},
        {"Records": [s3_record("a.jpg", "ObjectAccessed:Get")]},
        {**samples.EVENTBRIDGE, "detail-type": "Object Tags Added"},
        {**samples.EVENTBRIDGE, "source": "com.example"},
        seaweedfs("create", "/buckets/uploads/folder", new_entry={"name": "folder", "is_directory": True}),
        seaweedfs("create", "/etc/passwd", new_entry={"name": "passwd"}),
        seaweedfs("create", "/buckets/uploads/.uploads/1234/0001.part", new_entry={"name": "0001.part"}),
        seaweedfs("create", "/buckets/uploads", new_entry={"name": "uploads"}),
    ],
    ids=lambda event: str(event)[:60],
)
def test_what_makes_no_object_is_of_another_matter(event: Any) -> None:
    """Tests, tags, locks, reads, folders, parts of uploads: counted, and neither submitted nor refused."""
    notice = understand(json.dumps(event))
    assert (notice.created, notice.removed, notice.malformed, notice.other) == ([], [], [], 1)


@pytest.mark.parametrize(
    "event",
    [
        {"Records": [s3_record("a+b.jpg", "ObjectRemoved:Delete")]},
        {"Records": [s3_record("a+b.jpg", "s3:LifecycleExpiration:DeleteMarkerCreated")]},
        {
            **samples.EVENTBRIDGE,
            "detail-type": "Object Deleted",
            "detail": {"bucket": {"name": "uploads"}, "object": {"key": "a b.jpg"}},
        },
        seaweedfs("delete", "/buckets/uploads/a b.jpg", old_entry={"name": "a b.jpg"}),
    ],
    ids=["S3", "expired", "EventBridge", "SeaweedFS"],
)
def test_a_removal_is_told_apart(event: Any) -> None:
    """The object is not submitted, but forgotten."""
    notice = understand(json.dumps(event))
    assert (notice.created, notice.removed) == ([], [Removed("uploads", "a b.jpg")])


@pytest.mark.parametrize(("given", "etag"), [(f'"{ETAG}"', ETAG), (f'W/"{ETAG}"', ETAG), (None, ""), (7, ""), ("", "")])
def test_an_etag_is_taken_without_quotes(given: Any, etag: str) -> None:
    """What is no ETag counts as none, and tells no duplicates apart."""
    assert understand(json.dumps({"Records": [s3_record("a.jpg", eTag=given)]})).created[0].etag == etag


def test_older_ceph_spells_the_etag_its_own_way() -> None:
    """rgw_pubsub.cc had "etag" before it had "eTag"."""
    record = s3_record("a.jpg")
    del record["s3"]["object"]["eTag"]
    record["s3"]["object"]["etag"] = ETAG
    assert understand(json.dumps({"Records": [record]})).created[0].etag == ETAG


MALFORMED = [
    b"", b"no json", b"\xff\xfe", b"null", b"7", b'"text"', b"[]x", b"{}", b'{"Records": 7}', b'{"Records": [7]}',
    b'{"Records": [{}]}', b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {}}]}', b"[" * 100_000,
    b'{"Type": "Notification", "Message": "no json"}', b'{"a": ' * 5000, b"1" * 5000,
    json.dumps(samples.RUSTFS_BROKEN).encode(),
    json.dumps({"Records": [s3_record("%ff.jpg")]}).encode(),
    json.dumps({"Records": [s3_record("\ud800.jpg")]}).encode(),
    json.dumps({"Records": [s3_record("k" * 1025)]}).encode(),
    json.dumps({"Records": [s3_record("a.jpg")] * (MAX_RECORDS + 1)}).encode(),
    json.dumps({"Records": [s3_record("a.jpg")], "pad": "x" * MAX_BODY_BYTES}).encode(),
    json.dumps(seaweedfs("create", "/buckets/uploads/a.jpg", new_entry=7)).encode(),
    json.dumps(seaweedfs("create", "/buckets/u/a.jpg", new_entry={"attributes": {"md5": "?"}})).encode(),
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:40]))
def test_what_is_no_event_is_refused(body: bytes) -> None:
    """With a reason that is short, whatever was sent."""
    with pytest.raises(MalformedEvent) as refused:
        understand(body)
    assert 0 < len(str(refused.value)) < 300


def test_a_wrapping_in_a_wrapping_ends() -> None:
    """SNS in SNS in SNS is refused, and not unwrapped for ever."""
    event: Any = samples.AWS
    for _ in range(4):
        event = {"Type": "Notification", "Message": json.dumps(event)}
    with pytest.raises(MalformedEvent):
        understand(json.dumps(event))


def test_one_bad_record_does_not_spoil_the_others() -> None:
    """The good one is taken, the bad one told of."""
    notice = understand(json.dumps({"Records": [s3_record("%ff.jpg"), 7, s3_record("good.jpg")]}))
    assert [event.key for event in notice.created] == ["good.jpg"]
    assert len(notice.malformed) == 2


KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(lambda key: len(key.encode()) <= 1024)


@given(key=KEYS)
def test_any_key_comes_back_as_it_was(key: str) -> None:
    """Encoded like a form, as S3 and MinIO do, or with %20, or not at all where that is the store's way."""
    for encoded in (quote_plus(key), quote_plus(key, safe="/"), quote(key), quote(key, safe="")):
        assert understand(json.dumps({"Records": [s3_record(encoded)]})).created[0].key == key
    ceph = {**s3_record(key), "eventSource": "ceph:s3"}
    assert understand(json.dumps({"Records": [ceph]})).created[0].key == key
    bridge = {**samples.EVENTBRIDGE, "detail": {"bucket": {"name": "b"}, "object": {"key": key}}}
    assert understand(json.dumps(bridge)).created[0].key == key


NAMES = st.sampled_from(
    ["Records", "Event", "Type", "Message", "eventName", "s3", "bucket", "object", "name", "key", "eTag", "eventTime",
     "detail", "detail-type", "source", "event_type", "message", "new_entry", "new_parent_path", "attributes", "md5"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["Notification", "ObjectCreated:Put", "ObjectRemoved:Delete", "s3:TestEvent", "Object Created", "aws.s3", "create",
     "/buckets/b/k.jpg", "%zz", "{}"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)


@given(document=JSON)
def test_no_json_breaks_it(document: Any) -> None:
    """Anything that is shaped a little like an event is understood or refused, with the one error for that."""
    try:
        notice = understand(json.dumps(document))
    except MalformedEvent:
        return
    assert all(event.bucket and event.key for event in (*notice.created, *notice.removed))


@given(body=st.binary(max_size=300))
def test_no_bytes_break_it(body: bytes) -> None:
    """The same for what is no JSON at all."""
    try:
        understand(body)
    except MalformedEvent as error:
        assert str(error)


@pytest.mark.parametrize("half", [{"key": "a\ud800.jpg"}, {"eTag": "\ud800"}], ids=["key", "ETag"])
def test_half_a_character_is_refused(half: dict[str, str]) -> None:
    """JSON can say it, and nothing can write it: not the marks, not a ledger. The other records are taken."""
    bad = samples.s3_record("a.jpg")
    bad["s3"]["object"].update(half)
    with pytest.raises(MalformedEvent, match="half a character"):
        understand(json.dumps({"Records": [bad]}))
    notice = understand(json.dumps({"Records": [bad, samples.s3_record("b.jpg")]}))
    assert [created.key for created in notice.created] == ["b.jpg"]
