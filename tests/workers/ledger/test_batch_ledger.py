"""The ledger: records survive, torn ones are told apart, and the numbers of a batch always add up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apf.recipe import Recipe
from tests.conftest import S3Server
from tests.memory_store import MemoryStore
from workers.core.records import Batch, Outcome, PhotoRef, PhotoReport, ShardReport, Totals
from workers.errors import LedgerError, NotFound, StoreUnavailable
from workers.ledger.batch_ledger import ASKED_BY_NAME, STOPS, Ledger, Stop, new_batch_id, open_batch, open_ledger
from workers.ledger.leases import ShardLease
from workers.status.batch_status import BatchMonitor, BatchSummary
from workers.store import S3Options, open_store

RECIPE = Recipe(name="light", epsilon_levels=5, weights="w")


@pytest.fixture
def ledger() -> Ledger:
    """An empty ledger in memory."""
    MemoryStore("memory://ledger").clear()
    return open_ledger("memory://ledger/out")


def batch(ledger: Ledger, photos: int = 0, shards: int = 0, *, planned: bool = True, batch_id: str = "") -> Batch:
    """A batch, written."""
    new = Batch(
        id=batch_id or new_batch_id(),
        source="memory://in",
        destination=ledger.store.url,
        recipe=RECIPE,
        created_at="2026-01-01T00:00:00+00:00",
        photos=photos,
        shards=shards,
        planned=planned,
    )
    ledger.write_batch(new)
    return new


def summary(ledger: Ledger, batch_id: str) -> BatchSummary:
    return BatchMonitor(ledger, batch_id).poll()


def refs(*keys: str) -> list[PhotoRef]:
    return [PhotoRef(key=key, etag=f"etag-{key}", size=10) for key in keys]


def report(shard: int, outcomes: dict[str, Outcome], *, faces: int = 1) -> ShardReport:
    """A shard's report: faces in each protected photo, a reason for each failed one."""
    photos = [
        PhotoReport(
            key=key,
            etag=f"etag-{key}",
            outcome=outcome,
            reason=f"why {key}" if outcome is Outcome.failed else None,
            faces=faces if outcome is Outcome.protected else 0,
        )
        for key, outcome in outcomes.items()
    ]
    return ShardReport(
        shard=shard,
        photos=tuple(photos),
        stage_seconds={"read": 0.5, "gradient": 2.0},
        wall_seconds=2.5,
        worker="host:1",
        finished_at="2026-01-01T00:00:00+00:00",
        peak_memory_bytes=1000 + shard,
    )


