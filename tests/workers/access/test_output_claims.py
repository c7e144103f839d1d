"""Outputs replace nothing but what a run wrote for the very same photo, whoever writes there meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from apf.recipe import load_recipe
from tests.benchmarks.counted import counted
from tests.conftest import S3Server
from tests.memory_store import MemoryStore
from tests.workers.execution.test_shard_pipeline import make_batch
from tests.workers.fakes import FakeEngine
from workers.access.output_claims import sources_in
from workers.config.settings import Settings
from workers.core.records import Outcome, PhotoRef, PhotoReport, ShardJob
from workers.errors import Changed, NoConditions, StoreError, StoreUnavailable
from workers.execution.run_shard import run_shard
from workers.execution.shard_pipeline import ShardRunner
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.store import ObjectInfo, S3Options, Store, open_store
from workers.store import listing as listed_module
from workers.store.listing import Absent
from workers.store.local import FileStore
from workers.store.output_metadata import BATCH, OUTCOME, RECIPE, SOURCE, SOURCE_ETAG

NOT_OURS = "was not written by apf and is left as it is: move it away"
OF_ANOTHER = "is the output of another photo, as far as is known, and is left as it is: move it away"


class Place:
    """Two albums and a destination, in one kind of store."""

    def __init__(self, album: Store, other: Store, out: Store, settings: Settings) -> None:
        self.album, self.other, self.out, self.settings = album, other, out, settings
        self.engine = FakeEngine()
        self.ledger = open_ledger(out.url, s3=settings.s3)

    def run(
        self, source: Store | None = None, batch_id: str = "b1", recipe: str = "standard", **fields: Any
    ) -> dict[str, PhotoReport]:
        """A batch of all photos of a source, by key."""
        source = source or self.album
        mine = {"id": batch_id, "recipe": load_recipe(recipe)}
        batch = make_batch(source.url, self.out.url, **fields).model_copy(update=mine)
        self.ledger.write_batch(batch)
        refs = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in source.list()]
        runner = ShardRunner(
            batch,
            source,
            self.out,
            self.settings,
            lambda: self.engine,
            absent=Absent(self.out, [ref.key for ref in refs]),
            source_of=sources_in(self.ledger, self.ledger),
        )
        return {report.key: report for report in runner.run(refs)}


@pytest.fixture(params=["memory", "file", "moto_server", "swift"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Empty, in each kind of store: Swift knows no conditional writes."""
    names = ("album", "other", "out")
    settings = Settings()
    if request.param == "memory":
        urls = [f"memory://claims-{name}" for name in names]
        for url in urls:
            MemoryStore(url).clear()
    elif request.param == "file":
        urls = [str(tmp_path / name) for name in names]
    else:
        server: S3Server = request.getfixturevalue(request.param)
        urls = [f"s3://{server.new_bucket(name)}" for name in names]
        settings = Settings(s3_endpoint_url=server.endpoint_url)
    return Place(*(open_store(url, s3=settings.s3, create=True) for url in urls), settings)


def fill(store: Store, **photos: str) -> None:
    for name, text in photos.items():
        store.put(f"{name}.jpg", text.encode())


