"""`--on-weak`, and how weak faces are told of, as users and programs meet them: by the real filter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apf.recipe import load_recipe
from producer import AsyncClient, Client
from producer.cli.schedule_tables import _status
from producer.events.routes import Route
from producer.events.service import ListenOptions
from producer.events.submit import submitter
from tests.command import apf, apf_json
from tests.conftest import RedisServer, _free_ports
from tests.faults.world import World, closing_world
from tests.receivers import LOOPBACK, receiving, status
from tests.services.watched import Scrape, port_of
from tests.waiting import until
from tests.workers.execution.test_jury_verdicts import portrait
from workers.errors import BadRequest
from workers.schedules.status import LastRun

TOML = 'epsilon_levels = 1\nsteps = 1\njury = ["probe"]\n'
LINE = "1 face is weak, in 1 photo: a juror still knows it"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far too little for its juror."""
    path = tmp_path_factory.mktemp("recipe") / "few.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(portrait())
    return folder


def test_weak_faces_are_told_and_published(album: Path, tmp_path: Path, recipe: Path) -> None:
    """By default: a line at the end of the run and in `apf status`, numbers in --json, a filter on the page."""
    out = tmp_path / "out"
    assert LINE in apf("protect", album, out, "--recipe", recipe).stderr
    assert (out / "a.jpg").exists()
    assert LINE in apf("status", out).stderr
    told = apf_json("status", out)
    assert (told["weak_faces"], told["weak_photos"], told["faces"], told["failed"]) == (1, 1, 1, 0)
    apf("report", out, "-o", tmp_path / "page.html", "--measure", "0")
    assert "A juror still knows 1 of its 1 faces" in (tmp_path / "page.html").read_text()


def test_weak_photos_fail_where_they_are_to(album: Path, tmp_path: Path, recipe: Path) -> None:
    """Status 1 and nothing there; the reason says what helps, and that does: a recipe that is strong enough."""
    out = tmp_path / "out"
    ended = apf("protect", album, out, "--recipe", recipe, "--on-weak", "fail", code=1)
    assert LINE in ended.stderr
    assert not list(out.glob("*.jpg"))
    failed = apf("status", out, "--failed", code=1).stdout
    assert "'a.jpg'\t1 try\tpermanent\t1 of 1 faces is weak: a juror still knows it" in failed
    enough = tmp_path / "enough.toml"
    enough.write_text('epsilon_levels = 24\nsteps = 24\nguides = ["probe"]\n')
    ended = apf("protect", album, out, "--recipe", enough, "--on-weak", "fail")
    assert (out / "a.jpg").exists()
    assert "a juror" not in ended.stderr
    assert apf_json("status", out)["weak_faces"] == 0


def test_to_fail_needs_a_jury(album: Path, tmp_path: Path) -> None:
    """A recipe without steps would let everything pass, and private mode, too: no batch is made."""
    out = tmp_path / "out"
    assert "takes no steps" in apf("protect", album, out, "--recipe", "modules", "--on-weak", "fail", code=2).stderr
    assert "in private mode" in apf("protect", album, out, "--private", "--on-weak", "fail", code=2).stderr
    assert not out.exists()


def test_schedules_keep_and_change_it(album: Path, tmp_path: Path) -> None:
    """`add --on-weak` and `change --on-weak`; the default is not written, so that older versions read it."""
    where = {"APF_LEDGER_URL": str(tmp_path / "ledger"), "APF_STEPS": "2"}
    add = ["schedule", "add", "s", str(album), str(tmp_path / "out"), "--every", "1h", "--on-weak", "fail"]
    assert "takes no steps" in apf(*add, "--recipe", "modules", code=2, **where).stderr
    apf(*add, **where)
    (kept,) = [path for path in (tmp_path / "ledger").rglob("*.json") if b'"on_weak"' in path.read_bytes()]
    assert json.loads(kept.read_text())["on_weak"] == "fail"
    assert "takes no steps" in apf("schedule", "change", "s", "--recipe", "modules", code=2, **where).stderr
    apf("schedule", "change", "s", "--on-weak", "publish", **where)
    assert "on_weak" not in kept.read_text()


