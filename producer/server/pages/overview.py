"""Pages of workers and queues, schedules, recipes; the login, and the files that pages load."""

from __future__ import annotations

from collections import defaultdict
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from producer.server.auth import The, grant_of
from producer.server.index import Wanted
from producer.server.listing import page
from producer.server.pages import batches, forget, reference, render
from producer.server.pages.session import (
    COOKIE,
    Actor,
    Form,
    LoginNeeded,
    Session,
    Sessions,
    Viewer,
    seeing,
    sessions_of,
    set_cookie,
)
from producer.server.pages.work import queues_of, work_of
from producer.server.problems import Problem
from producer.server.routes.health import metrics
from producer.server.routes.schedules import fire, set_paused, views
from workers.errors import WorkerError

router = APIRouter(include_in_schema=False)

#: Batches whose recipes are counted.
COUNTED = 200
FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

SeesMetrics = Annotated[Session, Depends(seeing("operate"))]


@router.get("/workers")
def workers(session: Viewer, the: The) -> HTMLResponse:
    """Show who works, and what waits."""
    return render.page("workers.html", session, work=work_of(the, session.grant), queues_of=queues_of)


@router.get("/schedules")
def schedules(session: Viewer, the: The, said: Annotated[str, Query(max_length=200)] = "") -> HTMLResponse:
    """Show schedules."""
    try:
        found, error = views(the, session.grant), ""
    except WorkerError as problem:
        found, error = [], str(problem)
    return render.page("schedules.html", session, schedules=found, error=error, said=said)


@router.post("/schedules/{name}/{act}")
def act_on(name: str, act: Literal["run", "pause", "go-on"], session: Actor, form: Form, the: The) -> RedirectResponse:
    """Do what a button says."""
    if act == "run":
        fire(the, session.grant, name)
    else:
        set_paused(the, session.grant, name, paused=act == "pause")
    return RedirectResponse(f"/schedules?said={act}", HTTPStatus.SEE_OTHER)


@router.get("/recipes")
def recipes(session: Viewer, the: The) -> HTMLResponse:
    """Show which recipes the latest batches have, and how photos fared by each."""
    found = page(the, Wanted(tenants=session.grant.tenants), COUNTED).summaries
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in found:
        mine = sums[one.batch.recipe.name, one.batch.recipe.id]
        mine["batches"] += 1
        for name in ("photos", "protected", "failed", "faces", "weak_faces"):
            mine[name] += getattr(one, name)
    ordered = sorted(sums.items(), key=lambda item: -item[1]["photos"])
    photos = sum(mine["photos"] for mine in sums.values())
    return render.page("recipes.html", session, recipes=ordered, photos=photos, counted=len(found))


@router.get("/login")
def login(after: Annotated[str, Query(max_length=2000)] = "/") -> HTMLResponse:
    """Ask for a token."""
    return render.page("login.html", None, after=after, error="")


@router.post("/login")
def log_in(request: Request, form: Form, the: The) -> Response:
    """Take a token, and keep its digest in a cookie. A form of another site gains nothing: it knows no token."""
    after = unquote(form.get("after", "/"))
    token = form.get("token", "").strip()
    try:
        grant_of(the, token or None)
    except Problem as error:
        return render.page("login.html", None, error.status, after=form.get("after", "/"), error=error.detail)
    # A place of this server alone: "//elsewhere" is another's.
    safe = after if after.startswith("/") and not after.startswith(("//", "/\\")) else "/"
    answer = RedirectResponse(safe, HTTPStatus.SEE_OTHER)
    set_cookie(answer, request, sessions_of(request).cookie_of(token))
    return answer


@router.post("/logout")
def log_out() -> Response:
    """Forget the session here; the cookie of another copy lasts until its time is up."""
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/page-metrics")
def page_metrics(session: SeesMetrics) -> Response:
    """Answer what GET /metrics does, for a browser."""
    return metrics(session.grant)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Answer the style, the script or the icon."""
    if name not in FILES:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no {name!r}")
    return FileResponse(render.HERE / name, media_type=FILES[name], headers={"Cache-Control": "max-age=300"})


def install(app: FastAPI) -> None:
    """Add the pages to the app."""
    app.state.problem_page = render.problem_page
    app.state.sessions = Sessions(app.state.services.serve)
    app.include_router(router)
    app.include_router(batches.router)
    app.include_router(forget.router)
    app.include_router(reference.router)

    def ask_to_log_in(_: Request, error: Exception) -> Response:
        assert isinstance(error, LoginNeeded)  # noqa: S101  as registered
        return RedirectResponse(f"/login?after={error.after}", HTTPStatus.SEE_OTHER)

    app.add_exception_handler(LoginNeeded, ask_to_log_in)
