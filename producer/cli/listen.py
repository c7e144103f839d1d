"""`apf listen`: protect photos as they are uploaded."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from apf.recipe import DEFAULT_RECIPE
from producer.cli.console import COULD_NOT_RUN, NoFace, OnWeak, OnWeakOption, errors_end_the_command
from workers.config.settings import load_settings


@errors_end_the_command
def listen(
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC=DST",
            help="Which uploads go where, as in s3://uploads=s3://public. May be repeated; the longest SRC decides.",
        ),
    ] = None,
    private_route: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC=DST", help="The same for gradient files, which become perturbation files."),
    ] = None,
    sqs: Annotated[str | None, typer.Option(metavar="URL", help="Take events from this SQS queue.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Take events POSTed to /events here.")] = None,
    recipe: Annotated[str, typer.Option(help="fast, light, standard, strong, or a TOML file.")] = DEFAULT_RECIPE,
    no_face: Annotated[NoFace, typer.Option(help="What to do with a photo that has no face.")] = NoFace.copy,
    on_weak: Annotated[OnWeak, OnWeakOption] = OnWeak.publish,
    tenant_from_prefix: Annotated[
        int, typer.Option(min=0, max=4, help="So many folders below SRC name the tenant whose photo it is; 0: none.")
    ] = 0,
    gather: Annotated[float, typer.Option(min=0, max=30, help="Seconds to gather events for one batch.")] = 0.5,
    photos: Annotated[int, typer.Option(min=1, max=1000, help="Photos that make a batch at once.")] = 64,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve metrics and /healthz on this port of APF_METRICS_HOST.")
    ] = None,
) -> None:
    """Listen for a store's events, and submit new photos on the interactive lane (docs/events.md)."""
    from producer.events.batcher import Gathering  # noqa: PLC0415 - what only this command needs
    from producer.events.service import ListenOptions, run  # noqa: PLC0415
    from workers.telemetry.log_format import configure  # noqa: PLC0415
    from workers.telemetry.redaction import install  # noqa: PLC0415

    settings = load_settings()
    install()
    configure()
    logging.getLogger("producer").setLevel(logging.INFO)
    asked = ListenOptions(
        routes=tuple(route or ()),
        private_routes=tuple(private_route or ()),
        sqs=sqs,
        http=http,
        recipe=recipe,
        no_face=no_face.value,
        on_weak=on_weak.value,
        gathering=Gathering(seconds=gather, photos=photos, tenant_segments=tenant_from_prefix),
        metrics_port=metrics_port,
    )
    if not run(asked, settings):
        raise typer.Exit(COULD_NOT_RUN)
