"""A worker reads and writes where its operator says, whatever a message or a batch says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.memory_store import MemoryStore
from tests.workers.execution.test_run_shard import Planned
from workers.batches.create import BatchOptions, create_batch
from workers.config.access import check_allowed, check_reachable
from workers.config.settings import Settings, check_worker
from workers.errors import JobError, NotAllowed, SettingsError
from workers.execution.run_shard import report_lost_shard
from workers.ledger.batch_ledger import open_batch
from workers.ledger.leases import ShardLease, attempts_at
from workers.ledger.open_batches import check_registry
from workers.store import S3Options
from workers.tasks import give_all_back


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://photos/2024", ["s3://photos"]),
        ("s3://photos", ["s3://photos"]),
        ("s3://photos/a/b", ["s3://other", "s3://photos/a"]),
        ("file:///srv/photos/x", ["file:///srv/photos"]),
        ("memory://x", ["*"]),
    ],
)
def test_what_lies_under_an_allowed_url_is_allowed(url: str, allowed: list[str]) -> None:
    check_allowed(url, allowed, what="source")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://photos-private", ["s3://photos"]),
        ("s3://photos/ab", ["s3://photos/a"]),
        ("s3://photos", ["s3://photos/a"]),
        ("file:///srv/photos/../secret", ["file:///srv/photos"]),
        ("file:///srv/photos/%2e%2e/secret", ["file:///srv/photos"]),
        ("file:///etc", ["s3://photos"]),
        ("s3://photos", ["file:///"]),
        ("memory://x", []),
    ],
)
def test_all_else_is_not(url: str, allowed: list[str]) -> None:
    with pytest.raises(NotAllowed, match="APF_ALLOWED_URLS"):
        check_allowed(url, allowed, what="source")


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    allowed = [(tmp_path / "allowed").as_uri()]
    check_allowed(f"{allowed[0]}/folder", allowed, what="source")
    with pytest.raises(NotAllowed):
        check_allowed(f"{allowed[0]}/link/deeper", allowed, what="source")


@pytest.mark.parametrize("outside", ["ledger", "source", "destination"])
def test_a_forged_message_or_batch_reads_and_writes_nothing(outside: str) -> None:
    """The message chooses the batch, the batch the source and the destination: each is checked."""
    planned = Planned(f"forged-{outside}", b"x")
    allowed = {
        "ledger": "memory://forged-ledger-in memory://elsewhere",
        "source": "memory://forged-source-out memory://elsewhere",
        "destination": "memory://forged-destination-in memory://forged-ledgers",
    }[outside]
    if outside == "destination":  # its ledger lies elsewhere, where it may
        from workers.ledger.batch_ledger import open_ledger  # noqa: PLC0415

        other = open_ledger(planned.destination.url, ledger_url="memory://forged-ledgers")
        other.write_batch(planned.batch)
        other.write_plan("b1", 0, planned.ledger.read_plan("b1", 0))
        planned.job = planned.job.model_copy(update={"batch_url": other.batch_url("b1")})
    ledgers = "memory://forged-ledgers" if outside == "destination" else None
    settings = Settings(broker_url="redis://x", allowed_urls=allowed, ledger_url=ledgers)
    what = "batch" if outside == "ledger" else outside
    with pytest.raises(NotAllowed, match=f"{what} memory://"):
        report_lost_shard(planned.job, settings, RuntimeError("x"))
    if outside == "ledger":
        with pytest.raises(NotAllowed, match="batch memory://"):
            planned.run(settings)
        assert not planned.ledger.has_report("b1", 0)
    else:  # where it may, it says why, so that nobody waits for ever
        assert planned.run(settings).failed == 1
        ledger, _ = open_batch(planned.job.batch_url)
        (photo,) = ledger.read_report("b1", 0).photos  # type: ignore[union-attr]
        assert "APF_ALLOWED_URLS" in (photo.reason or "")
    assert planned.engine.batches == []
    assert planned.destination.head("000.jpg") is None


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ({"destination": "memory://forged-record-in"}, "overlap"),
        ({"destination": "memory://elsewhere"}, "belongs into memory://elsewhere/.apf"),
        ({"detector": "/tmp/evil-pack"}, "APF_DETECTOR"),
        ({"detector": "../evil"}, "APF_DETECTOR"),
    ],
)
def test_a_forged_record_is_not_believed(forged: dict[str, str], reason: str) -> None:
    """Whoever can write into an allowed place may put a ledger there: it must lie where its destination's has to be,
    no original is written over, and no file is loaded that the operator did not name.
    """
    for end in ("in", "out"):
        MemoryStore(f"memory://forged-record-{end}").clear()
    planned = Planned("forged-record", b"x")
    recipe = planned.batch.recipe.model_copy(update={"detector": forged.pop("detector", "centerface")})
    planned.ledger.write_batch(planned.batch.model_copy(update={"recipe": recipe, **forged}))
    allowed = "memory://forged-record-in memory://forged-record-out memory://elsewhere"
    settings = Settings(broker_url="redis://x", allowed_urls=allowed)
    assert planned.run(settings).failed == 1
    (photo,) = planned.ledger.read_report("b1", 0).photos  # type: ignore[union-attr]
    assert reason in (photo.reason or "")
    assert planned.engine.batches == []
    assert planned.source.get("000.jpg").data == b"x"


def test_what_workers_may_not_do_is_refused_when_it_is_asked_for() -> None:
    settings = Settings(broker_url="redis://x", allowed_urls="memory://photos memory://public")
    for source, destination in [("memory://elsewhere", "memory://public"), ("memory://photos", "memory://elsewhere")]:
        with pytest.raises(NotAllowed, match="memory://elsewhere"):
            create_batch(source, destination, BatchOptions(recipe="light"), settings)


def test_beat_has_to_know_where_to_look() -> None:
    check_registry(Settings(broker_url="redis://x", allowed_urls="s3://a"))
    check_registry(Settings(broker_url="redis://x", allowed_urls="*", ledger_url="s3://a"))
    check_registry(Settings())
    with pytest.raises(SettingsError, match="APF_LEDGER_URL"):
        check_registry(Settings(broker_url="redis://x", allowed_urls="*"))


def test_a_forged_message_in_hand_at_shutdown_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker gives its shards back when it stops: a message must not choose whose tries are taken away."""
    planned = Planned("forged-shutdown", b"x")
    ShardLease(planned.ledger, "b1", 0, lease_s=60).beat()
    request = SimpleNamespace(args=[planned.job.encode()])
    monkeypatch.setattr("celery.worker.state.active_requests", [request, SimpleNamespace(args=["no job"])])
    monkeypatch.setattr("workers.tasks.load_settings", lambda: Settings(broker_url="redis://x", allowed_urls="s3://a"))
    give_all_back()
    assert len(attempts_at(planned.ledger, "b1")) == 1
    monkeypatch.setattr("workers.tasks.load_settings", Settings)
    give_all_back()
    assert attempts_at(planned.ledger, "b1") == []


