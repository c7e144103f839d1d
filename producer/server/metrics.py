"""Metrics of the server: requests by the route's template, never by what stands in its place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

#: Of a request that fits no route.
NO_ROUTE = "none"

REQUESTS = Counter("apf_http_requests", "Requests by method, route and status.", ["method", "route", "status"])
SECONDS = Histogram(
    "apf_http_request_seconds",
    "Until the answer's last byte, by route.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("apf_http_requests_in_flight", "Requests that are not answered yet.")
STREAMS = Gauge("apf_http_event_streams", "Streams of events that are open.")
PROTECTING = Gauge("apf_http_protect_in_flight", "Photos of POST /v1/protect in hand.")
