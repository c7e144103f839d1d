"""A batch that leaves the index of open batches leaves it for good, unless there is still something to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.batches.create import BatchOptions, create_batch
from workers.config.settings import Settings
from workers.errors import LedgerError, StoreUnavailable
from workers.ledger.batch_ledger import Ledger
from workers.ledger.lifecycle import close
from workers.ledger.open_batches import is_registered


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "in").mkdir()
    return Settings(ledger_url=str(tmp_path / "ledger"))


@pytest.mark.parametrize("fault", ["taken back", "unreadable"])
def test_a_batch_that_was_taken_back_is_not_noted_again(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A producer takes its batch back while a worker closes it: it is gone; one that cannot be read stays noted."""
    asked = BatchOptions(recipe="light")
    ledger, batch = create_batch(str(tmp_path / "in"), str(tmp_path / "out"), asked, settings)
    if fault == "taken back":
        ledger.forget_batch(batch.id)
    else:

        def down(self: Ledger, batch_id: str) -> None:
            raise StoreUnavailable("the store is down")

        monkeypatch.setattr(Ledger, "read_batch", down)
    with pytest.raises((LedgerError, StoreUnavailable)):
        close(ledger, batch, settings)
    assert is_registered(batch.destination, batch.id, settings) == (fault == "unreadable")
