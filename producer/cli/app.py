"""`apf app`: a page for a person, in the browser and on this machine alone."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from producer.app.albums import work_folder
from producer.cli.console import check_can_work, echo, errors_end_the_command, fail
from workers.config.settings import Settings, load_settings
from workers.web.server import bound_sockets

#: How often a running batch writes how far it is, for the page.
PROGRESS_S = 0.5


@errors_end_the_command
def app_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders to choose from, besides your own (your home)."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page in the browser, on this machine alone, to protect photos without commands.

    Ends with Ctrl-C, or by the page's own button.
    """
    check_can_work(load_settings(), "this command does the work itself")
    from producer.app.serve import OtherApp, serve  # noqa: PLC0415  the HTTP server loads where it is used

    for folder in folders or ():
        if not folder.expanduser().is_dir():
            fail(f"there is no folder {folder}: name one whose photos can be chosen")
    places = [*(folder.expanduser() for folder in folders or ()), Path.home()]
    token = secrets.token_urlsafe(24)
    with _listening(port) as listener:
        link = f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}"
        try:
            serve(listener, token, link, work_folder(), places, _own(load_settings()), lambda: _show(link, open_it))
        except OtherApp as other:
            echo(f"it runs already: {other.link}")
            _show(other.link, open_it)


def _own(settings: Settings) -> Settings:
    """Return the settings of a worker inside this process: no queue, and the ledger beside the photos."""
    here = {"broker_url": None, "allowed_urls": None, "ledger_url": None, "progress_interval_s": PROGRESS_S}
    return settings.model_copy(update=here)


def _listening(port: int) -> socket.socket:
    try:
        (found,) = bound_sockets("127.0.0.1", port)
        return found
    except OSError as error:
        fail(f"port {port} cannot be listened on ({error.strerror}): name another, or leave --port away")


def _show(link: str, open_it: bool) -> None:
    print(link, flush=True)
    if open_it:
        with suppress(webbrowser.Error):
            webbrowser.open(link)
