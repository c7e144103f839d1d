"""Waits that grow."""

from __future__ import annotations

from itertools import islice

from workers.core.backoff import backoff_s, poll_pauses


def test_retries_wait_twice_as_long_each_time() -> None:
    """Up to the longest, less a quarter at most; thousands of failures are none too many."""
    for failures, full_s in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (100_000, 10.0)):
        assert 0.75 * full_s <= backoff_s(failures, first_s=1.0, longest_s=10.0) <= full_s


def test_polls_are_close_at_first() -> None:
    """Each wait is longer than the one before until the longest, which stays."""
    pauses = list(islice(poll_pauses(1.0), 30))
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert sum(pauses[:5]) < 1
    assert set(pauses[20:]) == {1.0}
    assert next(poll_pauses(0.05)) == 0.05
