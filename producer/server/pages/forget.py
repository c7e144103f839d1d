"""Pages that forget a photo, and that tell who did what to a batch."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from starlette.responses import HTMLResponse, RedirectResponse, Response

from producer.server.auth import The
from producer.server.forget import forget_photos
from producer.server.pages import render
from producer.server.pages.session import Actor, Form, Session, seeing
from producer.server.problems import NoSuchBatch
from workers.ledger.audit import acts

router = APIRouter(include_in_schema=False)

#: Acts that a batch's page shows, of so many newest ones of its destination.
LOOKED_AT = 500

SeesActs = Annotated[Session, Depends(seeing("operate"))]


@router.post("/forget")
def forget(session: Actor, form: Form, the: The) -> Response:
    """Ask once more, and then forget a photo of a batch. Its key is in no address, which others may log."""
    batch, key = form.get("batch", ""), form.get("key", "")
    _, summary = the.find(session.grant, batch, form.get("destination") or None)
    place = summary.batch.destination
    back = f"/batches/{batch}?{urlencode({'destination': place})}"
    asked: dict[str, Any] = {"batch": batch, "key": key, "destination": place, "back": back}
    if form.get("sure") != "yes":
        return render.page("forget.html", session, **asked, left=[])
    found, unknown = forget_photos(the, session.grant, place, [key], batch)
    if unknown or found.left:
        left = [*found.left, *(f"this batch has no photo {one!r}" for one in unknown)]
        return render.page("forget.html", session, **asked, left=left)
    try:
        the.find(session.grant, batch, place)
    except NoSuchBatch:  # it was the last of its photos
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return RedirectResponse(f"{back}&said=forget", HTTPStatus.SEE_OTHER)


@router.get("/batches/{batch}/audit")
def audit(batch: str, session: SeesActs, the: The, destination: str | None = None) -> HTMLResponse:
    """Show who did what to a batch, newest first; to a token of all tenants also what was forgotten beside it."""
    ledger, _ = the.find(session.grant, batch, destination)
    of = {batch} if session.grant.tenants is not None else {batch, ""}
    found = [act for act in acts(ledger, newest=LOOKED_AT) if act.batch in of and not act.schedule]
    back = f"/batches/{batch}" + (f"?{urlencode({'destination': destination})}" if destination else "")
    return render.page("audit.html", session, batch=batch, acts=found[::-1], back=back)
