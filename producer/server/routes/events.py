"""Events of a batch as they happen: a stream for browsers and programs, as HTML's server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from producer.server.auth import Reader, The
from producer.server.metrics import STREAMS
from producer.server.models import BatchView
from producer.server.problems import described
from producer.server.routes.batches import Destination
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.errors import WorkerError
from workers.ledger.batch_ledger import Ledger

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

router = APIRouter(tags=["batches"])

#: Between two looks at the batch.
LOOK_EVERY_S = 1.0
#: A proxy closes a stream on which nothing comes: a comment comes at least so often.
HEARTBEAT_S = 15.0
#: Where a batch stands, once nothing more comes of it by itself.
ENDED = ("done", "cancelled")


@router.get(
    "/v1/batches/{batch}/events",
    response_class=StreamingResponse,
    responses=described(404, 409) | {200: {"content": {"text/event-stream": {}}}},
)
async def events(batch: str, grant: Reader, the: The, destination: Destination = None) -> StreamingResponse:
    """Follow a batch: `progress` whenever something has changed, and `done` or `cancelled` at the end.

    The data of each is what GET /v1/batches/{batch} answers. A stream that breaks off is opened anew.
    """
    ledger, summary = await run_in_threadpool(the.find, grant, batch, destination)
    place = the.streams.one(None if grant.tenants is None else summary.batch.tenant)
    return _Stream(place, _events(the, grant, ledger, batch))


class _Stream(StreamingResponse):
    """Events that hold a place while they are sent, whether or not anybody comes to read them."""

    def __init__(self, place: AbstractContextManager[None], events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; raises Problem (429) where there is no place, before anything is sent."""
        with self._place, STREAMS.track_inprogress():
            await super().__call__(scope, receive, send)


async def _events(the: Services, grant: Grant, ledger: Ledger, batch: str) -> AsyncIterator[str]:
    """Yield the events; ends with the batch, when the token is taken back, or when the server is to stop."""
    said, spoke_at = "", time.monotonic()
    while not the.stopping.is_set() and (not the.keyring or the.keyring.grant_by_digest(grant.sha256)):
        try:
            summary = await run_in_threadpool(the.board.summary, ledger, batch)
        except WorkerError:  # the store is down for the moment, or the batch is gone
            yield ": not known at the moment\n\n"
        else:
            view = BatchView.of(summary)
            data = view.model_dump_json()
            if data != said:
                name = view.state if view.state in ENDED else "progress"
                yield f"event: {name}\ndata: {data}\n\n"
                said, spoke_at = data, time.monotonic()
            if view.state in ENDED:
                return
        if time.monotonic() - spoke_at > HEARTBEAT_S:
            yield ": still here\n\n"
            spoke_at = time.monotonic()
        await asyncio.sleep(LOOK_EVERY_S)
