"""The ledger of a bucket has a place of its own, or an explicit word; one that lies beside outputs stays readable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer.client import Client
from producer.doctor.checks import examine
from producer.events.routes import parse_routes
from producer.events.submit import check_routes
from tests.command import apf, apf_json
from tests.conftest import RedisServer, S3Server
from workers.access.batch_records import check_batch
from workers.batches.create import BatchOptions, create_batch, find_batch
from workers.batches.rescue import plan_and_send, reconcile, resume
from workers.broker.app import make_app
from workers.broker.client import Broker
from workers.config.settings import BESIDE_OUTPUTS, Settings
from workers.core.records import Batch
from workers.errors import LedgerError, NotAllowed, SettingsError
from workers.ledger.batch_ledger import Ledger, open_ledger
from workers.ledger.open_batches import roots
from workers.schedules.edit import add_schedule, change_schedule
from workers.schedules.fire import run_due
from workers.schedules.repository import find_schedule
from workers.schedules.status import overviews
from workers.schedules.trigger import Trigger
from workers.store import open_store


class Buckets:
    """Two buckets, one for ledgers, and settings by what APF_LEDGER_URL is."""

    def __init__(self, server: S3Server, redis: RedisServer) -> None:
        self.server, self.redis = server, redis
        self.photos, self.public, self.ledgers = (server.new_bucket(name) for name in ("photos", "public", "ledgers"))
        self.source, self.destination = f"s3://{self.photos}", f"s3://{self.public}"
        server.client.put_object(Bucket=self.photos, Key="ann/1.jpg", Body=b"a photo")

    def variables(self, ledger: str | None) -> dict[str, str]:
        named = {"APF_LEDGER_URL": ledger} if ledger else {"APF_LEDGER_URL": ""}
        return {
            "APF_BROKER_URL": self.redis.url,
            "APF_S3_ENDPOINT_URL": self.server.endpoint_url,
            "APF_ALLOWED_URLS": f"{self.source} {self.destination}",
            **named,
        }

    def settings(self, ledger: str | None) -> Settings:
        names = {name.removeprefix("APF_").lower(): value for name, value in self.variables(ledger).items()}
        return Settings.model_validate({**names, "ledger_url": ledger})

    @property
    def apart(self) -> str:
        return f"s3://{self.ledgers}/apf"

    def keys(self, bucket: str) -> list[str]:
        return [item["Key"] for item in self.server.client.list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def buckets(moto_server: S3Server, redis_server: RedisServer) -> Iterator[Buckets]:
    yield Buckets(moto_server, redis_server)


def fields(buckets: Buckets) -> dict[str, object]:
    from apf.recipe import recipe_fields  # noqa: PLC0415

    trigger = Trigger(every_s=3600, first="2026-01-01T00:00:00+00:00")
    return {"name": "nightly", "source": buckets.source, "destination": buckets.destination,
            "recipe": recipe_fields("light"), "trigger": trigger}  # fmt: skip


ASKS: dict[str, Callable[[Buckets, Settings], object]] = {
    "batch": lambda b, s: create_batch(b.source, b.destination, BatchOptions(), s),
    "submit": lambda b, s: Client(s).submit(b.source, b.destination),
    "submit named": lambda b, s: Client(s).submit(b.source, b.destination, photos=["ann/1.jpg"], batch_id="mine"),
    "route": lambda b, s: check_routes(parse_routes([f"{b.source}={b.destination}"]), "light", s),
    "schedule": lambda b, s: add_schedule(fields(b), s),
}


@pytest.mark.parametrize("how", ASKS)
@pytest.mark.parametrize("where", ["nowhere", "inside the destination"])
def test_a_bucket_without_a_place_for_its_ledger_is_refused(buckets: Buckets, how: str, where: str) -> None:
    """The error names both cures, nothing is written anywhere, and either cure helps."""
    place = None if where == "nowhere" else f"{buckets.destination}/ledger"
    with pytest.raises(SettingsError, match=r"(?s)APF_LEDGER_URL.*s3://ledgers.*beside-outputs"):
        ASKS[how](buckets, buckets.settings(place))
    assert buckets.keys(buckets.public) == buckets.keys(buckets.ledgers) == []
    for cure in (buckets.apart, BESIDE_OUTPUTS):
        if how == "schedule":
            buckets = Buckets(buckets.server, buckets.redis)
        ASKS[how](buckets, buckets.settings(buckets.apart if cure != BESIDE_OUTPUTS else cure))


def test_the_command_refuses_in_one_line_and_a_folder_needs_nothing(buckets: Buckets, tmp_path: Path) -> None:
    """`apf protect` into a bucket, with a queue and without; a folder's ledger lies beside its outputs as ever."""
    for left_out in ({}, {"APF_BROKER_URL": ""}):
        variables = {**buckets.variables(None), **left_out}
        ended = apf("protect", buckets.source, buckets.destination, code=2, **variables)
        assert "Traceback" not in ended.stderr and "beside-outputs" in ended.stderr
    create_batch(buckets.source, str(tmp_path / "out"), BatchOptions(), Settings(
        s3_endpoint_url=buckets.server.endpoint_url, ledger_url=None))  # fmt: skip
    assert (tmp_path / "out" / ".apf" / "batches").is_dir()


def test_a_ledger_of_its_own_leaves_nothing_of_it_in_the_destination(buckets: Buckets) -> None:
    """The published bucket has no key and no byte of the ledger."""
    settings = buckets.settings(buckets.apart)
    Client(settings).submit(buckets.source, buckets.destination, photos=["ann/1.jpg"], tenant="ann")
    assert buckets.keys(buckets.public) == []
    assert any(key.endswith("batch.json") for key in buckets.keys(buckets.ledgers))


