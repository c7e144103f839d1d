"""Submitting what events told of."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from apf.recipe import load_recipe
from producer.batch import Asked, create_batch
from producer.events.intake import Submit
from producer.events.routes import Route
from workers.allowed import check_allowed
from workers.app import INTERACTIVE, TASK, make_app
from workers.job import PhotoRef, ShardJob
from workers.sending import BrokerError
from workers.settings import Settings
from workers.store import open_store


def check_routes(routes: Sequence[Route], recipe: str, settings: Settings) -> None:
    """What would keep every photo of a route from being submitted, seen before the first event.

    Raises:
        NotAllowed: APF_ALLOWED_URLS is set, and a source or destination lies outside.
        RecipeError: the recipe is unknown or malformed.
    """
    load_recipe(recipe, detector=settings.detector)
    for route in routes:
        if settings.allowed_urls:
            check_allowed(route.source, settings.allowed, what="source")
            check_allowed(route.destination, settings.allowed, what="destination")


def submitter(settings: Settings, *, recipe: str, no_face: Literal["copy", "skip"]) -> Submit:
    """Submits with these settings."""
    celery = make_app(settings)

    def submit(source: str, destination: str, photos: Sequence[str], *, tenant: str) -> int:
        store = open_store(source, s3=settings.s3)
        with ThreadPoolExecutor(8) as pool:
            infos = [info for info in pool.map(store.head, photos) if info]
        if not infos:
            return 0
        asked = Asked(recipe=recipe, no_face=no_face, lane="interactive", tenant=tenant)
        ledger, batch = create_batch(source, destination, asked, settings)
        ledger.write_plan(batch.id, 0, [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in infos])
        ledger.write_batch(batch.model_copy(update={"planned": True, "shards": 1, "photos": len(infos)}))
        job = ShardJob(batch_url=ledger.batch_url(batch.id), shard=0)
        try:
            celery.send_task(TASK, args=[job.encode()], queue=INTERACTIVE)
        except Exception as error:
            raise BrokerError(str(error)) from error
        return len(infos)

    return submit
