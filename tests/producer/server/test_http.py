"""What every answer has, what is counted, and that no request of whatever form makes the server fail."""

from __future__ import annotations

import re

import pytest

from tests.producer.server.platform import Platform


def test_every_answer_is_safe_and_has_an_id(place: Platform) -> None:
    """Also that of a problem, of an unknown path, and of a body that is too large."""
    place.serve["max_body_bytes"] = 100
    with place.server() as (api, _):
        answers = [api("GET", "/healthz"), api("GET", "/v1/none"), api("DELETE", "/v1/batches"),
                   api("POST", "/v1/batches", b"x" * 200), api("POST", "/v1/batches", b"{")]  # fmt: skip
        assert [one.status for one in answers] == [200, 404, 405, 413, 422]
        for one in answers:
            assert one.headers["X-Content-Type-Options"] == "nosniff"
            assert one.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in one.headers["Content-Security-Policy"]
            assert re.fullmatch(r"[0-9a-f]{16}", one.headers["X-Request-Id"])
            assert "server" not in {name.lower() for name in one.headers}
        for one in answers[1:]:
            assert one.headers["Content-Type"] == "application/problem+json"
            assert one.json["request_id"] == one.headers["X-Request-Id"] and one.json["title"]
        assert api("GET", "/healthz", X_Request_Id="order-12345678").headers["X-Request-Id"] == "order-12345678"
        assert api("GET", "/healthz", X_Request_Id="a b").headers["X-Request-Id"] != "a b"


def test_requests_are_counted_by_route_and_status(place: Platform) -> None:
    """By the route's template: no batch and no photo stands in a label."""
    with place.server() as (api, _):
        for number in range(3):
            api("GET", f"/v1/batches/batch-{number}")
        api("GET", "/favicon.ico")
        text = api("GET", "/metrics").data.decode()
    line = r'apf_http_requests_total{method="GET",route="/v1/batches/{batch}",status="404"} (\d+)'
    assert int(re.search(line, text)[1]) >= 3  # type: ignore[index]
    assert 'route="none",status="404"' in text and "batch-1" not in text and "favicon" not in text
    assert 'apf_http_request_seconds_bucket{le="0.5",route="/v1/batches/{batch}"}' in text


def test_the_log_names_requests_and_tokens_but_no_photo(place: Platform, caplog: pytest.LogCaptureFixture) -> None:
    """A line for each request, with its id and whose token it was; no secret, no key."""
    token = place.token("ops", scopes=["read"])
    with caplog.at_level("INFO", "producer.server"), place.server() as (api, _):
        api.with_token(token)("GET", "/v1/batches/b/photo?key=ann/secret.jpg", X_Request_Id="request-1")
    (line,) = [one for one in caplog.messages if "request-1" in one]
    assert "GET /v1/batches/{batch}/photo 404" in line and "token=ops" in line
    assert token not in caplog.text and "secret.jpg" not in caplog.text