class TestRecords:
    def test_come_back_as_they_were(self, ledger: Ledger) -> None:
        """Batch, plan and report survive, odd keys and line breaks included."""
        keys = ["a", "ü\n\u2028\u0085 x", '"q"\\', "😀"]
        b = batch(ledger, 4, 1)
        ledger.write_plan(b.id, 0, refs(*keys))
        done = report(0, dict.fromkeys(keys, Outcome.failed))
        ledger.write_report(b.id, done)
        assert ledger.read_batch(b.id) == b
        assert ledger.read_plan(b.id, 0) == refs(*keys)
        assert ledger.read_report(b.id, 0) == done

    def test_lie_where_the_design_says(self, ledger: Ledger) -> None:
        """Operators look at these objects, and other versions read them: the layout is a promise."""
        b = batch(ledger, batch_id="b1")
        ledger.write_plan(b.id, 42, refs("a"))
        ledger.write_plan(b.id, 123456, refs("a"))
        ledger.stop(b.id, "cancelled")
        ledger.write_report(b.id, report(42, {"a": Outcome.protected}))
        names = [info.key.removeprefix(".apf/batches/b1/") for info in ledger.store.list(".apf/")]
        assert names == ["batch.json", "cancelled", "plan/00042.jsonl", "plan/123456.jsonl", "reports/00042.jsonl"]

    def test_an_empty_shard_has_a_report_too(self, ledger: Ledger) -> None:
        """No photos are not the same as no report."""
        b = batch(ledger, 0, 1)
        ledger.write_report(b.id, report(0, {}))
        assert ledger.has_report(b.id, 0)

    def test_a_batch_that_is_worked_on_is_listed(self, ledger: Ledger) -> None:
        """Tries sort before the batch's own record."""
        b = batch(ledger, 1, 1)
        ShardLease(ledger, b.id, 0, lease_s=60).beat()
        assert b.id in ledger.batches()

    def test_missing_ones_are_said_so(self, ledger: Ledger) -> None:
        """A missing batch or plan is an error with its name; a missing report is just not there yet."""
        with pytest.raises(LedgerError, match="there is no batch 'b1'"):
            ledger.read_batch("b1")
        with pytest.raises(LedgerError, match=r"00007\.jsonl is missing"):
            ledger.read_plan("b1", 7)
        assert ledger.read_report("b1", 7) is None
        assert not ledger.has_report("b1", 7)
        assert ledger.stopped("b1") is None

    @pytest.mark.parametrize("batch_id", ["", "..", "a/b", "../x", "-x", "a" * 101, "a b"])
    def test_an_id_cannot_be_a_path(self, ledger: Ledger, batch_id: str) -> None:
        """An id comes from a command line: it must not reach other keys."""
        with pytest.raises(LedgerError, match="no batch's id"):
            ledger.read_batch(batch_id)

    @pytest.mark.parametrize("cut", [0, 1, 40, -1, -5, -60])
    def test_torn_ones_are_told_apart(self, ledger: Ledger, cut: int, caplog: pytest.LogCaptureFixture) -> None:
        """Cut anywhere, a plan is an error and a report counts as none, so that its shard runs again."""
        b = batch(ledger, 3, 1, planned=False)
        ledger.write_plan(b.id, 0, refs("a", "b", "c"))
        ledger.write_report(b.id, report(0, dict.fromkeys("abc", Outcome.protected)))
        for kind in ("plan", "reports"):
            key = f".apf/batches/{b.id}/{kind}/00000.jsonl"
            ledger.store.put(key, ledger.store.get(key).data[:cut])
        with pytest.raises(LedgerError, match=r"torn|validate"):
            ledger.read_plan(b.id, 0)
        assert ledger.read_report(b.id, 0) is None
        assert "report taken as missing" in caplog.text
        assert ledger.reported_shards(b.id) == {0}
        assert not ledger.has_report(b.id, 0)
        assert summary(ledger, b.id).pending == 3

    def test_one_with_a_line_missing_in_the_middle_is_torn(self, ledger: Ledger) -> None:
        """The header counts: whole lines that are lost are noticed too."""
        ledger.write_plan("b1", 0, refs("a", "b", "c"))
        key = ".apf/batches/b1/plan/00000.jsonl"
        lines = ledger.store.get(key).data.split(b"\n")
        ledger.store.put(key, b"\n".join([*lines[:2], *lines[3:]]))
        with pytest.raises(LedgerError, match="counts 3 lines, but it has 2"):
            ledger.read_plan("b1", 0)

    def test_ones_of_another_kind_shard_or_version_are_refused(self, ledger: Ledger) -> None:
        """What a newer version wrote, or what was copied to the wrong place, is not misread."""
        ledger.write_plan("b1", 0, refs("a"))
        data = ledger.store.get(".apf/batches/b1/plan/00000.jsonl").data
        for other, why in [
            (data.replace(b'"version":1', b'"version":2'), "version"),
            (data.replace(b'"shard":0', b'"shard":1'), "is of shard 1, not of shard 0"),
            (data.replace(b'"plan"', b'"report"'), "kind"),
        ]:
            assert other != data
            ledger.store.put(".apf/batches/b1/plan/00000.jsonl", other)
            with pytest.raises(LedgerError, match=why):
                ledger.read_plan("b1", 0)

    def test_a_store_that_is_down_is_not_a_missing_record(self, ledger: Ledger) -> None:
        """Unavailable must never be read as "no report": the caller sees the transient error."""
        b = batch(ledger, 1, 1)
        with mock.patch.object(MemoryStore, "get", side_effect=StoreUnavailable("down")):
            for read in (ledger.has_report, ledger.read_report, ledger.read_plan):
                with pytest.raises(StoreUnavailable):
                    read(b.id, 0)

    @pytest.mark.parametrize("totals", [b'{"photos":9,"failed":1}', b'{"photos":3,"failed":2}', b"null"])
    def test_sums_that_do_not_fit_their_report_are_not_believed(self, ledger: Ledger, totals: bytes) -> None:
        """A look at a batch reads a report's header; where its lines say otherwise, they count."""
        done = report(0, {"a": Outcome.protected, "b": Outcome.failed, "c": Outcome.no_face})
        ledger.write_report("b1", done)
        whole = ledger.read_short("b1", 0)
        assert whole is not None
        assert (whole.totals, whole.failed) == (done.totals, (done.photos[1],))
        key = ".apf/batches/b1/reports/00000.jsonl"
        head, _, lines = ledger.store.get(key).data.partition(b"\n")
        head = head[: head.index(b'"totals":')] + b'"totals":' + totals + b"}"
        ledger.store.put(key, head + b"\n" + lines)
        again = ledger.read_short("b1", 0)
        assert again is not None
        assert (again.totals, again.failed) == (whole.totals, whole.failed)


