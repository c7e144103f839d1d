"""Messages and records: what goes in comes out, and what is malformed is refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apf.recipe import Recipe
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport, ShardJob, ShardReport, Totals, parse
from workers.errors import JobError, LedgerError

reports = st.builds(
    PhotoReport,
    key=st.text(min_size=1, max_size=5),
    etag=st.just("e"),
    outcome=st.sampled_from(Outcome),
    faces=st.integers(0, 5),
    megapixels=st.integers(0, 400).map(lambda n: n / 8),
    bytes_in=st.integers(0, 1000),
    bytes_out=st.integers(0, 1000),
)


def test_a_message_survives_json() -> None:
    """Celery's JSON gives back the same job."""
    job = ShardJob(batch_url="s3://bucket/out/.apf/batches/1", shard=42)
    assert ShardJob.decode(json.loads(json.dumps(job.encode()))) == job


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({}, "batch_url: Field required"),
        ({"batch_url": "", "shard": 0}, "batch_url"),
        ({"batch_url": "s3://b/1", "shard": -1}, "shard"),
        ({"batch_url": "s3://b/1", "shard": "x"}, "shard"),
        ({"batch_url": "s3://b/1", "shard": 0, "endpoint": "http://evil"}, "endpoint: Extra inputs"),
        (["batch_url"], "no shard's"),
        (None, "no shard's"),
    ],
    ids=repr,
)
def test_a_malformed_message_is_refused(message: Any, why: str) -> None:
    """The error shows the message and names the field; a retry does not help."""
    with pytest.raises(JobError, match=why) as raised:
        ShardJob.decode(message)
    assert not raised.value.transient


@given(st.lists(reports, max_size=8), st.lists(reports, max_size=8))
def test_totals_add_up(a: list[PhotoReport], b: list[PhotoReport]) -> None:
    """Totals of two lists added are the totals of both together, and outcomes sum to photos."""
    both = Totals.of(a) + Totals.of(b)
    assert both == Totals.of(a + b) == Totals.sum([Totals.of(a), Totals.of(b)])
    assert both.photos == len(a + b) == both.protected + both.no_face + both.skipped + both.failed


def test_no_photos_are_zeros() -> None:
    """The empty shard has totals too."""
    assert Totals.of([]) == Totals.sum([]) == Totals()


@given(st.lists(reports, max_size=4))
def test_a_report_counts_its_photos(photos: list[PhotoReport]) -> None:
    """A shard's totals are those of its photos."""
    report = ShardReport(
        shard=0, photos=tuple(photos), stage_seconds={}, wall_seconds=0, worker="w", finished_at="", peak_memory_bytes=0
    )
    assert report.totals == Totals.of(photos)


@given(st.text(min_size=1), st.text(), st.integers(0))
def test_any_key_survives_a_record(key: str, etag: str, size: int) -> None:
    """A record is one line of JSON, whatever line breaks its key has."""
    ref = PhotoRef(key=key, etag=etag, size=size)
    line = ref.model_dump_json()
    assert "\n" not in line
    assert parse(PhotoRef, line.encode(), LedgerError, "x") == ref


def test_records_are_frozen_and_closed() -> None:
    """No field can be set later, and none that the record does not know."""
    ref = PhotoRef(key="k", etag="e", size=1)
    with pytest.raises(ValidationError):
        ref.size = 2  # type: ignore[misc]
    with pytest.raises(LedgerError, match=r"plan.*colour: Extra inputs"):
        parse(PhotoRef, b'{"key": "k", "etag": "e", "size": 1, "colour": "red"}', LedgerError, "plan")


def test_a_batch_keeps_its_recipe() -> None:
    """The recipe travels as data: the worker needs no file of the producer's."""
    recipe = Recipe(name="mine", epsilon_levels=7, stages=("universal",), weights="w")
    batch = Batch(id="1", source="s3://a", destination="s3://b", recipe=recipe, created_at="2026-01-01T00:00:00+00:00")
    assert parse(Batch, batch.model_dump_json(), LedgerError, "batch").recipe.id == recipe.id
