"""Pages of batches, and what can be done about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse, RedirectResponse, Response

from producer.server.auth import The, check_place
from producer.server.board import STATES, State
from producer.server.index import Wanted
from producer.server.listing import Having, before_of, page
from producer.server.models import BatchView, FailureView
from producer.server.pages import render
from producer.server.pages.session import Actor, Form, Viewer
from producer.server.problems import Problem
from producer.server.routes.actions import send_again, stop
from producer.server.routes.photos import may_see
from producer.server.routes.protect import media_type
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.batches.rescue import resume
from workers.batches.retry import retry
from workers.core.records import Batch, PhotoReport
from workers.errors import NotFound, WorkerError
from workers.ledger.batch_ledger import Ledger
from workers.status.reports import reports, retries
from workers.store import open_store
from workers.store.output_metadata import is_output

router = APIRouter(include_in_schema=False)

PER_PAGE = 25
#: Photos that a batch's page shows of each kind; shards among which weak ones are looked for.
SHOWN, SHARDS = 50, 256
MOST_PICTURE_BYTES = 25 * 2**20
#: What browsers show.
PICTURES = ("image/jpeg", "image/png", "image/webp", "image/avif")

Act = Literal["retry", "resume", "pause", "cancel"]


@router.get("/")
def batches(
    session: Viewer,
    the: The,
    state: State | Literal[""] = "",
    having: Having | Literal[""] = "",
    tenant: Annotated[str, Query(max_length=200)] = "",
    cursor: Annotated[str, Query(max_length=1000)] = "",
) -> HTMLResponse:
    """Show batches, newest first."""
    tenants = session.grant.tenants
    if tenant:
        tenants = (tenant,) if session.grant.may_see(tenant) else ()
    wanted = Wanted(tenants=tenants, before=before_of(cursor) if cursor else None)
    found = page(the, wanted, PER_PAGE, state=state or None, having=having or None)
    asked = {name: text for name, text in (("state", state), ("having", having), ("tenant", tenant)) if text}
    more = f"/?{urlencode({**asked, 'cursor': found.cursor})}" if found.cursor else ""
    return render.page(
        "batches.html",
        session,
        batches=[BatchView.of(one) for one in found.summaries],
        asked={"state": state, "having": having, "tenant": tenant},
        states=STATES,
        more=more,
        complete=the.index.is_complete,
    )


@dataclass(frozen=True)
class _Photos:
    failures: list[FailureView]
    weak: list[PhotoReport]


@router.get("/batches/{batch}")
def one(
    batch: str,
    session: Viewer,
    the: The,
    destination: str | None = None,
    said: Annotated[str, Query(max_length=40)] = "",
) -> HTMLResponse:
    """Show a batch: how far it is, what failed, what is weak, and what to do about it."""
    ledger, summary = the.find(session.grant, batch, destination)
    view = BatchView.of(summary)
    photos = _Photos([FailureView.of(one) for one in summary.failures[:SHOWN]], _weak(ledger, summary.batch))
    return render.page(
        "batch.html",
        session,
        batch=view,
        photos=photos,
        shown=SHOWN,
        acts=acts_for(view) if session.may("operate") else [],
        here=_here(batch, destination),
        query=urlencode({"destination": destination}) if destination else "",
        said=said if said in SAID else "",
        words=SAID,
    )


#: What an act has done, for people.
SAID = {
    "retry": "The failed photos are in the queue again.",
    "resume": "The batch goes on.",
    "pause": "The batch is held until you resume it.",
    "cancel": "The batch is stopped. What was done already stays.",
    "forget": "The photo is forgotten.",
}


def acts_for(view: BatchView) -> list[Act]:
    """Return what can be done about a batch, the likeliest first."""
    if view.state == "done":
        return ["retry"] if view.failed else []
    if view.state in ("paused", "cancelled"):
        return ["resume", "cancel"] if view.state == "paused" else ["resume"]
    return ["pause", "cancel", "resume"]


@router.post("/batches/{batch}/{act}")
def act_on(
    batch: str, act: Act, session: Actor, form: Form, the: The, destination: str | None = None
) -> RedirectResponse:
    """Do what a button says."""
    acts: dict[Act, Callable[[], object]] = {
        "retry": lambda: send_again(the, session.grant, batch, destination, retry),
        "resume": lambda: send_again(the, session.grant, batch, destination, resume),
        "pause": lambda: stop(the, session.grant, batch, destination, "paused"),
        "cancel": lambda: stop(the, session.grant, batch, destination, "cancelled"),
    }
    acts[act]()
    here = _here(batch, destination)
    return RedirectResponse(f"{here}{'&' if '?' in here else '?'}said={act}", HTTPStatus.SEE_OTHER)


@router.get("/batches/{batch}/picture")
def picture(
    batch: str, key: Annotated[str, Query(max_length=1024)], session: Viewer, the: The, destination: str | None = None
) -> Response:
    """Show a protected photo: an output of a worker, and nothing else that may lie there."""
    _, summary = the.find(session.grant, batch, destination)
    data = _output(the, session.grant, summary.batch, key)
    kind = media_type(data)
    disposition = "inline" if kind in PICTURES else "attachment"
    return Response(data, media_type=kind, headers={"Content-Disposition": disposition})


def _output(the: Services, grant: Grant, batch: Batch, key: str) -> bytes:
    place = the.checked(batch.destination, "destination")
    check_place(grant, place, "destination")
    try:
        blob = open_store(place, s3=the.settings.s3).get(key, max_bytes=MOST_PICTURE_BYTES)
    except NotFound:
        blob = None
    if blob is None or not is_output(blob.info.metadata) or not may_see(the, grant, place, blob.info.metadata):
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no protected photo {key!r} in {place}")
    return blob.data


def _weak(ledger: Ledger, batch: Batch) -> list[PhotoReport]:
    """Return the first photos of which a juror still knows a face."""
    try:
        found = islice(reports(ledger, batch, retries(ledger, batch)), SHARDS)
        weak = (photo for one in found if one for photo in one.counting if photo.weak and photo.bytes_out)
        return list(islice(weak, SHOWN))
    except WorkerError:  # a plan or report that cannot be read shows in the batch's state
        return []


def _here(batch: str, destination: str | None) -> str:
    return f"/batches/{batch}" + (f"?{urlencode({'destination': destination})}" if destination else "")