class TestBatches:
    def test_ids_sort_by_time(self) -> None:
        """A listing shows batches in the order of their making."""
        ids = [new_batch_id() for _ in range(200)]
        assert len(set(ids)) == 200
        assert [i[:22] for i in ids] == sorted(i[:22] for i in ids)

    def test_are_listed_oldest_first_however_full_they_are(self, ledger: Ledger) -> None:
        """One id for each batch with a record; what lies beside is no batch."""
        assert ledger.batches() == []
        ids = [batch(ledger).id for _ in range(3)]
        for shard in range(5):
            ledger.write_plan(ids[1], shard, refs("a"))
        ledger.store.put(".apf/batches/0-no-record/plan/00000.jsonl", b"")
        assert ledger.batches() == ids

    @pytest.mark.parametrize("how", STOPS)
    def test_a_stop_can_be_taken_back(self, ledger: Ledger, how: Stop) -> None:
        """The mark is set, seen in the summary, and removed; each twice without harm."""
        b = batch(ledger)
        for _ in range(2):
            ledger.stop(b.id, how)
            assert ledger.stopped(b.id) == summary(ledger, b.id).stopped == how
        for _ in range(2):
            ledger.clear_stop(b.id)
            assert ledger.stopped(b.id) is summary(ledger, b.id).stopped is None

    @pytest.mark.parametrize("kind", ["memory", "file", "moto", "swift"])
    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_a_url_is_all_that_a_worker_needs(
        self, request: pytest.FixtureRequest, tmp_path: Path, kind: str, elsewhere: bool
    ) -> None:
        """Written by one ledger, read by one opened from the batch's URL alone; beside the output or elsewhere."""
        s3 = None
        if kind == "memory":
            base = f"memory://url-{elsewhere}"
        elif kind == "file":
            base = str(tmp_path / "with space")
        else:
            server: S3Server = request.getfixturevalue("moto_server" if kind == "moto" else "swift")
            base, s3 = f"s3://{server.new_bucket()}", S3Options(endpoint_url=server.endpoint_url)
        destination = open_store(f"{base}/öut", s3=s3, create=True)
        ledger = open_ledger(destination.url, ledger_url=f"{base}/ledgers" if elsewhere else None, s3=s3)
        b = batch(ledger, 2, 1)
        ledger.write_plan(b.id, 0, refs("a", "b"))
        worker, batch_id = open_batch(ledger.batch_url(b.id), s3=s3)
        assert (worker.url, batch_id) == (ledger.url, b.id)
        assert worker.read_batch(batch_id) == b
        assert worker.read_plan(batch_id, 0) == refs("a", "b")
        worker.write_report(batch_id, report(0, {"a": Outcome.protected, "b": Outcome.no_face}))
        assert ledger.has_report(b.id, 0)
        assert ledger.batches() == [b.id]
        assert summary(ledger, b.id).done
        assert list(destination.list()) == []

    def test_destinations_share_a_ledger_url_without_mixing(self, tmp_path: Path) -> None:
        """Two destinations have two names in it, and each its own batches."""
        ledgers = [open_ledger(f"s3://bucket/{name}", ledger_url=str(tmp_path / "l")) for name in ("a/b", "a-b")]
        b = batch(ledgers[0])
        assert (ledgers[0].batches(), ledgers[1].batches()) == ([b.id], [])

    @pytest.mark.parametrize(
        "url", ["s3://bucket/.apf/plan/1", "s3://bucket", "/", "/a/b", "s3://b/.apf/batches/%2e%2e"]
    )
    def test_a_url_of_no_batch_is_refused(self, url: str) -> None:
        """What does not end in .apf/batches/<id> cannot be one."""
        with pytest.raises(LedgerError, match="no batch's"):
            open_batch(url)

    def test_a_destination_that_does_not_exist_has_no_ledger(self, tmp_path: Path) -> None:
        """`apf status` of a mistyped folder says so, and makes nothing."""
        with pytest.raises(NotFound, match="does not exist"):
            open_ledger(str(tmp_path / "nobody"))
        assert list(tmp_path.iterdir()) == []


