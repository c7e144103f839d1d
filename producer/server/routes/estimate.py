"""Estimate a batch before it is submitted."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from apf.recipe import DEFAULT_RECIPE
from producer.client import MAX_NAMED
from producer.server.auth import The, check_place, require_scope
from producer.server.models import Exclude, Key, Place, Private, RecipeName, RequestBody
from producer.server.places import tenants_of
from producer.server.problems import described
from producer.server.tokens import Grant
from workers.batches.create import BatchOptions
from workers.batches.estimate import Estimate, Prices, estimate
from workers.broker.presence import NotKnown, count_listening
from workers.core.records import BULK, INTERACTIVE, Lane

router = APIRouter(tags=["batches"])

Price = Annotated[float, Field(ge=0, le=1e6)]


class PricesRequest(RequestBody):
    """What things cost, in US dollars; what is left away is a large cloud's price (docs/scale.md)."""

    worker_hour: Price = Prices.worker_hour
    million_writes: Price = Prices.million_writes
    million_reads: Price = Prices.million_reads
    tb_month: Price = Prices.tb_month


class EstimateRequest(RequestBody):
    """A batch that might be submitted: fields as of POST /v1/batches."""

    source: Place
    destination: Place
    photos: Annotated[list[Key], Field(min_length=1, max_length=MAX_NAMED)] | None = None
    """Keys below the source; left away: all that it holds."""
    recipe: RecipeName = DEFAULT_RECIPE
    lane: Lane | None = None
    """Left away: interactive for named photos, bulk for all of a source."""
    exclude: Exclude = Field(default_factory=list)
    private: Private = False
    include_forgotten: bool = False
    """Count photos that were forgotten, too."""
    prices: PricesRequest = PricesRequest()


@router.post("/v1/estimate", responses=described(409))
def of_batch(asked: EstimateRequest, grant: Annotated[Grant, require_scope("read", "submit")], the: The) -> Estimate:
    """Tell what a batch would be: photos, pixels, faces, time, requests, money. Nothing is written or sent."""
    for what, url in (("source", asked.source), ("destination", asked.destination)):
        check_place(grant, the.checked(url, what), what)
    lane = asked.lane or (BULK if asked.photos is None else INTERACTIVE)
    fields = asked.model_dump(include={"recipe", "private", "include_forgotten"})
    options = BatchOptions(**fields, lane=lane, exclude=tuple(asked.exclude))
    workers = None
    with suppress(NotKnown):
        workers = count_listening(lane, the.settings, the.counters.redis)
    with the.long_acts.one(tenants_of(grant)):
        return estimate(
            asked.source,
            asked.destination,
            options,
            the.settings,
            workers=workers,
            photos=asked.photos,
            prices=Prices(**asked.prices.model_dump()),
        )
