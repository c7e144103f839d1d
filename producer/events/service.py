"""Build a listener from options and settings, and run it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from apf.recipe import DEFAULT_RECIPE, Recipe
from producer.events.auth import authenticator_for
from producer.events.batcher import EventBatcher, Gathering
from producer.events.dedupe import NoMarks, RecentlySubmitted, RedisMarks, redis_client
from producer.events.listener import Source, listen
from producer.events.metrics import start_at_zero
from producer.events.routes import Routes, parse_routes
from producer.events.submit import check_routes, submitter
from workers.broker.event_marks import how
from workers.config.redis_url import ASKABLE
from workers.config.settings import Settings
from workers.core.records import OnWeak
from workers.errors import SettingsError
from workers.ledger.batch_ledger import ledger_url

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """What to listen to, and what to do with what is heard."""

    #: As `s3://from/here=s3://to/there`, of photos and of gradient files.
    routes: tuple[str, ...]
    private_routes: tuple[str, ...] = ()
    #: A queue's URL, and host and port; None: not from there.
    sqs: str | None = None
    http: str | None = None
    #: light, standard, strong, or a TOML file.
    recipe: str = DEFAULT_RECIPE
    no_face: Literal["copy", "skip"] = "copy"
    on_weak: OnWeak = "publish"
    gathering: Gathering = field(default_factory=Gathering)
    metrics_port: int | None = None

    def how(self, recipe: Recipe) -> str:
        """Return what outputs depend on besides photo and place."""
        return how(recipe.id, self.no_face, self.on_weak)


def run(asked: ListenOptions, settings: Settings) -> bool:
    """Listen until SIGTERM. Returns whether all went well.

    Raises:
        SettingsError: something that it needs is missing or malformed.
        NotAllowed, RecipeError: as `check_routes`.
    """
    if not settings.broker_url:
        raise SettingsError("listening needs a queue that others work on: set APF_BROKER_URL")
    if not (asked.sqs or asked.http):
        raise SettingsError("nothing to listen to: give --sqs or --http")
    stop = threading.Event()
    batcher = _batcher(asked, settings.broker_url, settings)
    sources = list(_sources(asked, batcher, stop, settings))
    for name, given in (("sqs", asked.sqs), ("http", asked.http)):
        if given:
            start_at_zero(name)
    if asked.metrics_port:
        _serve_metrics(settings.metrics_host, asked.metrics_port, lambda: not stop.is_set())
    return listen(sources, batcher, stop, grace_s=settings.shutdown_grace_s)


def _batcher(asked: ListenOptions, broker_url: str, settings: Settings) -> EventBatcher:
    routes = parse_routes(asked.routes, asked.private_routes)
    recipe = check_routes(routes, asked.recipe, settings, on_weak=asked.on_weak)
    own = [ledger_url(route.destination, settings.ledger_root) for route in routes]
    for route in routes:
        log.info("%s of %s go to %s", "gradients" if route.private else "photos", route.source, route.destination)
    submit = submitter(settings, recipe=asked.recipe, no_face=asked.no_face, on_weak=asked.on_weak)
    found = Routes(routes, own=own)
    marks = _marks(broker_url, settings, found, how=asked.how(recipe))
    return EventBatcher(found, submit, marks, asked.gathering, log_keys=settings.log_keys)


def _marks(broker_url: str, settings: Settings, routes: Routes, *, how: str) -> RecentlySubmitted:
    if broker_url.startswith(ASKABLE):
        return RedisMarks(redis_client(broker_url, settings), settings.broker_key_prefix, routes, how=how)
    log.warning("events that come twice are submitted twice: only redis:// and rediss:// can be asked")
    return NoMarks()


def _sources(
    asked: ListenOptions, batcher: EventBatcher, stop: threading.Event, settings: Settings
) -> Iterator[Source]:
    if asked.sqs:
        from producer.events.sources.sqs import SqsSource  # noqa: PLC0415 - boto3 takes long to load

        endpoint = settings.listen_sqs_endpoint_url
        log.info("events come from the queue %s", asked.sqs)
        yield SqsSource(asked.sqs, batcher, stop, endpoint_url=endpoint, region=settings.s3_region)
    if asked.http:
        from producer.events.sources.http import EventsApp, HttpSource  # noqa: PLC0415

        authenticator = authenticator_for(
            _secret("LISTEN_SECRET", settings.listen_secret, settings.listen_secret_file),
            _secret("LISTEN_TOKEN", settings.listen_token, settings.listen_token_file),
        )
        source = HttpSource(asked.http, EventsApp(batcher, authenticator, stop), stop)
        log.info("events are taken at http://%s/events", asked.http)
        yield source


def _secret(name: str, value: SecretStr | None, file: str | None) -> str:
    """Return a secret from its variable or its file; empty where there is neither."""
    if value and file:
        raise SettingsError(f"APF_{name} and APF_{name}_FILE are both set: unset one")
    if not file:
        return value.get_secret_value() if value else ""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"APF_{name}_FILE cannot be read: {error}") from error
    if not text.strip():
        raise SettingsError(f"APF_{name}_FILE {file} is empty")
    return text


def _serve_metrics(host: str, port: int, is_healthy: Callable[[], bool]) -> None:
    """Metrics and health on a port of their own, which whoever sends events cannot keep busy."""
    from prometheus_client import REGISTRY, disable_created_metrics  # noqa: PLC0415

    from workers.telemetry.http_endpoint import BuildInfo, endpoint, serve  # noqa: PLC0415

    try:
        serve(endpoint(REGISTRY, is_healthy), host, port)
    except SettingsError as error:
        raise SettingsError(
            f"--metrics-port {port}: cannot listen there ({error.__cause__}): give one that is free, and set "
            "APF_METRICS_HOST to an address of this machine"
        ) from error
    # Else each count has a series more, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    REGISTRY.register(BuildInfo())
