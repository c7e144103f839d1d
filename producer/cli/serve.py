"""`apf serve` and `apf token`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from producer.cli.console import check_can_work, echo, errors_end_the_command
from producer.doctor.finding import Finding
from producer.server.settings import check_serving, load_serve_settings, serving_asked
from producer.server.tokens import SCOPES, Grant, Keyring, append, digest, line_of, new_token
from workers.config.settings import Settings, load_settings
from workers.core.records import explain
from workers.errors import BadRequest, WorkerError

tokens = typer.Typer(help="Tokens of `apf serve`.", no_args_is_help=True)


@errors_end_the_command
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: APF_SERVE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default: APF_SERVE_PORT. 0: any.")] = None,
) -> None:
    """Serve the HTTP API under /v1 (docs/api.md), until SIGTERM; /openapi.json describes it."""
    from producer.server.run import run  # noqa: PLC0415  what only this command needs
    from workers.telemetry.log_format import configure  # noqa: PLC0415

    settings = load_settings()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    asked = load_serve_settings().model_copy(update=given)
    if not settings.broker_url:
        check_can_work(settings, "without a queue the server does the work itself", ", or set APF_BROKER_URL")
    configure()
    logging.getLogger("producer").setLevel(logging.INFO)
    run(asked, settings)


def examine_serving(settings: Settings) -> list[Finding]:
    """Return whether `apf serve` would start with these settings; nothing where none of its own is set."""
    if not serving_asked():
        return []
    try:
        asked = load_serve_settings()
        keyring = Keyring(asked.tokens.get_secret_value() if asked.tokens else "", asked.tokens_file)
        check_serving(asked, settings, has_tokens=bool(keyring))
    except WorkerError as error:
        return [Finding("server", False, str(error))]
    protecting = f"photos that one waits for lie in {asked.scratch_url}" if asked.scratch_url else "no POST /v1/protect"
    return [Finding("server", True, f"{len(keyring)} tokens; {protecting}")]


@tokens.command("new")
@errors_end_the_command
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the token, for logs; not secret.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, submit or operate; may be repeated. Default: read and submit.")
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Bind it to this tenant's batches; may be repeated. Default: all.")
    ] = None,
    url: Annotated[
        list[str] | None, typer.Option(help="Bind it to photos below this; may be repeated. Default: APF_ALLOWED_URLS.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=0, help="0: no limit.")] = None,
    photos_per_hour: Annotated[int | None, typer.Option(min=0, help="Of its tenant; 0: no limit.")] = None,
    bytes_per_hour: Annotated[int | None, typer.Option(min=0, help="Of its tenant; 0: no limit.")] = None,
    weight: Annotated[
        int | None, typer.Option(min=1, help="Of its tenant: its share of workers, where another's is 1. Default: 1.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Add the line to this file, as APF_SERVE_TOKENS_FILE names it.")
    ] = None,
) -> None:
    """Make a token: it is printed once, and only its digest is kept."""
    token = new_token()
    facts = {
        "name": name,
        "sha256": digest(token),
        "scopes": scope or list(SCOPES[:2]),
        "tenants": tenant or None,
        "urls": url or None,
        "requests_per_minute": requests_per_minute,
        "photos_per_hour": photos_per_hour,
        "bytes_per_hour": bytes_per_hour,
        "weight": weight,
    }
    try:
        grant = Grant.model_validate(facts)
    except ValueError as error:
        raise BadRequest(f"a token cannot be like this: {explain(error)}") from error
    if file:
        append(file, grant)
        echo(f"added to {file}")
    else:
        echo("add this line to the file that APF_SERVE_TOKENS_FILE names, or to APF_SERVE_TOKENS:")
        echo(line_of(grant))
    if grant.tenants and not grant.urls:
        echo("warning: without --url this tenant may name any photo below APF_ALLOWED_URLS, those of others, too")
    print(token)
