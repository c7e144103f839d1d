"""Forgotten photos: nothing names them any more, and nothing makes their outputs again."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.memory_store import MemoryStore
from tests.workers.fakes import FakeBroker, FakeEngine
from tests.workers.schedules.world import World, world
from workers.batches.create import AllForgotten, BatchOptions, check_not_forgotten, create_batch, new_batch
from workers.batches.plan import key_digest, plan
from workers.batches.rescue import plan_and_send, resume
from workers.batches.retry import retry
from workers.config.settings import Settings
from workers.core.clock import now
from workers.core.records import Batch, Outcome, PhotoRef, ShardJob
from workers.deletion import forget as forget_module
from workers.deletion.forget import Forgotten, forget, remember
from workers.errors import BadRequest, NotAllowed, StoreUnavailable
from workers.execution.run_shard import report_lost_shard, run_shard
from workers.ledger.audit import acts
from workers.ledger.batch_ledger import Ledger
from workers.ledger.forgotten import PAGE, forgotten_among, forgotten_in, mark
from workers.ledger.leases import ShardLease
from workers.ledger.open_batches import register
from workers.schedules import lease
from workers.schedules.outcome import digest
from workers.status.batch_status import BatchMonitor
from workers.store import open_store

__all__ = ["world"]

SECRET = "anna müller/klinik 'A' \"1\".jpg"


def forgotten(world: World, *keys: str, **options: Any) -> Forgotten:
    return forget(world.destination.url, keys or [SECRET], world.settings, actor="me@here", **options)


def everything(*names: str) -> Iterator[tuple[str, bytes]]:
    """All objects of these stores, the ledger's among them, and their metadata, with what packed ones hold."""
    for name in names:
        for key, found in list(MemoryStore(f"memory://{name}")._objects.items()):
            yield key, b"\n".join(unpacked(found.data)) + repr(dict(found.metadata)).encode()


def unpacked(data: bytes) -> list[bytes]:
    found = [data]
    if data[:2] == b"\x1f\x8b":
        found.append(gzip.decompress(data))
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found += [name.encode() + archive.read(name) for name in archive.namelist()]
    return found


def forms(key: str, etags: Sequence[str]) -> set[bytes]:
    """In what ways an object might name a photo."""
    raw = key.encode()
    texts = {raw, quote(key).encode(), repr(key)[1:-1].encode(), base64.b64encode(raw).rstrip(b"=")[:-1]}
    texts |= {key.encode("unicode_escape"), key.replace('"', '\\"').encode()}
    for hashed in (hashlib.md5, hashlib.sha1, hashlib.sha256):
        texts.add(hashed(raw).hexdigest()[:16].encode())
        texts.add(base64.b64encode(hashed(raw).digest())[:16])
    return texts | {digest(key, etag).encode() for etag in etags} | {key_digest(key).encode()}


def naming(key: str, etags: Sequence[str], *stores: str) -> list[str]:
    """The objects that name a photo in some way."""
    wanted = forms(key, etags)
    return [name for name, data in everything(*stores) if any(form in name.encode() + b"\0" + data for form in wanted)]


def secret_world(world: World, text: str = "face") -> str:
    """A secret among other photos; its ETag."""
    world.photos("a", "b", "c", "d", "zz")
    return world.source.put(SECRET, f"{text} of anna".encode()).etag


def named_batch(world: World, *keys: str, **asked: Any) -> tuple[Ledger, Batch]:
    """A batch that names its photos, as a backend submits it, with its plan."""
    from workers.batches.plan import counted  # noqa: PLC0415
    from workers.batches.rescue import send_named  # noqa: PLC0415

    ledger, batch = new_batch(
        world.source.url, world.destination.url, BatchOptions(recipe="light", **asked), world.settings, listed=False
    )
    infos = [world.source.head(key) for key in keys]
    refs = tuple(PhotoRef(key=info.key, etag=info.etag, size=info.size) for info in infos if info)
    batch = counted(batch.model_copy(update={"named": refs, "planner": "p"}))
    register(ledger, batch, world.settings)
    ledger.write_batch(batch)
    send_named(ledger, batch, FakeBroker(world.sent.append))
    return ledger, batch


