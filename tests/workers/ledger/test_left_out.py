"""What a source holds besides planned photos: counted once, named, and never silent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.execution.test_shard_pipeline import make_batch
from workers.batches.create import BatchOptions, excluded_in, new_batch
from workers.batches.plan import plan
from workers.batches.repair_plan import caught_up, planned_anew
from workers.callbacks.payload import BatchDone
from workers.config.settings import Settings
from workers.core.records import Batch
from workers.errors import Forbidden
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.left_out import NAMED, RECORD, LeftOuts, read_left_outs
from workers.report.page import Scope, render
from workers.status.as_json import json_object
from workers.status.batch_status import BatchMonitor
from workers.store import LeftOut, open_store

counter = iter(range(1_000_000))


def scene(folder: str | Path, **fields: Any) -> tuple[Ledger, Batch]:
    """A batch of a folder, into memory."""
    destination = f"memory://left-out-{next(counter)}"
    ledger = open_ledger(destination)
    batch = make_batch(open_store(folder).url, destination, **fields)
    ledger.write_batch(batch)
    return ledger, batch


def planned(folder: str | Path, **fields: Any) -> tuple[list[str], LeftOuts, Batch]:
    """The keys that are planned of a folder, what is left out, and the batch."""
    ledger, batch = scene(folder, **fields)
    for _ in plan(ledger, batch, open_store(folder), planner="a"):
        pass
    batch = ledger.read_batch(batch.id)
    keys = [ref.key for shard in range(batch.shards) for ref in ledger.read_plan(batch.id, shard)]
    return keys, read_left_outs(ledger, batch), batch


@contextmanager
def nobody() -> Iterator[Path]:
    """A folder of a user who is not root, as that user."""
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)
        return
    place = tempfile.mkdtemp()
    os.chown(place, 65534, 65534)
    os.seteuid(65534)
    try:
        yield Path(place)
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


def test_names_and_links_that_cannot_be_keys_are_counted_with_their_reasons(tmp_path: Path) -> None:
    """What looks like a photo and is not planned is named, printable; what does not look like one is not."""
    root, outside = tmp_path / "in", tmp_path / "outside"
    root.mkdir()
    (outside / "deep").mkdir(parents=True)
    (outside / "o.jpg").write_bytes(b"x")
    for name in (b"a.jpg", b"caf\xe9.jpg", b"back\\slash.jpg", b"caf\xe9.txt"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
    (Path(os.fsdecode(os.fsencode(root) + b"/\xe9t\xe9"))).mkdir()
    (root / "out.jpg").symlink_to(outside / "o.jpg")
    (root / "album").symlink_to(outside / "deep")
    (root / "nothing.jpg").symlink_to("nowhere")
    (root / "notes.txt").symlink_to("nowhere")
    (root / "circle.jpg").symlink_to("circle.jpg")
    (root / "here").symlink_to(".")
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.jpg"))
        keys, left_out, batch = planned(root)
    assert keys == ["a.jpg"]
    reasons = {one.key: one.reason for one in left_out.named}
    assert {key: reason.partition(":")[0] for key, reason in reasons.items()} == {
        "album/": "it is a link to a folder outside",
        "back\\slash.jpg": "it has a backslash in its name",
        "caf\\xe9.jpg": "its name is not valid UTF-8",
        "circle.jpg": "it is a symbolic link to nothing",
        "nothing.jpg": "it is a symbolic link to nothing",
        "out.jpg": "it is a symbolic link that leaves the source",
        "pipe.jpg": "it is not a regular file",
        "socket.jpg": "it is not a regular file",
        "\\xe9t\\xe9/": "its name is not valid UTF-8",
    }
    assert left_out.total == len(reasons)
    assert (batch.photos, batch.ignored) == (1, 0)


def test_an_unreadable_folder_costs_its_own_photos_alone() -> None:
    """The rest is planned, and the folder is named; so where a folder may be read and not entered."""
    with nobody() as root:
        for name in ("2024", "closed", "half"):
            (root / name).mkdir()
            (root / name / "a.jpg").write_bytes(b"x")
        (root / "z.jpg").write_bytes(b"x")
        (root / "closed").chmod(0)
        (root / "half").chmod(0o400)
        keys, left_out, _ = planned(root)
        excluded = planned(root, exclude=("closed/", "/half/"))
        for name in ("closed", "half"):
            (root / name).chmod(0o700)
    assert keys == ["2024/a.jpg", "z.jpg"]
    assert [one.key for one in left_out.named] == ["closed/", "half/a.jpg"]
    assert all("no permission" in one.reason for one in left_out.named)
    assert (excluded[0], excluded[1].total) == (["2024/a.jpg", "z.jpg"], 0)


def test_a_source_that_may_not_be_read_is_refused() -> None:
    """The source's own folder is no folder among others."""
    with nobody() as root:
        (root / "in").mkdir()
        (root / "in").chmod(0)
        with pytest.raises(Forbidden, match="no permission"):
            planned(root / "in")