class TestEveryStore:
    def test_a_users_own_file_is_kept_and_the_rest_goes_on(self, place: Place) -> None:
        """The photo fails for good, with the reason and the cure; `overwrite` replaces the file."""
        fill(place.album, a="one", b="two")
        place.out.put("a.jpg", b"my own")
        reports = place.run()
        assert (reports["a.jpg"].outcome, reports["a.jpg"].transient) == (Outcome.failed, False)
        assert f"'a.jpg' in {place.out.url} {NOT_OURS}" in str(reports["a.jpg"].reason)
        assert "--overwrite" in str(reports["a.jpg"].reason)
        assert place.out.get("a.jpg").data == b"my own"
        assert place.out.get("b.jpg").data == b"protected:two"
        assert place.run(batch_id="b2", overwrite=True)["a.jpg"].outcome is Outcome.protected
        assert place.out.get("a.jpg").data == b"protected:one"

    def test_the_outputs_of_another_source_are_kept(self, place: Place) -> None:
        """Two albums that share a name: the first output stays, and the second photo fails."""
        fill(place.album, a="one")
        fill(place.other, a="another", b="two")
        place.run()
        reports = place.run(place.other, "b2")
        assert OF_ANOTHER in str(reports["a.jpg"].reason)
        assert reports["b.jpg"].outcome is Outcome.protected
        assert place.out.get("a.jpg").data == b"protected:one"
        assert place.run(place.other, "b3", overwrite=True)["a.jpg"].outcome is Outcome.protected
        assert place.out.get("a.jpg").data == b"protected:another"

    def test_the_same_photos_output_is_replaced(self, place: Place) -> None:
        """By its new version, and under another recipe."""
        fill(place.album, a="one", b="two")
        place.run()
        fill(place.album, a="one, edited")
        assert place.run(batch_id="b2")["a.jpg"].outcome is Outcome.protected
        assert {report.outcome for report in place.run(batch_id="b3", recipe="light").values()} == {Outcome.protected}
        assert place.out.get("a.jpg").data == b"protected:one, edited"
        found = place.out.head("b.jpg")
        assert found is not None
        assert found.metadata[RECIPE] == load_recipe("light").id

    @pytest.mark.parametrize("before", [b"", b"protected:earlier"], ids=["absent", "replaced"])
    def test_what_comes_while_the_photo_is_in_work_is_kept(self, place: Place, before: bytes) -> None:
        """Between the look and the write a user's file came, to an empty place or over our output."""
        fill(place.album, a="earlier")
        if before:
            place.run(batch_id="b0")
            fill(place.album, a="one")

        class Slow(FakeEngine):
            def encode(self, protected: Any) -> bytes:
                place.out.put("a.jpg", b"came meanwhile")
                return super().encode(protected)

        place.engine = Slow()
        assert NOT_OURS in str(place.run()["a.jpg"].reason)
        assert place.out.get("a.jpg").data == b"came meanwhile"

    def test_a_duplicates_output_is_no_obstacle(self, place: Place) -> None:
        """A message that was delivered twice: who comes second writes the same bytes."""
        fill(place.album, a="one")

        class Twice(FakeEngine):
            def encode(self, protected: Any) -> bytes:
                place.engine = FakeEngine()
                assert place.run()["a.jpg"].outcome is Outcome.protected
                return super().encode(protected)

        place.engine = Twice()
        assert place.run()["a.jpg"].outcome is Outcome.protected
        assert place.out.get("a.jpg").data == b"protected:one"

    def test_an_output_that_is_gone_by_then_is_written(self, place: Place) -> None:
        """Somebody deletes what was to be replaced."""
        fill(place.album, a="one")
        place.run()
        fill(place.album, a="two")

        class Deleted(FakeEngine):
            def encode(self, protected: Any) -> bytes:
                place.out.delete("a.jpg")
                return super().encode(protected)

        place.engine = Deleted()
        assert place.run(batch_id="b2")["a.jpg"].outcome is Outcome.protected
        assert place.out.get("a.jpg").data == b"protected:two"

    def test_an_output_is_not_protected_again(self, place: Place) -> None:
        """Outputs among a source's photos fail one by one; the originals beside them are protected."""
        fill(place.album, a="one")
        place.run()
        fill(place.out, z="an original")
        target = Place(place.out, place.other, place.other, place.settings)
        reports = target.run()
        assert "is an output of apf itself (batch b1)" in str(reports["a.jpg"].reason)
        assert reports["z.jpg"].outcome is Outcome.protected
        assert [info.key for info in place.other.list()] == ["z.jpg"]