def test_a_schedules_last_run_tells_of_weak_faces() -> None:
    """Beside its outcomes, and only where there are any."""
    facts: dict[str, Any] = {
        "fired_for": "", "reason": "", "batches": (), "status": "done", "reported": 0, "shards": 0,
    }  # fmt: skip
    totals = {"protected": 3, "no_face": 0, "skipped": 0, "failed": 0}
    assert _status(LastRun(**facts, totals={**totals, "weak_faces": 2})) == "done: 3 protected, 2 faces weak"
    assert _status(LastRun(**facts, totals=totals)) == "done: 3 protected"


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    """A real queue and, once it is started, a real worker with the real filter, which serves metrics."""
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    named = {f"APF_{field.upper()}": str(value) for field, value in LOOPBACK.items()}
    variables = {**named, "APF_METRICS_PORT": str(_free_ports([0])), "TMPDIR": str(tmp_path), "APF_DEVICE": "cpu"}
    place = World(
        tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(), {"a.jpg": portrait()},
        variables, celery_app="workers.celeryapp",
    )  # fmt: skip
    with closing_world(place):
        yield place


def test_a_worker_tells_of_weak_faces_in_metrics_and_callbacks(world: World, recipe: Path) -> None:
    """Published ones and failed ones alike; what is to fail is not written."""
    world.start_worker()
    client = Client(world.settings)
    told = []
    with receiving(status(200)) as receiver:
        for on_weak in ("fail", "publish"):
            sent = client.submit(
                world.source_url, world.destination_url, photos=["a.jpg"], recipe=str(recipe), callback=receiver.url,
                on_weak=on_weak,  # type: ignore[arg-type]
            )  # fmt: skip
            summary = client.wait(sent.destination, sent.batch, timeout_s=120)
            assert (summary.weak_faces, summary.weak_photos) == (1, 1)
            assert (world.destination.head("a.jpg") is not None) == (on_weak == "publish")
            until(lambda: len(receiver.got) > len(told), 60, "the callback", world.log)
            told.append(receiver.got[-1].verified()["data"])
    assert [(each["weak_faces"], each["weak_photos"]) for each in told] == [(1, 1), (1, 1)]
    assert [(each["failed"], each["results"][0]["weak"]) for each in told] == [(1, 1), (0, 1)]
    scrape = Scrape(port_of(world))
    assert (scrape.get("apf_weak_faces_total"), scrape.get("apf_weak_photos_total")) == (2, 2)


def test_clients_ask_for_it(world: World, recipe: Path) -> None:
    """`Client` and `AsyncClient`; what is neither of the two is refused."""
    places = (world.source_url, world.destination_url)
    sent = Client(world.settings).submit(*places, photos=["a.jpg"], recipe=str(recipe), on_weak="fail")
    assert world.ledger.read_batch(sent.batch).on_weak == "fail"
    again = asyncio.run(AsyncClient(world.settings).submit(*places, recipe=str(recipe), on_weak="fail"))
    assert world.ledger.read_batch(again.batch).on_weak == "fail"
    with pytest.raises(BadRequest, match="on_weak"):
        Client(world.settings).submit(*places, photos=["a.jpg"], on_weak="drop")  # type: ignore[arg-type]


def test_a_listener_submits_so(world: World, recipe: Path) -> None:
    """Its batches ask for it, and it is refused at the start where no jury would be asked."""
    submit = submitter(world.settings, recipe=str(recipe), no_face="copy", on_weak="fail")
    submit(Route(world.source_url, world.destination_url), ["a.jpg"], tenant="")
    (batch,) = world.ledger.batches()
    assert world.ledger.read_batch(batch).on_weak == "fail"
    listen = ["listen", "--http", "127.0.0.1:0", "--on-weak", "fail"]
    where = {"APF_BROKER_URL": "redis://127.0.0.1:1/0"}
    assert "takes no steps" in apf(*listen, "--route", "s3://a=s3://b", "--recipe", "modules", code=2, **where).stderr
    assert "in private mode" in apf(*listen, "--private-route", "s3://a=s3://b", code=2, **where).stderr


def test_a_listeners_memory_is_of_those_that_ask_alike() -> None:
    """With `fail` an event is new that a listener without it dealt with; without it older listeners' marks count."""
    recipe = load_recipe("standard")
    assert ListenOptions(routes=()).how(recipe) == f"{recipe.id} copy"
    assert ListenOptions(routes=(), on_weak="fail").how(recipe) == f"{recipe.id} copy fail"
