"""Protect one photo while its sender waits."""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from apf.recipe import DEFAULT_RECIPE
from producer.server.auth import Submitter, The, tenant_for
from producer.server.metrics import PROTECTING
from producer.server.models import NoFace, RecipeName, Tenant, Weak
from producer.server.places import tenant_of
from producer.server.problems import Problem, described
from producer.server.scratch import NotInTime, NotProtected, Protected, Scratch
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.core.records import OnWeak, PhotoReport

router = APIRouter(tags=["photos"])

#: The beginnings of what workers write, and their media types.
MAGIC = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG", "image/png"),
    (8, b"WEBP", "image/webp"),
    (8, b"avif", "image/avif"),
    (4, b"ftyp", "image/heic"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
)
_PHOTO = {"schema": {"type": "string", "format": "binary"}}
_HEADERS = {
    "Apf-Outcome": "protected; or no_face: none was found, and the photo is a copy without its metadata.",
    "Apf-Faces": "How many faces are protected.",
    "Apf-Jury": "passed; weak: a juror still knows a face; none: no juror was asked, or could say.",
    "Apf-Weak-Faces": "How many faces a juror still knows.",
    "Apf-Recipe": "The id of the recipe.",
    "Apf-Warning": "What else there is to know; absent where there is nothing.",
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The protected photo, in the format of the one that came.",
        "content": {"image/*": _PHOTO, "application/octet-stream": _PHOTO},
        "headers": {n: {"description": text, "schema": {"type": "string"}} for n, text in _HEADERS.items()},
    }
}
_BODY = {"requestBody": {"required": True, "description": "The photo itself.", "content": {"image/*": _PHOTO}}}


@router.post("/v1/protect", response_class=Response, responses=_ANSWER | described(404, 504), openapi_extra=_BODY)
async def protect(
    request: Request,
    grant: Submitter,
    the: The,
    recipe: RecipeName = DEFAULT_RECIPE,
    on_weak: Weak = "publish",
    no_face: Annotated[
        Literal["copy", "refuse"],
        Query(description="A photo without a face comes back without its metadata, or is refused."),
    ] = "copy",
    tenant: Tenant | None = None,
) -> Response:
    """Protect the photo in the body, ahead of all bulk work, and answer with it.

    A photo that cannot be protected is answered with a problem, never with a photo.
    """
    with ExitStack() as held:
        scratch = _open_scratch(the)
        owner = tenant_for(grant, tenant)
        held.enter_context(the.protecting.one(tenant_of(grant, owner)))
        with PROTECTING.track_inprogress():
            data = await request.body()
            if not data:
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is empty: send the photo's bytes")
            keep: NoFace = "skip" if no_face == "refuse" else "copy"
            found = await run_in_threadpool(_protected, the, scratch, grant, owner, data, recipe, on_weak, keep)
    return Response(found.photo.data, media_type=media_type(found.photo.data), headers=headers_of(found))


def _open_scratch(the: Services) -> Scratch:
    if the.scratch is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "this server protects no photo while one waits: the operator sets APF_SERVE_SCRATCH_URL to a private place",
        )
    return the.scratch


def _protected(
    the: Services,
    scratch: Scratch,
    grant: Grant,
    tenant: str,
    data: bytes,
    recipe: str,
    on_weak: OnWeak,
    no_face: NoFace,
) -> Protected:
    try:
        with the.limits.work(grant, tenant, photos=1, size=len(data)):
            return scratch.protect(
                data,
                recipe=recipe,
                tenant=tenant,
                on_weak=on_weak,
                no_face=no_face,
                timeout_s=the.serve.protect_timeout_s,
            )
    except NotProtected as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"this photo cannot be protected: {error}") from error
    except NotInTime as error:
        raise Problem(HTTPStatus.GATEWAY_TIMEOUT, str(error), Retry_After="30") from error


def headers_of(found: Protected) -> dict[str, str]:
    """Return what is to be known of the photo."""
    report = found.report
    facts = {
        "Apf-Outcome": report.outcome.value,
        "Apf-Faces": str(report.faces),
        "Apf-Jury": jury_of(report),
        "Apf-Weak-Faces": str(report.weak),
        "Apf-Recipe": found.recipe_id,
    }
    if report.note:
        ascii_alone = " ".join(report.note.split()).encode("ascii", "replace").decode()[:500]
        facts["Apf-Warning"] = "".join(char if char.isprintable() else "?" for char in ascii_alone)
    return facts


def jury_of(report: PhotoReport) -> Literal["passed", "weak", "none"]:
    """Return the jury's word on a photo."""
    if report.weak:
        return "weak"
    heard = [word for word in report.words if word.likeness is not None]
    return "passed" if heard and len(heard) == report.faces else "none"


def media_type(data: bytes) -> str:
    """Return the media type of what a worker wrote."""
    return next((kind for at, magic, kind in MAGIC if data.startswith(magic, at)), "application/octet-stream")
