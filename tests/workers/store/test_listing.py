"""A destination that is listed before a shard: requests are saved, and no output is overlooked."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.benchmarks.counted import counted
from tests.conftest import S3Server
from tests.memory_store import MemoryStore
from tests.workers.execution.test_shard_pipeline import make_batch
from tests.workers.fakes import FakeEngine
from workers.config.settings import Settings
from workers.core.records import PhotoRef
from workers.errors import Forbidden
from workers.execution.shard_pipeline import ShardRunner
from workers.store import S3Options, Store, open_store
from workers.store.listing import PAGE, WORTH_LISTING, Absent, absent_keys

KEYS = [f"{number:02}" for number in range(20)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Ten of the twenty keys, and others around them; listed as S3 is."""
    MemoryStore("memory://listed").clear()
    monkeypatch.setattr(MemoryStore, "lists_pages", True)
    found = open_store("memory://listed/out")
    for key in [*KEYS[::2], "0", "05-other", "99"]:
        found.put(key, b"x")
    return found


def heads(store: Store, keys: list[str]) -> tuple[list[str], Counter[str]]:
    """The keys that are there, and what it cost to know."""
    with counted(MemoryStore) as requests:
        absent = absent_keys(store, keys)
        return [key for key in keys if key not in absent and store.head(key)], requests


def test_what_is_there_is_found_and_what_is_not_costs_nothing(store: Store) -> None:
    """One listing; a HEAD for the first key and for each that the listing shows."""
    found, requests = heads(store, KEYS)
    assert found == KEYS[::2]
    assert requests == {"LIST": 1, "HEAD": 10}
    store.delete(KEYS[0])
    assert heads(store, KEYS) == (KEYS[2::2], Counter({"LIST": 1, "HEAD": 10}))


def test_few_keys_are_asked_for_one_by_one(store: Store) -> None:
    few = KEYS[: WORTH_LISTING - 1]
    assert heads(store, few) == (few[::2], Counter({"HEAD": len(few)}))


def test_a_page_of_others_leaves_the_rest_to_be_asked_for(store: Store) -> None:
    """Where the destination holds far more than the shard, only what the page covers is known."""
    for number in range(PAGE):
        store.put(f"10-{number:04}", b"x")
    found, requests = heads(store, KEYS)
    assert found == KEYS[::2]
    assert requests == {"LIST": 1, "HEAD": 1 + 5 + 9}, "the first, those listed up to 10, and all above"


def test_a_listing_that_is_refused_costs_requests_and_no_photo(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Forbidden("no s3:ListBucket")

    monkeypatch.setattr(MemoryStore, "list", refuse)
    absent = absent_keys(store, KEYS)
    assert [key for key in KEYS if key not in absent and store.head(key)] == KEYS[::2]


@pytest.mark.parametrize("kind", ["moto_server", "swift"])
def test_a_shard_into_an_empty_bucket_asks_for_none_of_its_outputs(request: pytest.FixtureRequest, kind: str) -> None:
    """On S3: two requests a photo, GET and PUT; a second run finds all outputs, whatever their keys look like."""
    server: S3Server = request.getfixturevalue(kind)
    s3 = S3Options(endpoint_url=server.endpoint_url)
    source, destination = (open_store(f"s3://{server.new_bucket()}/ä b", s3=s3) for _ in range(2))
    for key in ["ü/1.jpg", "z.jpg", "-.jpg", "😀.jpg", *(f"{key}.jpg" for key in KEYS)]:
        source.put(key, b"face")
    refs = [PhotoRef(key=info.key, etag=info.etag, size=info.size) for info in source.list()]
    batch = make_batch(source.url, destination.url)
    for run, (asked, skipped) in enumerate([(1, 0), (len(refs), len(refs))]):
        engine = FakeEngine()
        with counted(type(destination)) as requests:
            absent = Absent(destination, [ref.key for ref in refs])
            mine = batch.model_copy(update={"id": f"b{run}"})
            runner = ShardRunner(mine, source, destination, Settings(), lambda engine=engine: engine, absent=absent)
            reports = runner.run(refs)
        assert sum(report.outcome == "skipped" for report in reports) == skipped
        written = len(refs) - skipped
        assert requests["LIST"] == 1
        assert requests["GET"] == written
        # Swift knows no conditional writes: each writing thread finds so once, and what no listing tells of is asked
        # for again.
        more = Settings().write_threads if kind == "swift" and written else 0
        assert written <= requests["PUT"] <= written + more
        assert asked <= requests["HEAD"] <= asked + bool(more)
