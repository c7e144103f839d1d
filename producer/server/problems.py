"""Errors of the API as RFC 9457 problems: the value and its cure, under the status that says whose turn it is."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from apf.errors import ApfError
from workers.access.sources import OverlapError
from workers.batches.create import OtherRecipe
from workers.broker.client import BrokerError
from workers.errors import (
    BadRequest,
    CallbackError,
    Forbidden,
    InvalidKey,
    IsOutput,
    JobError,
    LedgerError,
    NewerRecord,
    NotAllowed,
    NotFound,
    SettingsError,
    StoreError,
    WorkerError,
)
from workers.telemetry.redaction import masked

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Errors of one body that are told.
MOST_TOLD = 10
#: What a caller is asked to wait where a service behind the server does not answer.
RETRY_AFTER_S = 5


#: Where an error names a command, this does the same over HTTP. The first that fits counts.
ROUTES = (
    ("status --watch", "GET /v1/batches/{batch}/events"),
    ("status --failed", "GET /v1/batches/{batch}/failures"),
    ("status", "GET /v1/batches"),
    *((act, f"POST /v1/batches/{{batch}}/{act}") for act in ("retry", "resume", "pause", "cancel")),
    ("protect", "POST /v1/batches"),
    ("remember", "POST /v1/photos/remember"),
    ("schedule list", "GET /v1/schedules"),
    ("schedule change", "PATCH /v1/schedules/{name}"),
    ("schedule run-now", "POST /v1/schedules/{name}/run"),
    ("schedule go-on", "POST /v1/schedules/{name}/go-on"),
)


#: Where the queue is, and what it said, is for the operator: the log has it.
NO_QUEUE = (
    "the queue cannot be used now: send this again, and tell the operator the request_id if it stays so; what was "
    "accepted before goes on"
)


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """For people: the value that is wrong, and what to do about it."""
    request_id: str = ""
    """To be named when somebody asks the operator about it."""


class Problem(Exception):
    """Raised when a request is answered with an error of the API's own."""

    def __init__(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class NoSuchBatch(Problem):
    """Raised when there is no such batch, or it is none of the caller's business."""

    def __init__(self, batch: str) -> None:
        super().__init__(
            HTTPStatus.NOT_FOUND,
            f"there is no batch {batch!r} that this token may see: GET /v1/batches lists them, and ?destination= "
            "says where one went",
        )


#: The first kind that fits decides.
STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (BrokerError, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotAllowed, HTTPStatus.FORBIDDEN),
    (OtherRecipe, HTTPStatus.CONFLICT),
    (NewerRecord, HTTPStatus.CONFLICT),
    (LedgerError, HTTPStatus.CONFLICT),
    (BadRequest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (OverlapError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (CallbackError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (JobError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.UNPROCESSABLE_ENTITY),
    (IsOutput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidKey, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Forbidden, HTTPStatus.UNPROCESSABLE_ENTITY),
    (SettingsError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ApfError, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def status_of(error: Exception) -> HTTPStatus:
    """Return the status of an error of the system's own."""
    if isinstance(error, WorkerError) and error.transient and not isinstance(error, CallbackError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    fitting = (status for kind, status in STATUSES if isinstance(error, kind))
    if isinstance(error, StoreError):
        return next(fitting, HTTPStatus.UNPROCESSABLE_ENTITY)
    return next(fitting, HTTPStatus.INTERNAL_SERVER_ERROR)


def answer(request: Request, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return the problem as a response: a page where a page was asked for."""
    if as_page := request.scope.get("apf_as_page"):
        found: Response = as_page(status, detail, headers)
        return found
    facts = ProblemDetails(
        title=status.phrase, status=status, detail=detail, request_id=request.scope.get("apf_request_id", "")
    )
    return JSONResponse(facts.model_dump(), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have the app answer every error as a problem."""

    def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101  as registered
        return answer(request, error.status, error.detail, error.headers)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, _explained(error))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        status = HTTPStatus(error.status_code)
        return answer(request, status, _of_routing(request, status, error), dict(error.headers or {}))

    def ours(request: Request, error: Exception) -> Response:
        status = status_of(error)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
        detail = masked(str(error))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("%s %s: %s", request.method, request.scope.get("path"), detail)
        if isinstance(error, BrokerError):
            detail = NO_QUEUE
        elif "apf_as_page" not in request.scope:
            detail = over_http(detail)
        return answer(request, status, detail, headers)

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(WorkerError, ours)
    app.add_exception_handler(ApfError, ours)


def over_http(detail: str) -> str:
    """Return an error's words with routes for commands, which whoever asks over HTTP has not."""
    for command, route in ROUTES:
        detail = re.sub(rf"\bapf {command}\b(?!-)", route, detail)
    return detail


def _explained(error: RequestValidationError) -> str:
    if broken := _no_json(error):
        return broken
    told = []
    # The first ones, cut: a body names as many fields as it likes.
    for one in error.errors()[:MOST_TOLD]:
        where = ".".join(str(part)[:100] for part in one["loc"])
        got = one.get("input")
        value = f" (got {str(got)[:100]!r})" if isinstance(got, str | int | float) else ""
        told.append(f"{where}: {one['msg'].removeprefix('Value error, ')}{value}")
    return "; ".join(told) + ": /openapi.json says what each field may be"


def _no_json(error: RequestValidationError) -> str:
    """Return what is wrong with a body that is no JSON, or is not said to be; empty where it is."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    if first["loc"] == ("body",) and isinstance(first.get("input"), bytes):
        return "the body is not said to be JSON: send Content-Type: application/json"
    return ""


def _of_routing(request: Request, status: HTTPStatus, error: HTTPException) -> str:
    match status:
        case HTTPStatus.NOT_FOUND:
            return f"there is no {request.scope.get('path')!r} here: /openapi.json lists what there is"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            return f"{request.method} is not answered here: use {allowed or 'what /openapi.json lists'}"
        case _:
            return str(error.detail)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problems that a route may answer with, for the OpenAPI document."""
    every = {400, 401, 403, 413, 415, 422, 429, 503, *statuses}
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "model": ProblemDetails, "content": {MEDIA_TYPE: schema}}
        for status in sorted(every)
    }
