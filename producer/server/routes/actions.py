"""Retry, resume, pause and cancel batches."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from producer.server.auth import Operator, The
from producer.server.board import state_of
from producer.server.models import Sent, Stopped
from producer.server.problems import described
from producer.server.routes.batches import Destination, IdempotencyKey
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.batches.create import check_recipe
from workers.batches.rescue import resume
from workers.batches.retry import retry
from workers.broker.client import Broker
from workers.config.settings import Settings
from workers.ledger.audit import note_act
from workers.ledger.batch_ledger import Ledger, Stop
from workers.ledger.lifecycle import halt

router = APIRouter(tags=["batches"])


def send_again(
    the: Services,
    grant: Grant,
    batch: str,
    destination: str | None,
    again: Callable[[Ledger, str, Broker, Settings], int],
) -> Sent:
    """Send failed photos, or what has no report, to the queue again; raises as `again` does."""
    the.check_queue()
    ledger, summary = the.find(grant, batch, destination)
    check_recipe(ledger, summary.batch, the.settings)
    try:
        sent = again(ledger, batch, the.broker, the.settings)
        note_act(ledger, grant.name, "retry" if again is retry else "resume", batch=batch, sent=sent)
        return Sent(batch=batch, sent=sent)
    finally:
        the.board.forget(ledger, batch)


def stop(the: Services, grant: Grant, batch: str, destination: str | None, how: Stop) -> Stopped:
    """Hold a batch, or stop it; raises BadRequest where it is done."""
    ledger, summary = the.find(grant, batch, destination)
    halt(ledger, summary.batch, how, the.settings)
    note_act(ledger, grant.name, "cancel" if how == "cancelled" else "pause", batch=batch)
    the.board.forget(ledger, batch)
    return Stopped(batch=batch, state=state_of(the.board.summary(ledger, batch)))


@router.post("/v1/batches/{batch}/retry", responses=described(404, 409))
def retry_failed(
    batch: str, grant: Operator, the: The, destination: Destination = None, key: IdempotencyKey = None
) -> Sent:
    """Send the failed photos of a batch that is done again, as the source has them now."""

    def act(_: str | None) -> dict[str, object]:
        return send_again(the, grant, batch, destination, retry).model_dump()

    return Sent.model_validate(the.requests.once(grant, key, ["retry", batch, destination], act)[0])


@router.post("/v1/batches/{batch}/resume", responses=described(404, 409))
def resume_batch(
    batch: str, grant: Operator, the: The, destination: Destination = None, key: IdempotencyKey = None
) -> Sent:
    """Go on with a batch that was paused, cancelled or lost: finish its planning, send what has no report."""

    def act(_: str | None) -> dict[str, object]:
        return send_again(the, grant, batch, destination, resume).model_dump()

    return Sent.model_validate(the.requests.once(grant, key, ["resume", batch, destination], act)[0])


@router.post("/v1/batches/{batch}/pause", responses=described(404, 409))
def pause(
    batch: str, grant: Operator, the: The, destination: Destination = None, key: IdempotencyKey = None
) -> Stopped:
    """Hold a batch, across restarts of anything, until it is resumed."""

    def act(_: str | None) -> dict[str, object]:
        return stop(the, grant, batch, destination, "paused").model_dump()

    return Stopped.model_validate(the.requests.once(grant, key, ["pause", batch, destination], act)[0])


@router.post("/v1/batches/{batch}/cancel", responses=described(404, 409))
def cancel(
    batch: str, grant: Operator, the: The, destination: Destination = None, key: IdempotencyKey = None
) -> Stopped:
    """Stop a batch: shards that wait are dropped, running ones end early. What is done already stays."""

    def act(_: str | None) -> dict[str, object]:
        return stop(the, grant, batch, destination, "cancelled").model_dump()

    return Stopped.model_validate(the.requests.once(grant, key, ["cancel", batch, destination], act)[0])