def before(buckets: Buckets) -> tuple[Ledger, Batch]:
    """A batch of the time before APF_LEDGER_URL was set, planned and in the queue."""
    settings = buckets.settings(BESIDE_OUTPUTS)
    ledger, batch = create_batch(buckets.source, buckets.destination, BatchOptions(recipe="light"), settings)
    plan_and_send(ledger, batch.id, Broker(make_app(settings)), settings)
    return ledger, ledger.read_batch(batch.id)


def test_a_batch_from_before_is_found_and_told_of(buckets: Buckets, caplog: pytest.LogCaptureFixture) -> None:
    """By its id and as the latest, with a word of where it lies; a newer one in the new place comes first."""
    ledger, batch = before(buckets)
    settings = buckets.settings(buckets.apart)
    for asked in (batch.id, None):
        found, batch_id = find_batch(buckets.destination, asked, settings)
        assert (found.url, batch_id) == (ledger.url, batch.id)
    assert ledger.url in caplog.text
    status = apf_json("status", buckets.destination, **buckets.variables(buckets.apart))
    assert (status["batch"], status["pending"]) == (batch.id, 1)
    client = Client(settings)
    assert client.status(buckets.destination, batch.id).pending == 1
    newer, _ = create_batch(buckets.source, buckets.destination, BatchOptions(), settings)
    assert find_batch(buckets.destination, None, settings)[0].url == newer.url
    with pytest.raises(LedgerError, match=f"{newer.url} or {ledger.url}"):
        find_batch(buckets.destination, "20200101-none", settings)
    client.cancel(buckets.destination, batch.id)
    assert ledger.stopped(batch.id) == "cancelled"


def test_workers_go_on_with_a_batch_from_before_and_resume_gives_it_to_the_clock(buckets: Buckets) -> None:
    """A message that names it is believed; `apf beat` finds it again once a command has taken it up."""
    ledger, batch = before(buckets)
    settings = buckets.settings(buckets.apart)
    check_batch(ledger, batch, settings)
    broker = Broker(make_app(settings))
    assert reconcile(roots(settings), broker, settings) == {}
    resume(ledger, batch.id, broker, settings)
    make_app(settings).control.purge()
    assert reconcile(roots(settings), Broker(make_app(settings)), settings) == {batch.id: 1}
    elsewhere = open_ledger(buckets.destination, ledger_url=f"{buckets.source}/forged", s3=settings.s3)
    with pytest.raises(NotAllowed, match="belongs into"):
        check_batch(elsewhere, batch, settings)


def test_a_schedule_from_before_is_shown_and_moved_by_a_command(buckets: Buckets) -> None:
    """It does not vanish: it does not fire where it lies, says how to move it, and fires once it is moved."""
    add_schedule(fields(buckets), buckets.settings(BESIDE_OUTPUTS))
    settings = buckets.settings(buckets.apart)
    assert run_due(settings, None) == []
    (shown,) = overviews(settings)
    assert "apf schedule go-on nightly" in shown.error
    change_schedule(find_schedule("nightly", settings), "nightly", {"paused": False}, settings)
    assert find_schedule("nightly", settings).store.url == buckets.apart
    assert not [key for key in buckets.keys(buckets.public) if "schedules" in key]
    assert len(run_due(settings, None)) == 1


@pytest.mark.parametrize(
    ("ledger", "ok", "said"),
    [(None, False, "beside-outputs"), (BESIDE_OUTPUTS, True, "not read without a key"), ("apart", True, "not read")],
)
def test_the_doctor_looks_at_the_ledgers_place(
    swift: S3Server, redis_server: RedisServer, ledger: str | None, ok: bool, said: str
) -> None:
    """Whether there is one, whether it can be written, and that nobody reads it without a key."""
    buckets = Buckets(swift, redis_server)
    place = buckets.apart if ledger == "apart" else ledger
    found = [f for f in examine(buckets.settings(place), [buckets.destination]) if f.check.startswith("ledger")]
    assert [(f.ok, said in f.detail) for f in found] == [(ok, True)], found
    assert buckets.keys(buckets.public) == buckets.keys(buckets.ledgers) == []


def test_the_doctor_finds_a_published_ledger(buckets: Buckets) -> None:
    """A bucket with a policy that lets everybody read; the word beside-outputs is held against it, too."""
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
    for bucket in (buckets.ledgers, buckets.public):
        policy = {"Version": "2012-10-17", "Statement": [{**everybody, "Resource": f"arn:aws:s3:::{bucket}/*"}]}
        buckets.server.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    (beside,) = (f for f in examine(buckets.settings(BESIDE_OUTPUTS), [buckets.destination]) if "ledger" in f.check)
    assert not beside.ok and "anybody can read" in beside.detail
    (found,) = (f for f in examine(buckets.settings(buckets.apart), []) if f.check.startswith("ledger"))
    assert not found.ok and "anybody can read" in found.detail


def test_a_folders_ledger_is_closed_to_others_and_its_outputs_are_not(tmp_path: Path) -> None:
    """`.apf` has no right for others, whatever is first written there; outputs follow the umask."""
    before = os.umask(0o022)
    try:
        for write in ("output", "ledger", "clock"):
            store = open_store(str(tmp_path / write), create=True)
            if write == "clock":
                store.clock()
            else:
                store.put("a.jpg" if write == "output" else ".apf/batches/1/batch.json", b"x", metadata={"a": "b"})
            assert (tmp_path / write / ".apf").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "output" / "a.jpg").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