class TestOutputsOfVersionsBefore:
    """They do not say of which photo they are."""

    @pytest.fixture
    def old(self) -> Place:
        for name in ("album", "other", "out"):
            MemoryStore(f"memory://old-{name}").clear()
        stores = [open_store(f"memory://old-{name}") for name in ("album", "other", "out")]
        place = Place(*stores, Settings())
        fill(place.album, a="one", b="two", c="three")
        place.run(batch_id="old")
        for info in list(place.out.list()):
            blob = place.out.get(info.key)
            marks = {name: value for name, value in blob.info.metadata.items() if name != SOURCE}
            place.out.put(info.key, blob.data, metadata=marks)
        return place

    def test_a_rerun_finds_them_done(self, old: Place) -> None:
        """The first run after an upgrade costs nothing."""
        assert {report.outcome for report in old.run().values()} == {Outcome.skipped}

    def test_another_recipe_and_a_changed_photo_replace_them(self, old: Place) -> None:
        """The ledger knows the source of the batch that wrote them."""
        fill(old.album, a="one, edited")
        reports = old.run()
        assert {key: report.outcome.value for key, report in reports.items()} == {
            "a.jpg": "protected", "b.jpg": "skipped", "c.jpg": "skipped",
        }  # fmt: skip
        reports = old.run(batch_id="b2", recipe="light")
        assert {report.outcome for report in reports.values()} == {Outcome.protected}

    def test_another_source_s_photo_does_not_replace_them(self, old: Place) -> None:
        """By the ledger's word, and also where that is gone."""
        fill(old.other, a="another")
        assert OF_ANOTHER in str(old.run(old.other)["a.jpg"].reason)
        old.ledger.forget_batch("old")
        fill(old.album, b="two, edited")
        reports = old.run(batch_id="b2")
        assert OF_ANOTHER in str(reports["b.jpg"].reason)
        assert reports["a.jpg"].outcome is Outcome.skipped, "of the same version of its photo"

    def test_a_ledger_that_is_down_makes_no_answer(self, old: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """The photo fails for a reason that passes, and is tried again."""
        fill(old.album, a="one, edited")
        read = Ledger.read

        def down(ledger: Ledger, key: str) -> bytes | None:
            if "/old/" in key:
                raise StoreUnavailable("503")
            return read(ledger, key)

        monkeypatch.setattr(Ledger, "read", down)
        assert old.run()["a.jpg"].transient

    def test_a_ledger_beside_the_outputs_is_asked_too(self, old: Place) -> None:
        """APF_LEDGER_URL was set after they were written; the whole way of a shard."""
        fill(old.album, a="one, edited")
        MemoryStore("memory://old-ledger").clear()
        settings = Settings(ledger_url="memory://old-ledger")
        ledger: Ledger = open_ledger(old.out.url, ledger_url=settings.ledger_root)
        batch = make_batch(old.album.url, old.out.url, planned=True, shards=1, photos=3)
        ledger.write_batch(batch)
        ledger.write_plan("b1", 0, [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in old.album.list()])
        job = ShardJob(batch_url=ledger.batch_url("b1"), shard=0)
        run = run_shard(job, settings, load=lambda *_: old.engine)
        assert run is not None
        totals = run.totals
        assert (totals.protected, totals.skipped, totals.failed) == (1, 2, 0)


def refuse_conditions(error: Exception) -> Callable[..., ObjectInfo]:
    put = MemoryStore.put

    def refusing(self: MemoryStore, key: str, data: bytes, *, over: str | None = None, **more: Any) -> ObjectInfo:
        if over is not None and not key.startswith(".apf/"):
            raise error
        return put(self, key, data, **more)

    return refusing


class TestOddStores:
    @pytest.fixture
    def place(self, monkeypatch: pytest.MonkeyPatch) -> Place:
        stores = []
        for name in ("album", "other", "out"):
            MemoryStore(f"memory://odd-{name}").clear()
            stores.append(open_store(f"memory://odd-{name}"))
        monkeypatch.setattr(MemoryStore, "lists_pages", True)
        fill(stores[0], **{f"a{number}": "face" for number in range(10)})
        return Place(*stores, Settings())

    @pytest.mark.parametrize("error", [NoConditions("501"), StoreError("400"), Changed("412, whatever is there")])
    def test_a_store_that_does_not_know_conditions_keeps_no_photo_out(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, error: StoreError
    ) -> None:
        """And what is there is kept all the same."""
        place.out.put("a3.jpg", b"my own")
        monkeypatch.setattr(MemoryStore, "put", refuse_conditions(error))
        reports = place.run()
        assert NOT_OURS in str(reports.pop("a3.jpg").reason)
        assert {report.outcome for report in reports.values()} == {Outcome.protected}
        assert place.out.get("a3.jpg").data == b"my own"

    def test_a_store_without_conditions_costs_a_request_or_two_more(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing of the last seconds stands in for a look at each output."""
        place.settings = Settings(write_threads=1)
        monkeypatch.setattr(MemoryStore, "put", refuse_conditions(NoConditions("501")))
        with counted(MemoryStore) as requests:
            place.run()
        assert requests["HEAD"] == 2, "before reading and before writing, of the one that the listing does not cover"
        assert requests["PUT"] == 1 + 1 + 10, "the batch, the one that was refused, and the outputs"

    def test_a_listing_is_not_believed_for_long(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """What came to a store without conditions since the shard was begun is kept."""
        monkeypatch.setattr(MemoryStore, "put", refuse_conditions(NoConditions("501")))
        monkeypatch.setattr(listed_module, "GOOD_FOR_S", 0.0)

        class Slow(FakeEngine):
            def encode(self, protected: Any) -> bytes:
                place.out.put("a5.jpg", b"came meanwhile")
                return super().encode(protected)

        place.engine = Slow()
        assert NOT_OURS in str(place.run()["a5.jpg"].reason)
        assert place.out.get("a5.jpg").data == b"came meanwhile"

    def test_a_write_that_a_store_passed_over_is_noticed(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Swift answers without an ETag where another's object of the same moment stays."""
        put = MemoryStore.put

        def lost(self: MemoryStore, key: str, data: bytes, *, over: str | None = None, **more: Any) -> ObjectInfo:
            if key != "a3.jpg":
                return put(self, key, data, **more)
            if over is not None:
                raise NoConditions("501")
            put(self, key, b"theirs")
            return ObjectInfo(key=key, size=len(data), etag="")

        monkeypatch.setattr(MemoryStore, "put", lost)
        assert NOT_OURS in str(place.run()["a3.jpg"].reason)


class TestConditionalWrites:
    def test_every_store_that_knows_conditions_keeps_to_them(self, place: Place) -> None:
        """Over nothing, over one version, and not over one that has changed or is gone; Swift says that it cannot."""
        put = place.out.put
        try:
            first = put("k", b"1", over="")
        except NoConditions:
            assert place.out.head("k") is None
            put("k", b"0")
            with pytest.raises(NoConditions):
                put("k", b"1", over="x")
            return
        with pytest.raises(Changed):
            put("k", b"2", over="")
        second = put("k", b"22", over=first.etag, metadata={"apf-n": "2"})
        with pytest.raises(Changed):
            put("k", b"3", over=first.etag, metadata={"apf-n": "3"})
        blob = place.out.get("k")
        assert (blob.data, blob.info.etag, blob.info.metadata) == (b"22", second.etag, {"apf-n": "2"})
        place.out.delete("k")
        with pytest.raises(Changed):
            put("k", b"4", over=second.etag)
        assert place.out.head("k") is None


class TestFolders:
    def test_without_hard_links_a_look_stands_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """FAT and some network file systems."""

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        store = open_store(tmp_path)
        store.put("k", b"1", over="")
        with pytest.raises(Changed):
            store.put("k", b"2", over="")
        assert store.get("k").data == b"1"
        assert list((tmp_path / ".apf/tmp").iterdir()) == []

    def test_marks_are_on_disk_before_their_output(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a power cut an output without them would be taken for the user's own, and never be replaced."""
        synced: list[str] = []
        fsync = os.fsync

        def watched(file: int) -> None:
            path = str(Path(f"/proc/self/fd/{file}").readlink())
            if path.endswith(".json"):
                assert not (tmp_path / "k").exists()
                assert Path(path).read_bytes()
            synced.append(path)
            fsync(file)

        monkeypatch.setattr(os, "fsync", watched)
        open_store(tmp_path).put("k", b"x", metadata={"apf-n": "1"})
        assert any(path.endswith(".json") for path in synced)

    def test_a_look_that_is_overtaken_by_a_write_looks_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else an output that is being replaced would seem to be the user's own for a moment."""
        store = open_store(tmp_path)
        store.put("k", b"1", metadata={"apf-n": "1"})
        read = FileStore._read_sidecar

        def overtaken(self: FileStore, key: str, etag: str) -> Mapping[str, str]:
            monkeypatch.setattr(FileStore, "_read_sidecar", read)
            store.put("k", b"22", metadata={"apf-n": "2"})
            return self._read_sidecar(key, etag)

        monkeypatch.setattr(FileStore, "_read_sidecar", overtaken)
        found = store.head("k")
        assert found is not None
        assert (found.size, found.metadata) == (2, {"apf-n": "2"})

    def test_marks_are_read_by_whichever_folder_they_were_written(self, tmp_path: Path) -> None:
        """A part of a destination, and what holds it, know its outputs too."""
        (tmp_path / "prot/2024").mkdir(parents=True)
        open_store(tmp_path / "prot").put("2024/a.jpg", b"x", metadata={SOURCE_ETAG: "e", RECIPE: "r"})
        open_store(tmp_path / "prot/2024").put("b.jpg", b"x", metadata={SOURCE_ETAG: "e", RECIPE: "r"})
        for folder, prefix in [(tmp_path, "prot/2024/"), (tmp_path / "prot", "2024/"), (tmp_path / "prot/2024", "")]:
            for name in ("a.jpg", "b.jpg"):
                found = open_store(folder).head(prefix + name)
                assert found is not None
                assert found.metadata == {SOURCE_ETAG: "e", RECIPE: "r"}, (folder, name)

    def test_a_part_of_a_library_finds_the_outputs_of_the_whole(self, tmp_path: Path) -> None:
        """The photo is the same one, wherever source and key are cut."""
        whole = Place(*(open_store(tmp_path / name, create=True) for name in ("lib", "other", "out")), Settings())
        whole.album.put("2024/a.jpg", b"one")
        whole.run()
        (tmp_path / "out/2024").mkdir(exist_ok=True)
        stores = [open_store(tmp_path / name) for name in ("lib/2024", "other", "out/2024")]
        part = Place(*stores, Settings())
        assert part.run(batch_id="b2")["a.jpg"].outcome is Outcome.skipped
        part.album.put("a.jpg", b"one, edited")
        assert part.run(batch_id="b3")["a.jpg"].outcome is Outcome.protected
        assert whole.out.get("2024/a.jpg").data == b"protected:one, edited"


def test_outputs_name_no_source(tmp_path: Path) -> None:
    """Where outputs are public, marks tell a digest alone."""
    place = Place(*(open_store(tmp_path / name, create=True) for name in ("ann", "other", "out")), Settings())
    fill(place.album, a="one")
    place.run()
    found = place.out.head("a.jpg")
    assert found is not None
    assert {SOURCE, SOURCE_ETAG, RECIPE, BATCH, OUTCOME} <= found.metadata.keys()
    assert not [value for value in found.metadata.values() if "ann" in value or str(tmp_path) in value]


def test_s3_options_of_the_ledger_are_the_batches(swift: S3Server) -> None:
    """The source of an older batch is read where its ledger lies."""
    settings = Settings(s3_endpoint_url=swift.endpoint_url)
    out = f"s3://{swift.new_bucket()}"
    ledger = open_ledger(out, s3=S3Options(endpoint_url=swift.endpoint_url))
    ledger.write_batch(make_batch("s3://photos", out))
    asked = sources_in(ledger, open_ledger(out, s3=settings.s3))
    assert (asked("b1"), asked("unknown")) == ("s3://photos", None)
