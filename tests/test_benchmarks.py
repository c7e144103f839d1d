"""The benchmarks: that they record and pair, and that what they compare gives the same output and adds up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from apf.filters.load import PhotoFilter, load_filter
from apf.photo import decode
from apf.protect.pipeline import protect_photo
from apf.recipe import make_recipe
from tests.benchmarks import bench_bound, bench_peers, bench_steps, paired, parts, plain_celery
from tests.benchmarks.photos import FACE_HEIGHT, jpeg
from tests.benchmarks.record import ROOT, cores, record, table
from tests.benchmarks.side_by_side import SideBySide, merged
from tests.benchmarks.warm_worker import WarmWorker
from tests.conftest import S3Server


@pytest.fixture(scope="module")
def filter() -> PhotoFilter:
    return load_filter()


def test_a_record_is_printed_last_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of stdout is the entry, and the history has one line for each run, with what it was run on."""
    for seconds in (1.5, 2.5):
        print("a table")
        record("some", {"photo_s": seconds}, history=tmp_path)
    kept = (tmp_path / "some.jsonl").read_text().splitlines()
    assert [json.loads(line)["figures"]["photo_s"] for line in kept] == [1.5, 2.5]
    assert capsys.readouterr().out.splitlines()[-1] == kept[-1]
    entry = json.loads(kept[0])
    assert set(entry) == {"name", "commit", "dirty", "date", "machine", "python", "figures"}
    assert entry["machine"]["cores"] == cores() > 0


def test_a_table_has_the_columns_of_all_rows() -> None:
    """Markdown with three digits a float, right-aligned numbers, and empty cells for what a row lacks."""
    lines = table([{"what": "a|b", "s": 1.23456}, {"what": "c", "s": None, "photos": 12345.6}]).splitlines()
    assert lines == [
        "| what | s | photos |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.23 |  |",
        "| c |  | 12346 |",
    ]


def test_numbers_are_found_wherever_they_are() -> None:
    """Nested figures become dotted names; texts, booleans and nothing are no numbers."""
    figures = {"a": 1, "b": {"c": [2.5, {"d": 3}]}, "text": "x", "yes": True, "none": None}
    assert paired.numbers(figures) == {"a": 1.0, "b.c.0": 2.5, "b.c.1.d": 3.0}


def test_ratios_are_of_pairs() -> None:
    """A machine that slows down for one pair moves both sides of it, and not the ratio; zeros have none."""
    pairs = [
        ({"s": 2.0, "zero": 1.0, "ours": 1.0}, {"s": 1.0, "zero": 0.0}),
        ({"s": 30.0, "zero": 1.0, "ours": 1.0}, {"s": 10.0, "zero": 0.0}),
    ]
    (row,) = paired.ratios(pairs)
    assert row["figure"] == "s"
    assert (row["ratio, min"], row["ratio, median"], row["ratio, max"]) == (2.0, 2.5, 3.0)
    assert paired.ratios([]) == []


