"""The time, as all records have it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the time, as all records have it."""
    return datetime.now(UTC)
