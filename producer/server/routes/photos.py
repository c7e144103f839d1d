"""Tell what became of one photo."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from producer.server.auth import Reader, The, check_place
from producer.server.models import PhotoView
from producer.server.problems import NoSuchBatch, Problem, described
from producer.server.routes.batches import Destination
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.errors import LedgerError
from workers.status.find_photo import find_photo
from workers.store import open_store
from workers.store.output_metadata import BATCH, FACES, OUTCOME, RECIPE, is_output, weak_faces

router = APIRouter(tags=["photos"])

Key = Annotated[str, Query(min_length=1, max_length=1024)]


@router.get("/v1/batches/{batch}/photo", responses=described(404, 409))
def of_batch(batch: str, key: Key, grant: Reader, the: The, destination: Destination = None) -> PhotoView:
    """Tell what became of a photo in a batch, by its key: outcome, reason, the jury's word on each face."""
    ledger, summary = the.find(grant, batch, destination)
    found = find_photo(ledger, summary.batch, key)
    if found is None:
        raise _absent(key, f"batch {batch}")
    into, recipe = summary.batch.destination, summary.batch.recipe.id
    if found == "pending":
        return PhotoView(key=key, destination=into, batch=batch, outcome="pending", recipe_id=recipe)
    return PhotoView.of(found, into, batch, recipe)


@router.get("/v1/photos", responses=described(404, 409))
def of_destination(destination: Annotated[str, Query(max_length=4096)], key: Key, grant: Reader, the: The) -> PhotoView:
    """Tell what the output under a key is: of which batch and recipe, with how many faces, and how many weak ones."""
    place = the.checked(destination, "destination")
    check_place(grant, place, "destination")
    info = open_store(place, s3=the.settings.s3).head(key)
    if info is None or not is_output(info.metadata) or not may_see(the, grant, place, info.metadata):
        raise _absent(key, place)
    outcome: Literal["protected", "no_face"] = "no_face" if info.metadata.get(OUTCOME) == "no_face" else "protected"
    return PhotoView(
        key=key,
        destination=place,
        batch=info.metadata.get(BATCH, ""),
        outcome=outcome,
        faces=int(info.metadata.get(FACES, "0")),
        weak=weak_faces(info.metadata),
        recipe_id=info.metadata.get(RECIPE, ""),
    )


def may_see(the: Services, grant: Grant, destination: str, metadata: Mapping[str, str]) -> bool:
    """Return whether an output is of a batch that the grant's holder may see."""
    if grant.tenants is None:
        return True
    try:
        return bool(the.find(grant, metadata.get(BATCH, ""), destination))
    except (NoSuchBatch, LedgerError):
        return False


def _absent(key: str, where: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"there is no photo {key!r} in {where}: give its key, as it was submitted")
