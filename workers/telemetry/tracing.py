"""OpenTelemetry traces, where APF_OTEL is set and the extra `otel` is installed; the usual OTEL_ variables apply.

A producer's trace goes on in the worker: one trace for each shard's message, in which the shard is a span that carries
its sums and the seconds of its stages. A process that has a tracer provider already keeps it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery.signals import worker_process_init, worker_process_shutdown

from workers.config.settings import load_settings
from workers.core.records import Batch, ShardReport
from workers.errors import SettingsError

_tracer: Any = None


def start() -> None:
    """From now on this process traces what it sends and runs; a second call changes nothing.

    Raises:
        SettingsError: the extra is not installed.
    """
    global _tracer  # noqa: PLW0603  one a process, as is OpenTelemetry's own provider
    if _tracer is not None:
        return
    try:
        from opentelemetry import trace  # noqa: PLC0415  an extra
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"APF_OTEL is set, but OpenTelemetry is not installed ({error}): pip install 'apf-protect[otel]', or unset "
            "APF_OTEL"
        ) from error
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(_provider())
    celery: Any = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    if not celery.is_instrumented_by_opentelemetry:
        celery.instrument()
    _tracer = trace.get_tracer("apf")


def shard_span(batch: Batch, shard: int, photos: int) -> AbstractContextManager[object]:
    """Return a span around a shard's run. Errors are left out: they may name a photo."""
    if _tracer is None:
        return nullcontext()
    facts = {"apf.batch": batch.id, "apf.shard": shard, "apf.lane": batch.lane, "apf.photos": photos}
    span: AbstractContextManager[object] = _tracer.start_as_current_span(
        "protect shard", attributes=facts, record_exception=False, set_status_on_exception=False
    )
    return span


def shard_reported(report: ShardReport) -> None:
    """Put a shard's sums and the seconds of its stages on the span that runs."""
    if _tracer is None:
        return
    from opentelemetry import trace  # noqa: PLC0415  an extra

    sums = {f"apf.{name}": value for name, value in report.totals.model_dump().items()}
    stages = {f"apf.stage_seconds.{stage}": seconds for stage, seconds in report.stage_seconds.items()}
    trace.get_current_span().set_attributes({**sums, **stages})


@worker_process_init.connect
def start_child(**_: object) -> None:
    """Start tracing in a worker's child, which is a fresh process."""
    if load_settings().otel:
        start()


@worker_process_shutdown.connect
def end_child(**_: object) -> None:
    """Flush what is not sent yet: the child leaves without Python's own farewell."""
    if _tracer is not None:
        from opentelemetry import trace  # noqa: PLC0415  an extra

        getattr(trace.get_tracer_provider(), "shutdown", lambda: None)()


def _provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # Given here, it would go ahead of the user's own.
    name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "apf"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