class TestSummary:
    def test_counts_outcomes_faces_times_and_failures(self, ledger: Ledger) -> None:
        """Every number comes from the reports; what is not reported is pending."""
        b = batch(ledger, 6, 3)
        ledger.write_plan(b.id, 2, refs("d", "a", "e"))
        ledger.write_report(b.id, report(0, {"c": Outcome.protected, "b": Outcome.failed}, faces=3))
        ledger.write_report(b.id, report(2, {"d": Outcome.no_face, "a": Outcome.failed, "e": Outcome.skipped}))
        s = summary(ledger, b.id)
        assert (s.photos, s.protected, s.no_face, s.skipped, s.failed, s.pending) == (6, 1, 1, 1, 2, 1)
        assert (s.faces, s.reported_shards, s.done, s.id) == (3, 2, False, b.id)
        assert [(f.key, f.etag, f.reason) for f in s.failures] == [("a", "etag-a", "why a"), ("b", "etag-b", "why b")]
        assert (s.stage_seconds, s.wall_seconds) == ({"read": 1.0, "gradient": 4.0}, 5.0)
        assert s.peak_memory_bytes == 1002

    def test_a_retry_stands_in_for_the_earlier_outcome(self, ledger: Ledger) -> None:
        """A failed photo that is retried is pending, then what the retry made of it; never counted twice."""
        b = batch(ledger, 3, 1)
        ledger.write_report(b.id, report(0, {"a": Outcome.failed, "b": Outcome.failed, "c": Outcome.protected}))
        ledger.write_plan(b.id, 0, refs("a", "b", "c"))
        watch = BatchMonitor(ledger, b.id)
        assert (watch.poll().failed, watch.poll().done) == (2, True)
        ledger.write_plan(b.id, 1, refs("a", "b"))
        ledger.write_batch(b.model_copy(update={"shards": 2, "first_retry": 1}))
        for s in (watch.poll(), summary(ledger, b.id)):
            assert (s.photos, s.protected, s.failed, s.pending, s.failures) == (3, 1, 0, 2, ())
        ledger.write_report(b.id, report(1, {"a": Outcome.protected, "b": Outcome.failed}))
        for s in (watch.poll(), summary(ledger, b.id)):
            assert (s.photos, s.protected, s.failed, s.pending) == (3, 2, 1, 0)
            assert [f.key for f in s.failures] == ["b"]

    def test_a_report_that_was_torn_after_a_retry_counts_no_photo_twice(self, ledger: Ledger) -> None:
        """Its shard runs again, and finds the retry's output: the photo is protected in both, and is one photo."""
        b = batch(ledger, 2, 2)
        ledger.write_batch(b.model_copy(update={"first_retry": 1}))
        ledger.write_report(b.id, report(0, {"a": Outcome.failed, "b": Outcome.protected}))
        ledger.write_plan(b.id, 1, refs("a"))
        ledger.write_report(b.id, report(1, {"a": Outcome.protected}))
        before = summary(ledger, b.id)
        ledger.write_report(b.id, report(0, {"a": Outcome.protected, "b": Outcome.protected}))
        watch = BatchMonitor(ledger, b.id)
        for s in (before, watch.poll(), watch.poll()):
            assert (s.photos, s.protected, s.faces, s.failures, s.done) == (2, 2, 2, (), True)
        assert [photo.key for photo in watch.photos()] == ["a", "b"]

    def test_a_photo_in_no_report_is_missing_and_not_pending_for_ever(self, ledger: Ledger) -> None:
        """The source lost it before its torn plan was made anew: the batch ends, and says so."""
        b = batch(ledger, 3, 1)
        ledger.write_report(b.id, report(0, {"a": Outcome.protected, "b": Outcome.failed}))
        s = summary(ledger, b.id)
        assert (s.photos, s.protected, s.failed, s.pending, s.missing, s.done) == (3, 1, 1, 0, 1, True)

    def test_reads_each_report_once(self, ledger: Ledger) -> None:
        """Watching a batch costs what is new, not all of it again."""
        shards = ASKED_BY_NAME * 2
        b = batch(ledger, shards, shards)
        ledger.write_plan(b.id, shards - 1, refs("x"))
        for shard in range(shards // 2):
            ledger.write_report(b.id, report(shard, {f"{shard}": Outcome.protected}))
        watch = BatchMonitor(ledger, b.id)
        assert watch.poll().protected == shards // 2
        ledger.write_report(b.id, report(shards // 2, {"new": Outcome.protected}))
        with mock.patch.object(Ledger, "read_short", autospec=True, side_effect=Ledger.read_short) as read:
            assert watch.poll().protected == shards // 2 + 1
        assert {call.args[2] for call in read.call_args_list} <= set(range(shards // 2, shards))

    def test_many_open_shards_are_not_asked_for_one_by_one(self, ledger: Ledger) -> None:
        """A thousand shards in the queue cost one listing, not a thousand requests."""
        b = batch(ledger, 1000, 1000, planned=False)
        ledger.write_report(b.id, report(7, {"a": Outcome.protected}))
        with mock.patch.object(Ledger, "read_short", autospec=True, side_effect=Ledger.read_short) as read:
            assert summary(ledger, b.id).protected == 1
        assert read.call_count == 1

    def test_a_listing_that_lags_does_not_hide_the_last_reports(self, ledger: Ledger) -> None:
        """With few shards open, reports are asked for by name: a batch ends though the listing shows nothing."""
        b = batch(ledger, 1, 1)
        ledger.write_plan(b.id, 0, refs("a"))
        ledger.write_report(b.id, report(0, {"a": Outcome.protected}))
        with mock.patch.object(MemoryStore, "list", side_effect=lambda *_, **__: iter(())):
            assert summary(ledger, b.id).done

    def test_running_shards_say_how_far_they_are(self, ledger: Ledger) -> None:
        """For the bar only: part of what is pending, and nothing once the report is there, or the try is over."""
        b = batch(ledger, 10, 2, planned=False)
        leases = [ShardLease(ledger, b.id, shard, lease_s=60) for shard in (0, 1)]
        for lease in leases:
            lease.beat(Totals(photos=3, protected=3))
        s = BatchMonitor(ledger, b.id).poll(running=True)
        assert (s.running.photos, s.pending, s.protected) == (6, 10, 0)
        ledger.write_report(b.id, report(0, dict.fromkeys("abcde", Outcome.protected)))
        s = BatchMonitor(ledger, b.id).poll(running=True)
        assert (s.running.photos, s.pending, s.protected) == (3, 5, 5)
        leases[1].end()
        assert BatchMonitor(ledger, b.id).poll(running=True).running == Totals()

    def test_a_retry_s_plan_that_is_missing_is_an_error(self, ledger: Ledger) -> None:
        """Without it nobody knows which outcomes a retry replaces: no number is better than a wrong one."""
        b = batch(ledger, 1, 1)
        ledger.write_batch(b.model_copy(update={"first_retry": 0}))
        with pytest.raises(LedgerError, match=r"00000\.jsonl is missing"):
            summary(ledger, b.id)

    def test_a_batch_still_being_planned_is_not_done(self, ledger: Ledger) -> None:
        """All reported so far is not all."""
        b = batch(ledger, 1, 1, planned=False)
        ledger.write_report(b.id, report(0, {"a": Outcome.protected}))
        assert not summary(ledger, b.id).done

    def test_a_hundred_thousand_photos_take_seconds(self, ledger: Ledger) -> None:
        """A summary from nothing, and then each look at the watch, stay usable for a large library."""
        size, shards = 1000, 100
        b = batch(ledger, size * shards, shards)
        ledger.write_plan(b.id, shards - 1, refs("x"))
        done = report(0, {f"{n:04}": Outcome.protected for n in range(size)})
        for shard in range(shards):
            photos = tuple(p.model_copy(update={"key": f"{shard}/{p.key}"}) for p in done.photos)
            ledger.write_report(b.id, done.model_copy(update={"shard": shard, "photos": photos}))
        watch = BatchMonitor(ledger, b.id)
        assert watch.poll().protected == size * shards


class BatchLife(RuleBasedStateMachine):
    """Plans, reports, losses and retries in any order; a simple model says what the summary must be."""

    def __init__(self) -> None:
        super().__init__()
        MemoryStore("memory://life").clear()
        self.ledger = open_ledger("memory://life")
        self.batch = batch(self.ledger, planned=False)
        self.watch = BatchMonitor(self.ledger, self.batch.id)
        self.shards: list[Sequence[str]] = []
        self.reported: dict[int, dict[str, Outcome]] = {}

    @rule(count=st.integers(1, 4))
    def plan(self, count: int) -> None:
        if self.batch.planned:
            return
        self._add([f"{len(self.shards)}-{n}" for n in range(count)], photos=count)

    @rule()
    def finish_planning(self) -> None:
        self._write(planned=True)

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """Any open shard reports; or one that has, again, as after a lost message."""
        if not self.shards:
            return
        shard = data.draw(st.integers(0, len(self.shards) - 1))
        outcomes = self.reported.get(shard) or {k: data.draw(st.sampled_from(Outcome)) for k in self.shards[shard]}
        self.reported[shard] = outcomes
        self.ledger.write_report(self.batch.id, report(shard, outcomes))

    @rule()
    def retry(self) -> None:
        failed = [key for key, outcome in self._expected().items() if outcome is Outcome.failed]
        if self.batch.planned and failed:
            self._add(failed, photos=0)

    @invariant()
    def numbers_add_up(self) -> None:
        expected = self._expected()
        for s in (self.watch.poll(), summary(self.ledger, self.batch.id)):
            assert s.photos == s.protected + s.no_face + s.skipped + s.failed + s.pending
            counts = {o: sum(1 for e in expected.values() if e is o) for o in Outcome}
            assert (s.protected, s.no_face, s.skipped, s.failed) == tuple(counts.values())
            assert s.faces == counts[Outcome.protected]
            assert [f.key for f in s.failures] == sorted(k for k, o in expected.items() if o is Outcome.failed)

    def _expected(self) -> dict[str, Outcome | None]:
        """Each photo's outcome, from the last shard that holds it; None while that one is open."""
        return {key: self.reported.get(n, {}).get(key) for n, keys in enumerate(self.shards) for key in keys}

    def _add(self, keys: Sequence[str], *, photos: int) -> None:
        self.ledger.write_plan(self.batch.id, len(self.shards), refs(*keys))
        first = len(self.shards) if not photos and self.batch.first_retry is None else self.batch.first_retry
        self.shards.append(keys)
        self._write(shards=len(self.shards), photos=self.batch.photos + photos, first_retry=first)

    def _write(self, **changes: object) -> None:
        self.batch = self.batch.model_copy(update=changes)
        self.ledger.write_batch(self.batch)


TestBatchLife = BatchLife.TestCase
TestBatchLife.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