def test_where_ledgers_are_is_allowed_for_batches_alone() -> None:
    settings = Settings(broker_url="redis://x", allowed_urls="s3://photos", ledger_url="s3://ledgers/apf/")
    check_allowed("s3://ledgers/apf/out-1/batches/b1", settings.allowed_for_batches, what="batch")
    with pytest.raises(NotAllowed):
        check_allowed("s3://ledgers/apf/photos", settings.allowed, what="source")


def test_a_worker_waits_for_a_store_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    """It may come back; what is missing does not, and is told at once."""
    down = S3Options(endpoint_url="http://127.0.0.1:9", max_attempts=1)
    check_reachable(["*", "s3://photos"], down)
    assert "may not be able to work" in caplog.text
    with pytest.raises(SettingsError, match="folder /no/such/folder does not exist: check its name, or make it"):
        check_reachable(["file:///no/such/folder"], down)


def test_not_allowed_is_an_error_of_the_job() -> None:
    """So that it is never retried, and never reported into the forged place."""
    assert issubclass(NotAllowed, JobError)


def test_a_worker_wants_to_be_told() -> None:
    with pytest.raises(SettingsError, match="APF_BROKER_URL"):
        check_worker(Settings())
    with pytest.raises(SettingsError, match="APF_ALLOWED_URLS"):
        check_worker(Settings(broker_url="redis://x"))
    check_worker(Settings(broker_url="redis://x", allowed_urls="s3://photos"))
    assert Settings().allowed == ("*",)


@pytest.mark.parametrize("text", ["photos", "s3://", "https://x/y", "s3://ok /srv/photos"])
def test_malformed_urls_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="allowed_urls"):
        Settings(allowed_urls=text)