def test_a_folder_that_vanishes_while_it_is_walked_is_none(tmp_path: Path) -> None:
    """What is gone is no photo that was left out."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    told: list[LeftOut] = []
    listing = open_store(tmp_path).list(left_out=told.append)
    found = [next(listing).key]
    shutil.rmtree(tmp_path / "b")
    found += [info.key for info in listing]
    assert (found, told) == (["a/1.jpg", "c/1.jpg"], [])


@given(stop_after=st.integers(0, 6), lost=st.sampled_from(["nothing", "batch"]))
def test_each_is_counted_once_whenever_planning_breaks_off(stop_after: int, lost: str) -> None:
    """A planner that goes on counts nothing twice, also where the last one died before it wrote the batch."""
    with tempfile.TemporaryDirectory() as place:
        root = os.fsencode(place)
        for number in range(8):
            for name in (b"%d.jpg", b"%d\\.jpg", b"%d\xe9.jpg", b"._%d.jpg"):
                Path(os.fsdecode(root + b"/" + name % number)).write_bytes(b"x")
        ledger, batch = scene(place, max_shard_photos=1)
        first = plan(ledger, batch, open_store(place), planner="a")
        before = batch
        for _, grown in zip(range(stop_after), first, strict=False):
            before, batch = batch, grown
        first.close()
        if lost == "batch":
            ledger.write_batch(before)
        known = caught_up(ledger, ledger.read_batch(batch.id))
        for _ in plan(ledger, known, open_store(place), planner="b"):
            pass
        left_out = read_left_outs(ledger, batch)
        assert (left_out.total, left_out.excluded) == (16, 8)
        assert len({one.key for one in left_out.named}) == 16
        assert ledger.read_batch(batch.id).photos == 8


def test_no_more_than_a_hundred_are_named(tmp_path: Path) -> None:
    """The record stays small, and its total is whole."""
    for number in range(NAMED + 5):
        (tmp_path / f"{number}\\.jpg").write_bytes(b"x")
    _, left_out, _ = planned(tmp_path)
    assert (left_out.total, len(left_out.named)) == (NAMED + 5, NAMED)


def test_both_parts_of_a_rollout_count_each_once(tmp_path: Path) -> None:
    """Two batches list one source, and each names what lies in its own part."""
    for number in range(20):
        (tmp_path / f"{number:02}\\.jpg").write_bytes(b"x")
    parts = [planned(tmp_path, part=part, fraction=0.5, schedule="s")[1] for part in ("fraction", "rest")]
    keys = [one.key for left_out in parts for one in left_out.named]
    assert all(left_out.total for left_out in parts)
    assert len(keys) == len(set(keys)) == 20


def test_excluded_photos_are_ignored_and_counted(tmp_path: Path) -> None:
    """The default list, the source's own file and the batch's patterns leave out, and totals add up."""
    for name in ("a.jpg", "._a.jpg", "b.png", "@eaDir/a.jpg/THUMB.jpg", "drafts/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".apfignore").write_text("drafts/\n")
    patterns = excluded_in(open_store(tmp_path), ["*.png"])
    assert patterns == ("drafts/", "*.png")
    keys, left_out, batch = planned(tmp_path, exclude=patterns)
    assert keys == ["a.jpg"]
    assert (batch.photos, batch.ignored, left_out.excluded, left_out.total) == (1, 6, 4, 0)


def test_a_torn_plan_is_made_anew_without_excluded_photos(tmp_path: Path) -> None:
    """The patterns lie in the batch's record, so whoever mends it leaves out the same."""
    for name in ("a.jpg", "._b.jpg", "c.png", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    ledger, batch = scene(tmp_path, exclude=("*.png",))
    for grown in plan(ledger, batch, open_store(tmp_path), planner="a"):
        batch = grown
    ledger.store.delete(ledger.key(batch.id, "plan", "00000.jsonl"))
    anew = planned_anew(ledger, batch, 0, open_store(tmp_path))
    assert [ref.key for ref in anew[0]] == ["a.jpg", "d.jpg"]


def test_named_photos_are_never_excluded(tmp_path: Path) -> None:
    """Who names a photo means it; a source that is listed reads its own file."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".apfignore").write_text("*.png\n")
    asked = BatchOptions(exclude=("*.webp",))
    source, destination = str(tmp_path / "in"), str(tmp_path / "out")
    listed = new_batch(source, destination, asked, Settings())[1]
    named = new_batch(source, destination, asked, Settings(), listed=False)[1]
    assert (listed.exclude, named.exclude) == (("*.png", "*.webp"), ())


def test_a_batch_that_excludes_nothing_is_written_as_before() -> None:
    """Older workers read the record, and one with patterns is left to newer ones."""
    batch = make_batch("memory://a", "memory://b")
    assert "exclude" not in json.loads(batch.model_dump_json())
    record = batch.model_copy(update={"exclude": ("*.png",)}).model_dump_json()
    assert Batch.model_validate_json(record).exclude == ("*.png",)


def test_it_is_told_by_status_callback_and_page(tmp_path: Path) -> None:
    """The summary, its JSON and the report's page name what was left out."""
    (tmp_path / "a\\<b>.jpg").write_bytes(b"x")
    ledger, batch = scene(tmp_path)
    for _ in plan(ledger, batch, open_store(tmp_path), planner="a"):
        pass
    summary = BatchMonitor(ledger, batch.id).poll()
    told = json_object(summary)
    reason = "it has a backslash in its name: rename it"
    assert (told["left_out"], told["left_out_first"]) == (1, [{"key": "a\\<b>.jpg", "reason": reason}])
    assert "left_out" in BatchDone.model_fields
    scope = Scope(shown=0, of=0, measured=0, unmeasured=0, with_originals=False, beside=False)
    assert "a\\&lt;b&gt;.jpg (it has a backslash" in render(summary, [], scope)


def test_a_torn_record_is_not_taken_for_none(tmp_path: Path) -> None:
    """Status says that it is not known what was left out, and planning goes on."""
    (tmp_path / "a\\.jpg").write_bytes(b"x")
    ledger, batch = scene(tmp_path)
    ledger.store.put(ledger.key(batch.id, RECORD), b"{")
    (one,) = BatchMonitor(ledger, batch.id).poll().left_out.named
    assert "is not known" in one.reason
    for _ in plan(ledger, batch, open_store(tmp_path), planner="a"):
        pass
    assert BatchMonitor(ledger, batch.id).poll().left_out.total == 2
