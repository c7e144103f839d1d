"""Metrics of a listener."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

#: missing: of those submitted, gone already; failed: kept for another try.
RESULTS = (
    *("submitted", "missing", "failed", "duplicate", "removed", "other"),
    *("unrouted", "own_output", "reserved", "no_photo", "excluded", "malformed"),
)
#: unforeseen: a bug of ours; hopeless: tried too often.
REASONS = ("malformed", "unforeseen", "hopeless", "unauthorized", "too_large", "busy")
EVENTS = Counter("apf_listen_events", "Objects that events told of, by source and result.", ["source", "result"])
REFUSED = Counter(
    "apf_listen_refused",
    "Messages that were refused, by source and reason.",
    ["source", "reason"],
)
SUBMIT_SECONDS = Histogram(
    "apf_listen_submit_seconds",
    "From the first event of a group to its batch in ledger and queue.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
SUBMIT_FAILURES = Counter("apf_listen_submit_failures", "Groups that could not be submitted, and are tried again.")
EVENT_AGE = Gauge(
    "apf_listen_last_event_age_seconds",
    "How old the latest event was when its batch was submitted, by the store's clock.",
)
IN_FLIGHT = Gauge("apf_listen_messages_in_flight", "Messages taken and not yet done with, by source.", ["source"])


def start_at_zero(source: str) -> None:
    """All counts of a source: Prometheus sees no increase in a series whose first value is 1."""
    for result in RESULTS:
        EVENTS.labels(source, result)
    for reason in REASONS:
        REFUSED.labels(source, reason)
