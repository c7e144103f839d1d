"""`apf protect --dry-run`: what a batch would be and cost."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

from apf.extras import extra_for, lacking
from apf.recipe import Recipe, load_recipe
from producer.cli.console import echo
from workers.batches.create import BatchOptions
from workers.batches.estimate import CountFaces, Estimate, Prices, estimate
from workers.broker.presence import NotKnown, count_listening
from workers.config.settings import Settings


def print_estimate(
    source: str, destination: str, asked: BatchOptions, settings: Settings, prices: Sequence[str], *, as_json: bool
) -> None:
    """Estimate and print."""
    found = estimate(
        source,
        destination,
        asked,
        settings,
        workers=_workers(asked, settings),
        prices=Prices.of(prices),
        count_faces=_looks_here(asked, settings),
    )
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    for line in _lines(found):
        echo(line)


def _workers(asked: BatchOptions, settings: Settings) -> int | None:
    if not settings.broker_url:
        return 1  # in the command itself
    try:
        return count_listening(asked.lane, settings)
    except NotKnown as error:
        echo(str(error))
        return None


def _looks_here(asked: BatchOptions, settings: Settings) -> CountFaces | None:
    """Return what counts faces where this machine is a worker itself; the producer has no image library."""
    if settings.broker_url or lacking(extra_for(settings.device)):
        return None
    recipe = asked.recipe if isinstance(asked.recipe, Recipe) else load_recipe(asked.recipe, detector=settings.detector)
    counter: CountFaces = importlib.import_module("workers.execution.face_sample").counter(recipe, settings)
    return counter


def _lines(found: Estimate) -> list[str]:
    todo = found.photos - found.done
    unserved = {None: "workers that listen: not known", 0: "no worker listens: start one with apf worker"}
    when = unserved.get(found.workers)
    workers = "1 worker" if found.workers == 1 else f"{found.workers} workers"
    return [
        f"{found.photos} photos: {found.done} have their output already, {todo} to protect"
        + (f"; {found.forgotten} forgotten, not protected again" if found.forgotten else ""),
        f"{found.megapixels:,.0f} megapixels, {found.bytes / 1e6:,.1f} MB, about {found.faces:,.0f} faces",
        when or f"about {_span(found.wall_s or 0.0)} on {workers} ({_span(found.work_s)} of work)",
        f"{found.reads:,} reads and {found.writes:,} writes of the store, {found.shards:,} shards",
        f"USD {found.computing_usd:,.2f} for computing, {found.requests_usd:,.2f} for requests, "
        f"{found.keeping_usd_month:,.2f} a month for keeping the outputs",
        *found.because,
        "nothing was written or sent",
    ]


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
