"""Submitting what events told of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from apf.recipe import Recipe, check_private, load_recipe
from producer.client import Client
from producer.events.intake import Submit
from producer.events.routes import Route
from workers.allowed import check_allowed
from workers.asking import check_ledger_place
from workers.errors import BadRequest
from workers.settings import Settings
from workers.store import open_store


def check_routes(routes: Sequence[Route], recipe: str, settings: Settings) -> Recipe:
    """What would keep every photo of a route from being submitted, seen before the first event; returns the recipe.

    Raises:
        NotAllowed: APF_ALLOWED_URLS is set, and a source or destination lies outside.
        RecipeError: the recipe is unknown or malformed, or has no private mode and a route wants it.
        SettingsError: APF_LEDGER_URL is not set.
    """
    found = load_recipe(recipe, detector=settings.detector)
    if any(route.private for route in routes):
        check_private(found)
    for route in routes:
        check_ledger_place(route.destination, settings)
        if settings.allowed_urls:
            check_allowed(route.source, settings.allowed, what="source")
            check_allowed(route.destination, settings.allowed, what="destination")
    return found


def submitter(settings: Settings, *, recipe: str, no_face: Literal["copy", "skip"]) -> Submit:
    """Submits through `Client`, on the interactive lane; raises SettingsError where there is no queue."""
    client = Client(settings)

    def submit(route: Route, photos: Sequence[str], *, tenant: str) -> int:
        try:
            submitted = client.submit(
                route.source,
                route.destination,
                photos=photos,
                recipe=recipe,
                no_face=no_face,
                tenant=tenant,
                missing="ignore",
                private=route.private,
            )
        except BadRequest:
            store = open_store(route.source, s3=settings.s3)
            if any(store.head(key) for key in photos):
                raise
            return 0  # all of them are gone: nothing is left to do
        return submitted.photos or 0

    return submit
