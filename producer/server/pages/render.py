"""Templates to answers."""

from __future__ import annotations

import json
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from producer.server.pages.session import Session
from workers.core.clock import now
from workers.report.card import legible

HERE = Path(__file__).parent
#: What a page may do: nothing but show itself, our style and script, and our pictures.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def ago(moment: str) -> str:
    """Return how long a moment is past, in one unit."""
    return span((now() - datetime.fromisoformat(moment)).total_seconds()) + " ago"


def span(seconds: float) -> str:
    """Return a span of time in one unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def grouped(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def as_json(value: object) -> str:
    """Return a value as it stands in a request."""
    return value if isinstance(value, str) else json.dumps(value)


_templates.filters.update(ago=ago, span=span, grouped=grouped, legible=legible)


def page(template: str, session: Session | None, status: int = 200, **facts: Any) -> HTMLResponse:
    """Return a page."""
    text = _templates.get_template(template).render(session=session, **facts)
    # A browser that may tell no site where it was would send forms from origin "null".
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"})


def problem_page(
    request: Request, session: Session | None, status: HTTPStatus, detail: str, headers: dict[str, str] | None
) -> HTMLResponse:
    """Return a problem for eyes."""
    request_id = request.scope.get("apf_request_id", "")
    answer = page("problem.html", session, status, title=status.phrase, detail=detail, request_id=request_id)
    answer.headers.update(headers or {})
    return answer
