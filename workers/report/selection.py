"""Select the photos of a batch that the page shows, and those that are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workers.core.records import Outcome, PhotoReport


def shown(reports: Iterable[PhotoReport], limit: int) -> list[PhotoReport]:
    """At most `limit` photos by key; those that failed have their place before all others."""
    found = list(reports)
    failed = [report for report in found if report.outcome is Outcome.failed][:limit]
    others = [report for report in found if report.outcome is not Outcome.failed][: limit - len(failed)]
    return sorted(failed + others, key=lambda report: report.key)


def measured(reports: Sequence[PhotoReport], limit: int) -> frozenset[str]:
    """Return the keys of at most `limit` photos that may have protected faces, spread evenly over all of them."""
    keys = [report.key for report in reports if report.outcome in (Outcome.protected, Outcome.skipped)]
    if len(keys) <= limit:
        return frozenset(keys)
    return frozenset(keys[index * len(keys) // limit] for index in range(limit))