def test_nothing_names_a_forgotten_photo(world: World) -> None:
    """After a schedule, a failure, a retry, an upload with its callback's body, a checkpoint and a try that died in it:
    no object's name, bytes, metadata or hash tells of it, and all others' records stay.
    """
    etag = secret_world(world, "corrupt")
    world.add(every=3600, on_change=("new",))
    world.run()
    batch = world.run_batches()[0]
    retry(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    world.work()
    world.tick(1)
    _, upload = named_batch(world, SECRET, "a.jpg", callback="https://backend/hook")
    world.work()
    key = world.ledger.key(upload.id, "callback", "00001.json")
    world.ledger.store.put(key, f'{{"data":{{"results":[{{"key":{quoted(SECRET)}}}]}}}}'.encode())
    other = named_batch(world, SECRET, "b.jpg")[1]
    ShardLease(world.ledger, other.id, 0, lease_s=0.01).hold(SECRET)
    etags = [etag]
    assert len(naming(SECRET, etags, "out")) >= 8
    done = forgotten(world)
    assert (done.left, done.keys) == ((), 1)
    assert done.records >= 8
    assert naming(SECRET, etags, "out") == []
    assert world.source.get(SECRET).data == b"corrupt of anna", "the original stays"
    totals = BatchMonitor(world.ledger, batch.id).poll()
    assert (totals.photos, totals.protected, totals.failed, totals.missing, totals.pending) == (5, 5, 0, 0, 0)


def quoted(text: str) -> str:
    import json  # noqa: PLC0415

    return json.dumps(text, ensure_ascii=False)


def test_its_output_goes_and_other_objects_of_its_name_stay(world: World) -> None:
    """What apf did not write is the user's, and is told."""
    secret_world(world)
    world.add()
    world.run()
    assert world.destination.head(SECRET)
    assert forgotten(world).outputs == 1
    assert world.destination.head(SECRET) is None
    assert {info.key for info in world.destination.list()} == {f"{name}.jpg" for name in ("a", "b", "c", "d", "zz")}
    world.destination.put("e.jpg", b"the user's")
    done = forgotten(world, "e.jpg")
    assert done.outputs == 0
    assert "not written by apf" in done.left[0]
    assert world.destination.get("e.jpg").data == b"the user's"


@pytest.mark.parametrize("name", ["anna.jpg", "0.jpg", "zzz.jpg"])
def test_a_schedule_leaves_it_out_for_good(world: World, name: str) -> None:
    """On the clock and on new photos, whether it is the first, some or the last of the listing; no new record names
    it, and no run is made for it alone.
    """
    world.photos("a", "b", "c")
    etag = world.source.put(name, b"face of anna").etag
    world.add(every=3600, on_change=("new",))
    world.run()
    forgotten(world, name)
    assert world.tick(1) == [], "it alone is no reason to run"
    world.source.put(name, b"face of anna, newer")
    assert world.tick(1) == []
    world.photos("e")
    assert world.run(1) == ["e"]
    world.add("clock", every=3600)
    assert set(world.run(1)) <= {"a", "b", "c", "e"}
    assert world.destination.head(name) is None
    assert naming(name, [etag], "out") == []
    batch = next(b for b in map(world.ledger.read_batch, world.ledger.batches()) if b.schedule == "clock")
    assert BatchMonitor(world.ledger, batch.id).poll().left_out.forgotten == 1


def test_it_comes_back_where_it_is_asked_for(world: World) -> None:
    """By the option for one batch, and by remember for all."""
    secret_world(world)
    forgotten(world)
    asked = BatchOptions(recipe="light", include_forgotten=True)
    _, batch = create_batch(world.source.url, world.destination.url, asked, world.settings)
    plan_and_send(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    world.work()
    assert world.destination.head(SECRET)
    forgotten(world)
    assert world.destination.head(SECRET) is None
    assert remember(world.destination.url, [SECRET, "a.jpg"], world.settings, actor="me@here") == 1
    world.add()
    world.run()
    assert world.destination.head(SECRET)


def test_a_batch_of_forgotten_photos_alone_is_refused(world: World) -> None:
    """The error says how to take them back."""
    secret_world(world)
    forgotten(world)
    ledger, batch = named_batch(world, SECRET)
    with pytest.raises(AllForgotten, match="apf remember"):
        check_not_forgotten(ledger, batch)


def test_an_upload_of_it_alone_goes_whole(world: World) -> None:
    """Its batch is deleted once nobody waits for it, and nothing is listed instead of what it named."""
    secret_world(world)
    _, batch = named_batch(world, SECRET)
    forgotten(world)
    assert world.ledger.has_batch(batch.id), "a shard of it waits"
    world.work()
    assert world.destination.head(SECRET) is None
    assert list(world.destination.list()) == []
    assert forgotten(world).batches == (batch.id,)
    assert not world.ledger.has_batch(batch.id)


@pytest.mark.parametrize("moment", ["before", "reading", "writing", "report"])
def test_a_worker_that_is_at_it_brings_nothing_back(world: World, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does in that moment: neither output nor report names the photo when both have ended."""
    secret_world(world)
    _, batch = create_batch(world.source.url, world.destination.url, BatchOptions(recipe="light"), world.settings)
    plan_and_send(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    shard = next(job for job in world.sent if any(r.key == SECRET for r in world.ledger.read_plan(batch.id, job.shard)))
    done: list[Forgotten] = []

    def now_forget() -> None:
        if not done:
            done.append(forgotten(world, wait_s=0))

    def patch(store_url: str, method: str, matches: str, *, after: bool = False) -> None:
        real = getattr(MemoryStore, method)

        def called(self: MemoryStore, key: str, *args: Any, **kwargs: Any) -> Any:
            hit = self.url == store_url and key.startswith(matches) and not done
            if hit and not after:
                now_forget()
            answer = real(self, key, *args, **kwargs)
            if hit and after:
                now_forget()
            return answer

        monkeypatch.setattr(MemoryStore, method, called)

    match moment:
        case "before":
            now_forget()
        case "reading":
            patch(world.source.url, "get", SECRET, after=True)
        case "writing":
            patch(world.destination.url, "put", SECRET, after=True)
        case "report":
            patch(world.destination.url, "put", world.ledger.key(batch.id, "reports"), after=True)
    run_shard(shard, world.settings, load=lambda *_: FakeEngine())
    world.work()
    assert done
    if moment in ("report", "writing", "reading"):
        assert "still at batch" in "".join(done[0].left)
        assert forgotten(world).left == ()
    assert world.destination.head(SECRET) is None
    assert naming(SECRET, [], "out") == []
    summary = BatchMonitor(world.ledger, batch.id).poll()
    assert (summary.photos, summary.missing, summary.pending) == (5, 0, 0)


def test_a_try_that_began_before_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes until its end goes, too."""
    secret_world(world)
    _, batch = create_batch(world.source.url, world.destination.url, BatchOptions(recipe="light"), world.settings)
    plan_and_send(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    attempt = ShardLease(world.ledger, batch.id, 0, lease_s=60)
    attempt.beat()
    output = b"protected anna"

    def ends(_: float) -> None:
        marks = {"apf-source-etag": "x", "apf-recipe": "y"}
        world.destination.put(SECRET, output, metadata=marks)
        attempt.end()

    monkeypatch.setattr(forget_module.time, "sleep", ends)
    done = forgotten(world)
    assert (done.left, done.outputs) == ((), 1)
    assert world.destination.head(SECRET) is None


def test_a_planner_that_is_at_it_is_waited_for_and_plans_it_no_more(world: World) -> None:
    """A photo that is forgotten between its listing and its plan is in no plan, and the counts are right."""
    secret_world(world)
    _, batch = create_batch(world.source.url, world.destination.url, BatchOptions(recipe="light"), world.settings)
    steps = plan(world.ledger, batch, world.source, planner="me")
    grown = next(steps)
    done = forgotten(world, wait_s=0)
    assert "planner is still at" in done.left[0]
    for grown in steps:  # noqa: B007
        pass
    assert forgotten(world).left == ()
    assert naming(SECRET, [], "out") == []
    for shard in range(grown.shards):
        run_shard(ShardJob(batch_url=world.ledger.batch_url(batch.id), shard=shard), world.settings,
                  load=lambda *_: FakeEngine())  # fmt: skip
    summary = BatchMonitor(world.ledger, batch.id).poll()
    assert (summary.photos, summary.protected, summary.missing, summary.pending) == (5, 5, 0, 0)


def test_a_torn_plan_is_made_anew_without_it(world: World) -> None:
    """By a listing, and of named photos as they were cut."""
    secret_world(world)
    _, batch = create_batch(world.source.url, world.destination.url, BatchOptions(recipe="light"), world.settings)
    plan_and_send(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    _, named = named_batch(world, "a.jpg", SECRET, "b.jpg", "c.jpg", "d.jpg")
    before = [[r.key for r in world.ledger.read_plan(named.id, shard)] for shard in range(named.shards)]
    forgotten(world)
    for one in (batch, named):
        for shard in range(one.shards):
            world.ledger.store.put(world.ledger.key(one.id, "plan", f"{shard:05}.jsonl"), b"{")
        resume(world.ledger, one.id, FakeBroker(world.sent.append), world.settings)
    after = [[r.key for r in world.ledger.read_plan(named.id, shard)] for shard in range(named.shards)]
    assert after == [[key for key in keys if key != SECRET] for keys in before]
    assert naming(SECRET, [], "out") == []


def test_a_shard_that_is_given_up_does_not_name_it(world: World) -> None:
    """Nor the reason of another photo that speaks of it."""
    secret_world(world)
    _, batch = create_batch(world.source.url, world.destination.url, BatchOptions(recipe="light"), world.settings)
    plan_and_send(world.ledger, batch.id, FakeBroker(world.sent.append), world.settings)
    mark(world.ledger, [SECRET])
    for job in world.sent:
        report_lost_shard(job, world.settings, RuntimeError(f"{SECRET!r} broke it"))
    assert {p.outcome for p in BatchMonitor(world.ledger, batch.id).photos()} == {Outcome.failed}
    forgotten(world)
    assert naming(SECRET, [], "out") == []
    reasons = {photo.reason for photo in BatchMonitor(world.ledger, batch.id).photos()}
    assert reasons == {"the shard was given up: '[forgotten]' broke it"}


def test_a_pattern_that_names_it_goes(world: World) -> None:
    """From batches and schedules that there are, and from those to come, whose source's own file still has it."""
    world.photos("a", "b")
    world.source.put("anna.jpg", b"face of anna")
    world.source.put(".apfignore", b"/anna.jpg\n*.png\n")
    world.add(exclude=("anna.jpg", "drafts/"))
    world.run()
    forgotten(world, "anna.jpg")
    world.run(1)
    assert naming("anna.jpg", [], "out") == []
    assert world.run_batches()[0].exclude == ("*.png", "drafts/")
    assert world.repository.read("nightly").exclude == ("drafts/",)


def test_dry_run_counts_and_changes_nothing(world: World) -> None:
    """Not a byte, and no mark."""
    secret_world(world)
    world.add()
    world.run()
    before = dict(everything("out", "in"))
    done = forgotten(world, dry_run=True)
    assert dict(everything("out", "in")) == before
    assert (done.outputs, done.records) == (1, 2)
    assert forgotten(world).records == done.records
    assert forgotten(world).records == 0


def test_the_audit_log_says_who_and_how_many(world: World) -> None:
    """And no name."""
    secret_world(world)
    forgotten(world)
    remember(world.destination.url, [SECRET], world.settings, actor="you@there")
    lines = list(acts(world.ledger))
    assert [(line.who, line.act, line.facts["photos"]) for line in lines] == [
        ("me@here", "forget", 1),
        ("you@there", "remember", 1),
    ]
    assert list(acts(world.ledger, now() + timedelta(seconds=5))) == []
    assert naming(SECRET, [], "out") == []


def test_many_marks_are_asked_for_by_name(world: World) -> None:
    """More than a page of a listing holds; few keys and many."""
    marks = mark(world.ledger, [f"{number}.jpg" for number in range(PAGE + 50)])
    few = [f"{number}.jpg" for number in range(PAGE + 45, PAGE + 55)]
    assert forgotten_among(world.ledger, few) == set(few[:5])
    many = [f"{number}.jpg" for number in range(PAGE + 300)]
    assert len(forgotten_among(world.ledger, many)) == PAGE + 50
    assert len(marks.every) == PAGE + 50
    again = forgotten_in(world.ledger)
    assert again is not None
    assert again.salt == marks.salt
    assert forgotten_in(Ledger(open_store("memory://elsewhere", create=True), ".apf")) is None


@pytest.mark.parametrize("keys", [[], [""], [".apf/batches/x"], ["s3://bucket/a.jpg"], ["x"] * 1])
def test_what_is_no_key_is_refused(world: World, keys: list[str]) -> None:
    """Before anything is deleted; one that nobody knows is only marked."""
    if keys == ["x"]:
        assert forgotten(world, "x").left == ()
        return
    with pytest.raises(BadRequest):
        forget(world.destination.url, keys, world.settings, actor="me")


def test_other_keys_that_look_alike_stay(world: World) -> None:
    """Its name is a part of theirs."""
    for key in ("1.jpg", "11.jpg", "a/1.jpg", "1.jpg.png"):
        world.source.put(key, b"corrupt " + key.encode())
    world.add()
    world.run()
    forgotten(world, "1.jpg")
    batch = world.run_batches()[0]
    assert [p.key for p in BatchMonitor(world.ledger, batch.id).photos()] == ["1.jpg.png", "11.jpg", "a/1.jpg"]


@pytest.mark.rotating
@pytest.mark.parametrize("dies_at", range(24))
def test_a_command_that_dies_is_repeated(world: World, dies_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its writes fails: the second time nothing is left, and no batch is short of a photo."""
    monkeypatch.setattr(lease, "LEASE_S", 1)
    secret_world(world)
    world.add(every=3600, on_change=("new",))
    world.run()
    _, upload = named_batch(world, SECRET, "a.jpg")
    world.work()
    writes = 0

    def failing(method: str) -> None:
        real = getattr(MemoryStore, method)

        def called(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == dies_at + 1:
                raise StoreUnavailable("killed")
            return real(self, *args, **kwargs)

        patch.setattr(MemoryStore, method, called)

    with monkeypatch.context() as patch:
        failing("put")
        failing("delete")
        try:
            forgotten(world)
        except StoreUnavailable:
            assert writes > dies_at
    assert forgotten(world).left == ()
    assert naming(SECRET, [], "out") == []
    for batch_id in world.ledger.batches():
        summary = BatchMonitor(world.ledger, batch_id).poll()
        assert (summary.pending, summary.missing) == (0, 0)
    assert world.tick(1) == [], "the schedule's run is whole"
    assert world.ledger.read_batch(upload.id).photos <= 1


def test_a_destination_outside_the_allowed_is_refused(world: World) -> None:
    """Before anything is read."""
    with pytest.raises(NotAllowed):
        forget("memory://elsewhere/public", ["a.jpg"], world.settings, actor="me")


@pytest.mark.parametrize("server", ["moto_server", "swift"])
def test_a_bucket_is_swept_as_a_folder_is(request: pytest.FixtureRequest, server: str) -> None:
    """With the ledger in a bucket of its own; Swift knows no conditional writes."""
    s3 = request.getfixturevalue(server)
    bucket, ledgers = s3.new_bucket(), s3.new_bucket()
    settings = Settings(
        s3_endpoint_url=s3.endpoint_url,
        ledger_url=f"s3://{ledgers}/private",
        shard_photos=2,
        allowed_urls=f"s3://{bucket}",
    )
    source = open_store(f"s3://{bucket}/in", s3=settings.s3)
    for key in ("a.jpg", SECRET, "c.jpg"):
        source.put(key, b"face of " + key[:1].encode())
    asked = BatchOptions(recipe="light")
    ledger, batch = create_batch(source.url, f"s3://{bucket}/out", asked, settings)
    sent: list[ShardJob] = []
    plan_and_send(ledger, batch.id, FakeBroker(sent.append), settings)
    for job in sent:
        run_shard(job, settings, load=lambda *_: FakeEngine())
    done = forget(batch.destination, [SECRET], settings, actor="me")
    assert (done.outputs, done.left) == (1, ())
    for name in (bucket, ledgers):
        store = open_store(f"s3://{name}", s3=settings.s3)
        for info in store.list():
            if info.key != f"in/{SECRET}":
                data = info.key.encode() + store.get(info.key).data
                assert not [form for form in forms(SECRET, []) if form in data], info.key
    assert source.head(SECRET)
    assert [photo.key for photo in BatchMonitor(ledger, batch.id).photos()] == ["a.jpg", "c.jpg"]
    again = create_batch(source.url, batch.destination, asked, settings)[1]
    plan_and_send(ledger, again.id, FakeBroker(sent.append), settings)
    assert BatchMonitor(ledger, again.id).poll().left_out.forgotten == 1
