"""What a batch would be, told beforehand: right, honest about what is assumed, and without a trace."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apf.recipe import load_recipe
from tests.benchmarks.plan import Assumptions, plan
from tests.memory_store import MemoryStore
from tests.workers.schedules.world import World, world
from workers.access.sources import OverlapError
from workers.batches.create import BatchOptions
from workers.batches.estimate import SHARD_READS, SHARD_WRITES, Estimate, Prices, estimate
from workers.batches.plan import work_of_steps
from workers.config.settings import Settings
from workers.deletion.forget import forget
from workers.errors import BadRequest
from workers.store.photo_size import FIRST_BYTES, pixels_in

__all__ = ["world"]


def picture(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, kind, **options)
    return data.getvalue()


def told(world: World, **options: Any) -> Estimate:
    asked = BatchOptions(recipe="light", **options.pop("asked", {}))
    return estimate(world.source.url, world.destination.url, asked, world.settings, workers=2, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"exif": b"Exif\x00\x00" + b"x" * 30_000}), ("PNG", {}),
     ("WEBP", {}), ("WEBP", {"lossless": True})],
)  # fmt: skip
@pytest.mark.parametrize("size", [(640, 480), (31, 4000)])
def test_sizes_are_read_from_first_bytes(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    """As Pillow says; of what is none, or is cut short, nothing is said."""
    data = picture(kind, size, **options)
    assert pixels_in(data[:FIRST_BYTES]) == size[0] * size[1]
    for end in (0, 1, 3, 12, 20, 23):
        assert pixels_in(data[:end]) is None
    assert pixels_in(b"no picture at all, but long enough to be one") is None


def test_photos_and_megapixels_are_those_of_the_source(world: World) -> None:
    """By their headers; what is excluded or no photo does not count."""
    for number in range(20):
        world.source.put(f"{number}.jpg", picture("JPEG", (1000, 800)))
    world.source.put("notes.txt", b"x" * 10**6)
    world.source.put("drafts/x.jpg", picture("JPEG", (1000, 800)))
    found = told(world, asked={"exclude": ("drafts/",)})
    assert (found.photos, found.done, found.forgotten) == (20, 0, 0)
    assert found.megapixels == pytest.approx(16, abs=0.1)
    assert "megapixels by the headers of 20 photos" in found.because


def test_what_is_assumed_is_said(world: World) -> None:
    """Faces, seconds and megapixels, where nothing tells of them; what is measured takes their place."""
    world.photos("a", "b")
    first = told(world)
    assert [line.partition(":")[0] for line in first.because] == ["assumed"] * 3
    assert first.faces == 2
    looked = told(world, count_faces=lambda store, keys: 3.5)
    assert looked.faces == 7
    assert "3.50 faces a photo by looking at some of these" in looked.because
    world.add(recipe="light")
    world.run()
    world.photos("c", "d", "e")
    later = told(world)
    assert (later.photos, later.done, later.faces) == (5, 2, 6)
    assert any(line.startswith("2.00 faces a photo as in 2") for line in later.because)
    assert any("by what 2 photos took with this recipe" in line for line in later.because)


def test_forgotten_photos_are_told_apart(world: World) -> None:
    """They would not be protected."""
    world.photos("a", "b")
    forget(world.destination.url, ["a.jpg"], world.settings, actor="me")
    assert (told(world).photos, told(world).forgotten) == (1, 1)
    assert told(world, asked={"include_forgotten": True}).photos == 2


def test_named_photos_alone_are_counted(world: World) -> None:
    """Those that are there."""
    world.photos("a", "b", "c")
    assert told(world, photos=["a.jpg", "c.jpg", "nix.jpg"]).photos == 2


def test_nothing_is_written(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No object, no folder, no message, also for a destination that is not there."""
    world.photos("a")

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("something is written")

    for method in ("put", "delete"):
        monkeypatch.setattr(MemoryStore, method, refuse)
    told(world)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(picture("JPEG", (10, 10)))
    settings = Settings(ledger_url=str(tmp_path / "ledgers"))
    estimate(str(tmp_path / "in"), str(tmp_path / "out"), BatchOptions(recipe="light"), settings, workers=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.jpg", "in"]


def test_what_cannot_be_protected_cannot_be_estimated(world: World) -> None:
    """As `apf protect` would say."""
    world.photos("a")
    with pytest.raises(OverlapError):
        estimate(world.source.url, world.source.url + "/x", BatchOptions(recipe="light"), world.settings, workers=1)
    with pytest.raises(BadRequest, match="worker-hour=USD"):
        Prices.of(["gold=3"])


@pytest.mark.parametrize(("photos", "name"), [(150, "light"), (800, "standard")])
def test_requests_and_money_are_those_of_the_formulas(
    world: World, monkeypatch: pytest.MonkeyPatch, photos: int, name: str
) -> None:
    """Beside tests.benchmarks.plan, which docs/scale.md is made by; steps make shards smaller."""
    monkeypatch.delenv("APF_STEPS")  # as many as the recipe has
    for number in range(photos):
        world.source.put(f"{number:05}.jpg", b"x" * 300_000)
    settings = world.settings.model_copy(update={"shard_photos": 128})
    prices = Prices.of(["worker-hour=0.1", "tb-month=20"])
    found = estimate(
        world.source.url, world.destination.url, BatchOptions(recipe=name), settings, workers=3, prices=prices
    )
    given = Assumptions(photos=photos, steps_megapixels=work_of_steps(load_recipe(name)),
                        photo_s=found.work_s / photos, megapixels=found.megapixels / photos, photo_mb=0.3,
                        worker_usd_per_hour=0.1, usd_per_tb_month=20)  # fmt: skip
    wanted = plan(given)
    assert (given.shard_reads, given.shard_writes) == (SHARD_READS, SHARD_WRITES)
    within = min(0.05, 8 / photos)  # shards are whole
    assert (found.reads + found.writes) / photos == pytest.approx(wanted["requests a photo"], rel=within)
    assert found.computing_usd == pytest.approx(wanted["computing, USD"], abs=0.01)
    assert found.requests_usd == pytest.approx(wanted["requests, USD"], abs=0.01)
    assert found.wall_s == pytest.approx(found.work_s / 0.9 / 3, rel=0.01)


def test_the_table_grows_with_faces_pixels_and_steps() -> None:
    """Near what docs/performance.md measured for `modules`."""
    from workers.batches.estimate import _table_s  # noqa: PLC0415

    modules = load_recipe("modules")
    measured = {(1, 1): 0.18, (1, 5): 0.37, (4, 1): 0.48, (12, 5): 0.76, (48, 1): 0.92, (1, 20): 1.15}
    for (megapixels, faces), seconds in measured.items():
        assert _table_s(megapixels, faces, modules) == pytest.approx(seconds, rel=0.2)
    standard = load_recipe("standard").model_copy(update={"guides": ("dlib", "apf-mfn"), "steps": 20})
    assert _table_s(1, 1, standard) == pytest.approx(1.1 + 0.18, rel=0.2)
