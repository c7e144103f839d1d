"""`apf callback test URL`, and callbacks of batches that a command runs itself."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Annotated

import typer

from producer.cli.console import SOME_FAILED, AsJson, echo, errors_end_the_command, fail
from workers.callbacks.payload import trial
from workers.config.settings import Settings, load_settings
from workers.errors import CallbackError
from workers.ledger.callback_state import Notify
from workers.status.batch_status import BatchMonitor, BatchSummary
from workers.webhooks.http_client import Post, send
from workers.webhooks.ssrf import addresses, parse_target

#: A command that does the work itself stays so long for a receiver that does not answer as it should.
PATIENCE_S = 60.0
POLL_S = 0.1

app = typer.Typer(help="Try where callbacks go.", no_args_is_help=True)


@app.callback()
def callbacks() -> None:
    """Try where callbacks go; `apf protect --callback` has them sent."""


@app.command("test")
@errors_end_the_command
def test_callback(
    url: Annotated[str, typer.Argument(metavar="URL", help="As in `apf protect --callback`.")],
    as_json: AsJson = False,
) -> None:
    """Post a signed event of type "test" to URL once, from this machine and with its settings, and tell the answer."""
    settings = load_settings()
    post = Post(url, f"msg_test_{secrets.token_hex(8)}", trial())
    started = time.monotonic()
    found: dict[str, object] = {"url": parse_target(url).origin, "id": post.id, "status": None, "ok": False}
    try:
        answer = send(post, settings.callback_keys(), settings.posting)
        found |= {"status": answer.status, "ok": answer.ok, "error": ""}
        said = f"answered {answer.status}: " + ("it takes callbacks" if answer.ok else "a callback needs 2xx")
    except CallbackError as error:
        found |= {"error": str(error)}
        said = f"not posted: {error}"
    found["seconds"] = round(time.monotonic() - started, 3)
    if as_json:
        print(json.dumps(found))
    else:
        echo(f"{found['url']} {said} ({found['seconds']} s, webhook-id {post.id})")
    if not found["ok"]:
        raise typer.Exit(SOME_FAILED)


def check_callback_here(url: str, settings: Settings) -> None:
    """Where this command is the worker, what would keep its callback from being sent is refused at once.

    Raises:
        CallbackError: the URL is malformed, or may not be reached.
    """
    target = parse_target(url)
    if settings.broker_url:
        return  # the workers' settings count, and their view of the network
    addresses(target, settings.posting.policy)
    if not settings.callback_keys():
        fail("--callback needs a secret to sign with, and this command is the worker: set APF_CALLBACK_SECRETS")


def await_callback(
    watch: BatchMonitor, summary: BatchSummary, notify: Notify, check: Callable[[], None]
) -> BatchSummary:
    """With a worker in this process: stay until the callback of a batch that is done is delivered, a minute at most."""
    if not summary.callback or not summary.done or summary.stopped:
        return summary
    notify(watch.ledger.batch_url(summary.id))  # it may have been done before, or have no shard at all
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        check()
        summary = watch.poll()
        if not summary.callback or summary.callback.settled:
            break
        time.sleep(POLL_S)
    return summary
