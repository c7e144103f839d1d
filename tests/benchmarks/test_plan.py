"""The plan for a thousand million photos, and the page that shows it."""

from __future__ import annotations

import pytest

from tests.benchmarks.plan import Assumptions, plan, rows
from tests.benchmarks.record import ROOT, table


def test_a_plan_is_what_its_formulas_say() -> None:
    """A small case, computed by hand: 1,280,000 photos in a day, a second each, by workers that never rest."""
    given = Assumptions(
        photos=1_280_000,
        days=1,
        photo_s=1,
        efficiency=1,
        megapixels=1,
        steps_megapixels=2,
        progress_interval_s=10,
        batch_photos=640_000,
    )
    found = plan(given)
    assert found["workers"] == 15  # 1,280,000 s of work, 86,400 s a day
    assert found["machines"] == 1
    assert found["batches"] == 2
    # 2 a photo; 10,000 shards of 13; 128,000 marks of 3.
    assert found["requests a photo"] == pytest.approx(2 + 130_000 / 1_280_000 + 3 * 128_000 / 1_280_000)
    assert found["ledger, million objects"] == pytest.approx(0.02)
    assert found["Redis, GB"] == pytest.approx(10_000 * 1250 / 1e9)
    assert found["computing, USD"] == pytest.approx(1_280_000 / 3600 * 0.08)
    writes, reads = 1_280_000 + 40_000 + 128_000, 1_280_000 + 90_000 + 256_000
    assert found["requests, USD"] == pytest.approx(writes * 5e-6 + reads * 0.4e-6)


def test_the_page_shows_what_the_script_prints() -> None:
    """docs/scale.md holds the table as it is computed today."""
    assert table(rows({})) in (ROOT / "docs" / "scale.md").read_text()
