"""The ASGI application of `apf serve`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from producer.server import problems
from producer.server.document import described
from producer.server.middleware import Guard
from producer.server.pages import overview as pages
from producer.server.pages import reference
from producer.server.routes import (
    actions,
    audit,
    batches,
    estimate,
    events,
    forget,
    health,
    photos,
    protect,
    schedules,
)
from producer.server.services import Services
from workers.broker.weights import publish
from workers.errors import WorkerError
from workers.telemetry.redaction import masked

log = logging.getLogger(__name__)

#: Requests that wait for a store or Redis at once; photos that are waited for come on top.
THREADS = 40
SWEEP_EVERY_S = 600.0
#: Tenants' weights are written to Redis so often: it may have lost them, and the file of tokens may have changed.
WEIGH_EVERY_S = 10.0

ABOUT = """Face protection for photo libraries. Every route wants a bearer token with one of the scopes `read`, `submit`
and `operate`; errors are problems as RFC 9457 has them, with the value that is wrong and its cure in `detail`."""


def make_app(services: Services) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="APF", version=version("apf-protect"), description=ABOUT, lifespan=_lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.services = services
    problems.install(app)
    for routes in (batches, estimate, actions, events, photos, forget, protect, schedules, audit, health):
        app.include_router(routes.router)
    pages.install(app)
    app.state.reference = reference.facts_of(described(app))
    app.add_middleware(Guard, the=services)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS + services.serve.protect_at_once
    services.sync.start()
    chores = [asyncio.create_task(chore(services)) for chore in (_sweep_now_and_then, _weigh_now_and_then)]
    try:
        yield
    finally:
        services.stopping.set()
        for chore in chores:
            chore.cancel()
            with suppress(asyncio.CancelledError):
                await chore
        await run_in_threadpool(services.sync.stop)
        if services.engine:
            await run_in_threadpool(services.engine.stop)


async def _sweep_now_and_then(services: Services) -> None:
    """Delete old idempotency keys, and photos that servers that died have left."""
    while True:
        for sweep in (services.requests.sweep, services.scratch.sweep if services.scratch else None):
            try:
                if sweep:
                    await run_in_threadpool(sweep)
            except WorkerError as error:
                log.warning("what is old is swept away later: %s", error)
        await asyncio.sleep(SWEEP_EVERY_S)


async def _weigh_now_and_then(services: Services) -> None:
    """Tell workers the weights of tenants, where anybody says any."""
    while services.keyring and services.counters.redis is not None:
        try:
            await run_in_threadpool(
                publish, services.counters.redis, services.settings.broker_key_prefix, services.keyring.weights()
            )
        except RedisError as error:
            log.warning("tenants' weights are told to workers later: %s", masked(str(error)))
        await asyncio.sleep(WEIGH_EVERY_S)