def test_pairing_runs_the_code_of_both_commits(tmp_path: Path) -> None:
    """A benchmark and networks that the commit lacks are lent to it, run on its code, and its worktree is gone then."""
    here = tmp_path / "repository"
    (here / "tests/benchmarks").mkdir(parents=True)
    for name in ("__init__.py", "record.py", "paired.py"):
        (here / "tests/benchmarks" / name).write_text((ROOT / "tests/benchmarks" / name).read_text())
    (here / "tests/__init__.py").touch()
    (here / "apf").mkdir()
    (here / "apf/__init__.py").touch()
    reading = "seconds = float((Path(__file__).parent / 'apf/third_party/weight').read_text())\n"
    (here / "measured.py").write_text(f"from pathlib import Path\n{reading}")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "before"]):
        subprocess.run(["git", *command], cwd=here, check=True)
    (here / "measured.py").write_text("seconds = 3.0\n")
    (here / "apf/third_party").mkdir()
    (here / "apf/third_party/weight").write_text("2.0")
    (here / "tests/benchmarks/bench_it.py").write_text(
        "from measured import seconds\nfrom tests.benchmarks.record import record\nrecord('it', {'s': seconds})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.paired", "bench_it", "--against", "HEAD", "--runs", "2"],
        cwd=here, env={**os.environ, "PYTHONPATH": str(here)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (row,) = json.loads(ended.stdout.splitlines()[-1])["figures"]["ratios"]
    assert (row["ours"], row["theirs"], row["ratio, median"]) == (3.0, 2.0, 1.5)
    trees = subprocess.run(["git", "worktree", "list"], cwd=here, check=True, capture_output=True, text=True).stdout
    assert len(trees.splitlines()) == 1


@pytest.mark.parametrize("faces", [0, *FACE_HEIGHT])
def test_a_photo_has_the_faces_that_are_said(filter: PhotoFilter, faces: int) -> None:
    """The detector finds as many faces as the photo is made with, and another seed gives another photo."""
    photo = decode(jpeg(1, faces))
    assert len(filter.detector.detect([photo.pixels])[0]) == faces
    assert photo.pixels.shape[0] * photo.pixels.shape[1] == pytest.approx(1e6, rel=0.01)
    assert jpeg(1, faces, 1) != jpeg(1, faces)


def test_every_way_of_a_part_gives_the_same(filter: PhotoFilter, tmp_path: Path) -> None:
    """The floor compares like with like: pixels, files and pasted faces are the same by each way."""
    sample = parts.Sample.of(jpeg(1, 1), filter, 1)
    pixels = sample.photo.pixels
    for way, work in parts.parts(sample, filter, tmp_path)["decode"].items():
        found = work()
        assert np.array_equal(getattr(found, "pixels", found), pixels), way
    assert parts.pillow_encode(sample.photo, pixels) == parts.opencv_encode(pixels)
    whole = parts.paste(pixels, sample.changes, sample.matrices, sample.allowed)
    in_place = pixels.copy()
    parts.paste_in_place(in_place, sample)
    assert np.abs(in_place.astype(int) - whole).max() <= 1
    assert (in_place != pixels).any()


def test_the_reduced_decode_is_what_detection_looks_at(filter: PhotoFilter) -> None:
    """A photo of 12 megapixels is decoded at half its size, and its faces are found there."""
    small = parts.reduced_decode(jpeg(12, 5))
    assert small.shape == (1416, 2120, 3)
    assert len(filter.detector.detect([small])[0]) == 5
    assert parts.reduced_decode(jpeg(1, 0)).shape == decode(jpeg(1, 0)).pixels.shape


def test_another_number_of_faces_is_no_sample(filter: PhotoFilter) -> None:
    """A photo whose faces are not found would be measured as one without."""
    with pytest.raises(ValueError, match="finds 1 faces in a photo that was made with 5"):
        parts.Sample.of(jpeg(1, 1), filter, 5)


def test_the_floor_is_the_quickest_ways_on_all_cores() -> None:
    """Each part counts by the way with the smallest median; detection in a scaled decode only where that is quicker."""
    times = {
        "decode": {"slow": [4.0, 4.0, 4.0], "quick": [1.0, 2.0, 9.0]},
        "detect": {"whole": [6.0, 6.0, 6.0]},
        "decode reduced": {"it": [1.0, 1.0, 1.0]},
        "detect reduced": {"it": [3.0, 3.0, 3.0]},
        "encode": {"it": [2.0, 2.0, 2.0]},
    }
    found = bench_bound.floor(times, cores=2)
    assert found["floor_core_s"] == {"decode": 2.0, "detect": 4.0, "encode": 2.0}
    assert (found["floor_s"], found["floor_min_s"], found["floor_max_s"]) == (4.0, 3.5, 7.5)
    assert found["dct_saves"] == pytest.approx(2 / 10)
    dear = bench_bound.floor({**times, "decode reduced": {"it": [5.0, 5.0, 5.0]}}, cores=2)
    assert dear["floor_core_s"]["detect"] == 6.0
    assert dear["dct_saves"] == pytest.approx(-2 / 10)
    del times["decode reduced"], times["detect reduced"]
    assert bench_bound.floor(times, cores=2)["dct_saves"] is None


def test_what_is_reached_is_the_floor_s_share() -> None:
    """Ratio by run, busy cores and processor time a photo, by hand."""
    runs = [
        {"wall_seconds": wall, "cpu_s": 6.0, "command_s": 6.0, "photos": 4, "stage_seconds": {"decode": 2.0}}
        | {"peak_memory_bytes": 2**20}
        for wall in (4.0, 5.0, 8.0)
    ]
    found = bench_bound.reached(runs, 1.0, 2, cpu_time=False)
    assert (found["ratio_min"], found["ratio"], found["ratio_max"]) == (0.5, 0.8, 1.0)
    assert found["busy"] == pytest.approx(18 / 34)
    assert (found["cpu_s"], found["stage_thread_s"]["decode"]) == (1.5, 0.5)
    by_cpu = bench_bound.reached(runs, 0.6, 2, cpu_time=True)
    assert by_cpu["ratio"] == pytest.approx(0.6 / 0.75)


def test_a_part_is_timed_on_the_machine_s_cores() -> None:
    """A process loads the recipe's filter, measures every part of a photo and its faces, and ends with its parent."""
    with closing(SideBySide(sorted(os.sched_getaffinity(0))[:1], recipe="fast")) as machine:
        machine.ready()
        bare, some = machine.photo(jpeg(1, 0), 0, 2), machine.photo(jpeg(1, 5), 5, 1)
    assert set(bare) == {"read", "decode", "detect", "encode", "write"}
    assert set(some) - set(bare) == {"align", "modules", "start", "steps", "jury", "paste"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for ways in bare.values() for seconds in ways.values())
    assert some["modules"]["apf"][0] > 0.1, "of five faces, each 0.05 s"


def test_the_parts_of_a_face_are_those_that_its_recipe_runs(filter: PhotoFilter) -> None:
    """Steps on two guides need no modules; a recipe without steps is its modules alone."""
    sample = parts.Sample.of(jpeg(1, 1), filter, 1)
    stepping = load_filter(make_recipe({"name": "two", "epsilon_levels": 8, "steps": 2}))
    assert set(parts.of_faces(sample, stepping)) == {"start", "steps", "jury"}
    assert set(parts.of_faces(sample, load_filter("modules"))) == {"modules"}


def test_times_of_all_processes_count() -> None:
    """Every process's runs are in the median."""
    assert merged([{"a": {"x": [1.0]}}, {"a": {"x": [2.0]}}]) == {"a": {"x": [1.0, 2.0]}}


def test_a_warm_worker_protects_again_and_again(tmp_path: Path) -> None:
    """The second run has its models: it takes less processor time than the first, which loaded them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.jpg").write_bytes(jpeg(1, 1))
    with closing(WarmWorker({"APF_DEVICE": "cpu"})) as worker:
        first, second = (worker.protect(tmp_path / "in", tmp_path / f"out {run}") for run in range(2))
    assert (first["faces"], second["faces"]) == (1, 1)
    assert 0 < second["cpu_s"] < first["cpu_s"]
    assert second["command_s"] > second["wall_seconds"] > 0


def test_rivals_are_compared_turn_by_turn() -> None:
    """Ratios to ours are of one turn each."""
    seconds = {bench_steps.OURS: [1.0, 2.0], bench_steps.MI_DI: [60.0, 100.0]}
    _, rival = bench_steps.compared(seconds)
    assert (rival["smallest"], rival["largest"]) == (50.0, 60.0)
    rates = {bench_peers.OURS: [4.0, 6.0], bench_peers.PLAIN: [2.0, 1.0]}
    _, peer = bench_peers.compared(rates)
    assert (peer["least"], peer["most"], peer["aim"]) == (2.0, 6.0, 3)


def test_slow_peers_get_fewer_photos() -> None:
    """Photos a second are of as many photos as the peer was given."""
    given: dict[str, list[int]] = {}

    def peer(name: str) -> bench_peers.Peer:
        return lambda photos: given.setdefault(name, []).append(len(photos)) or 2.0

    names = (bench_peers.OURS, bench_peers.FAWKES)
    rates = bench_peers.in_turns({name: peer(name) for name in names}, [b""] * 24, turns=2)
    assert given == {bench_peers.OURS: [24, 24], bench_peers.FAWKES: [2, 2]}
    assert rates == {bench_peers.OURS: [12.0, 12.0], bench_peers.FAWKES: [1.0, 1.0]}


def test_the_plain_design_does_the_same_work(
    filter: PhotoFilter, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the comparison would be unfair: its output is what `protect_photo` makes of the photo."""
    monkeypatch.setenv("PLAIN_STORE", moto_server.endpoint_url)
    bucket, data = moto_server.new_bucket(), jpeg(1, 1)
    moto_server.client.put_object(Bucket=bucket, Key="in/one.jpg", Body=data)
    for task in (plain_celery.protect, plain_celery.protect_loading):
        task(bucket, "one.jpg")
        written = moto_server.client.get_object(Bucket=bucket, Key="plain/one.jpg")["Body"].read()
        assert written == protect_photo(data, filter).data


def test_benchmarks_measure_what_users_run() -> None:
    """Tests take no steps on guides unless they say so; benchmarks, which share their servers, take the recipe's."""
    program = (
        "import tests.benchmarks.services; from apf.recipe import load_recipe; print(load_recipe('standard').steps)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTEST_VERSION", "APF_STEPS")}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=kept, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["20"]
