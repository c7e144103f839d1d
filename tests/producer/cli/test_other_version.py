"""What the command says of a batch that only workers of another version do."""

from __future__ import annotations

import pytest

from apf.recipe import VERSION
from producer.cli.progress import print_summary
from tests.workers.execution.test_run_shard import Planned
from workers.status.batch_status import BatchMonitor


@pytest.mark.parametrize("change", [{}, {"version": VERSION + 1}, {"weights": "0" * 64}])
def test_status_says_why_a_batch_stays_open(change: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """Workers report nothing of it, so that the reason is told here, with the cure; of a batch that is done no more."""
    planned = Planned(f"status-{next(iter(change.values()), 'same')}", b"one")
    recipe = planned.batch.recipe.model_copy(update=change)
    planned.ledger.write_batch(planned.batch.model_copy(update={"recipe": recipe}))
    print_summary(BatchMonitor(planned.ledger, "b1").poll())
    assert ("install the same version everywhere, or cancel it" in capsys.readouterr().err) == bool(change)
    planned.run()
    print_summary(BatchMonitor(planned.ledger, "b1").poll())
    assert "install the same version" not in capsys.readouterr().err
