"""Probes and metrics."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from producer.server.auth import Reader, The
from producer.server.problems import Problem, described

router = APIRouter(tags=["health"])


@router.get("/healthz", include_in_schema=False)
def healthz() -> JSONResponse:
    """Say that the process lives."""
    return JSONResponse({"ok": True})


@router.get("/readyz", include_in_schema=False)
def readyz(the: The) -> JSONResponse:
    """Say whether requests would be done: the queue and the ledger's store answer, and the server is not to end."""
    problems = {"server": "it is to end"} if the.stopping.is_set() else the.readiness.problems()
    return JSONResponse({"ok": not problems, **problems}, HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK)


@router.get("/metrics", responses=described(), response_class=Response)
def metrics(grant: Reader) -> Response:
    """Answer Prometheus, of all tenants together: with a token that is bound to none, and reads."""
    if grant.tenants is not None:
        raise Problem(HTTPStatus.FORBIDDEN, f"token {grant.name!r} is bound to tenants, and metrics are of all of them")
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
