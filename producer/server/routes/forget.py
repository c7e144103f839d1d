"""Forget photos, and let them be protected again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from producer.client import MAX_NAMED
from producer.server.auth import Operator, The
from producer.server.forget import forget_photos, remember_photos
from producer.server.models import Key, Place, RequestBody, Told
from producer.server.problems import described

router = APIRouter(tags=["photos"])

Keys = Annotated[list[Key], Field(min_length=1, max_length=MAX_NAMED)]


class ErasureRequest(RequestBody):
    """Photos of a destination, by their keys. In the body: addresses of requests are kept in many a log."""

    destination: Place
    keys: Keys
    batch: Annotated[str, Field(max_length=200)] | None = None
    """Of photos that have no output: the batch in which they failed; tokens bound to tenants and no places need it."""


class Erased(Told):
    """What was forgotten."""

    forgotten: int
    outputs: int
    """Outputs deleted, and records that named a photo and do no more."""
    records: int
    batches: list[str]
    """Batches of which no photo is left."""
    left: list[str]
    """What still names a photo, each with its cure; empty where nothing does. The same request goes on."""
    unknown: list[str]
    """Keys under which this token's tenants have no photo: nothing was done about them."""


class RememberRequest(RequestBody):
    """Photos that may be protected again."""

    destination: Place
    keys: Keys


class Remembered(Told):
    """How many of them were forgotten, and are no more."""

    remembered: int


@router.delete("/v1/photos", responses=described(409))
def forget(asked: ErasureRequest, grant: Operator, the: The) -> Erased:
    """Forget photos: delete outputs and all that the ledger says of them, and never protect them again.

    Originals stay. It may be asked again at any time, and needs no Idempotency-Key.
    """
    found, unknown = forget_photos(the, grant, asked.destination, list(dict.fromkeys(asked.keys)), asked.batch)
    return Erased(
        forgotten=found.keys,
        outputs=found.outputs,
        records=found.records,
        batches=list(found.batches),
        left=list(found.left),
        unknown=unknown,
    )


@router.post("/v1/photos/remember", responses=described(409))
def remember(asked: RememberRequest, grant: Operator, the: The) -> Remembered:
    """Let forgotten photos be protected again, by the next batch or schedule that comes by them."""
    return Remembered(remembered=remember_photos(the, grant, asked.destination, list(dict.fromkeys(asked.keys))))
