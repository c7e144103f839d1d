"""Submit events as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from apf.recipe import Recipe, check_jury, check_private, load_recipe
from producer.client import Client
from producer.events.batcher import Submit
from producer.events.routes import Route
from workers.batches.create import AllForgotten, check_ledger_place
from workers.config.access import check_allowed
from workers.config.settings import Settings
from workers.core.records import OnWeak
from workers.errors import BadRequest
from workers.store import open_store


def check_routes(routes: Sequence[Route], recipe: str, settings: Settings, *, on_weak: OnWeak = "publish") -> Recipe:
    """Return what would keep every photo of a route from being submitted, seen before the first event; returns the
    recipe.

    Raises:
        NotAllowed: APF_ALLOWED_URLS is set, and a source or destination lies outside.
        RecipeError: the recipe is unknown or malformed, or has no private mode or no jury and that is wanted.
        SettingsError: APF_LEDGER_URL is not set.
    """
    found = load_recipe(recipe, detector=settings.detector)
    is_private = any(route.private for route in routes)
    if is_private:
        check_private(found)
    if on_weak == "fail":
        check_jury(found, private=is_private)
    for route in routes:
        check_ledger_place(route.destination, settings)
        if settings.allowed_urls:
            check_allowed(route.source, settings.allowed, what="source")
            check_allowed(route.destination, settings.allowed, what="destination")
    return found


def submitter(
    settings: Settings, *, recipe: str, no_face: Literal["copy", "skip"], on_weak: OnWeak = "publish"
) -> Submit:
    """Submit through `Client`, on the interactive lane; raises SettingsError where there is no queue."""
    client = Client(settings)

    def submit(route: Route, photos: Sequence[str], *, tenant: str) -> frozenset[str]:
        try:
            submitted = client.submit(
                route.source,
                route.destination,
                photos=photos,
                recipe=recipe,
                no_face=no_face,
                on_weak=on_weak,
                tenant=tenant,
                missing="ignore",
                private=route.private,
            )
        except AllForgotten:
            return frozenset(photos)  # for ever: as if they were not there
        except BadRequest:
            store = open_store(route.source, s3=settings.s3)
            if any(store.head(key) for key in photos):
                raise
            return frozenset(photos)  # all of them are gone: nothing is left to do
        return frozenset({*submitted.missing, *submitted.forgotten})

    return submit
