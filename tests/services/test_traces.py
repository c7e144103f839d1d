"""A trace begins where a shard is sent and goes on where it is protected; collected by a small OTLP receiver."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import RedisServer
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)

SEND, RUN, SHARD = "apply_async/workers.tasks.protect_shard", "run/workers.tasks.protect_shard", "protect shard"


class Receiver:
    """Keeps every span that is posted to it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def take(self, data: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            facts = attributes(group.resource)
            self.services.add(facts["service.name"])
            for scope in group.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def attributes(holder: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_one_trace_leads_from_the_producer_to_the_shard(tmp_path: Path, redis_server: RedisServer) -> None:
    """With the shard's sums and seconds on its span, and with what waits in a worker that is asked to end."""
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    with receiving() as (receiver, url):
        variables = {"APF_OTEL": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "library"}
        with closing_world(World(tmp_path, redis_server, source, out, photos(8))) as world:
            world.variables |= variables  # for its processes, and not for this one
            worker = world.start_worker()
            assert world.start_producer().wait(60) == 0
            world.wait()
            worker.terminate()
            worker.wait(30)
            summary = world.summary()
        until(lambda: len(receiver.named(SHARD)) == 2, 30, "both shards are traced", world.log)
        assert receiver.services == {"library"}
        sent = {span.span_id: span for span in receiver.named(SEND)}
        runs = {span.span_id: span for span in receiver.named(RUN)}
        shards = receiver.named(SHARD)
        assert (len(sent), len(runs)) == (2, 2)
        for span in shards:
            run = runs[span.parent_span_id]
            assert sent[run.parent_span_id].trace_id == run.trace_id == span.trace_id
        assert len({span.trace_id for span in shards}) == 2
        facts = [attributes(span) for span in shards]
        assert {(each["apf.batch"], each["apf.shard"]) for each in facts} == {(summary.id, 0), (summary.id, 1)}
        assert sum(each["apf.protected"] for each in facts) == summary.protected
        assert sum(each["apf.stage_seconds.read"] for each in facts) == pytest.approx(summary.stage_seconds["read"])
        assert not any("album" in str(attributes(span)) for span in receiver.spans), "no key leaves with a trace"


def test_without_the_extra_whoever_asks_for_traces_learns_the_cure() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv = ['apf', 'reconcile'];"
        "from producer.cli import main; main()"
    )
    variables = {"APF_OTEL": "1", "APF_BROKER_URL": "redis://127.0.0.1:1", "PATH": ""}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "apf-protect[otel]" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_nobody_who_does_not_ask_loads_opentelemetry() -> None:
    """Redis's client may load its API by itself, but nothing that traces Celery."""
    code = "import sys, workers.tasks, producer.cli; print('opentelemetry.instrumentation' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
