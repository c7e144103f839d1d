"""Who is logged in: a token's digest in a signed cookie, and tokens that forms have to bring along."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qsl, quote

from fastapi import Depends, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.responses import Response

from producer.server.auth import The
from producer.server.problems import Problem
from producer.server.services import Services
from producer.server.settings import ServeSettings
from producer.server.tokens import LOCAL, Grant, Scope, digest

COOKIE = "apf-session"
#: After so long one logs in again.
KEPT_S = 12 * 3600
#: Forms are a few short fields.
MOST_FORM_BYTES = 64 * 1024


class LoginNeeded(Exception):
    """Raised when a page is asked for by nobody who is known."""

    def __init__(self, after: str) -> None:
        super().__init__(after)
        #: The page that was asked for.
        self.after = after


@dataclass(frozen=True)
class Session:
    """Who looks at a page."""

    grant: Grant
    #: What a form has to bring along; of this session alone.
    csrf: str

    def may(self, scope: Scope) -> bool:
        return scope in self.grant.scopes


class Sessions:
    """Cookies and forms of one server, or of several with the same secret."""

    def __init__(self, serve: ServeSettings) -> None:
        secret = serve.cookie_secret.get_secret_value() if serve.cookie_secret else secrets.token_hex(32)
        self._cookies = URLSafeTimedSerializer(secret, salt="apf-session")
        self._secret = secret.encode()

    def cookie_of(self, token: str) -> str:
        return self._cookies.dumps([digest(token), secrets.token_hex(16)])

    def session_of(self, the: Services, cookie: str | None) -> Session | None:
        """Return who sends the cookie; None where it is none of ours, too old, or its token was taken back."""
        if not the.keyring:
            return Session(LOCAL, self._csrf("local"))
        try:
            token_digest, nonce = self._cookies.loads(cookie or "", max_age=KEPT_S)
        except (BadSignature, ValueError, TypeError):
            return None
        grant = the.keyring.grant_by_digest(str(token_digest))
        return Session(grant, self._csrf(str(nonce))) if grant else None

    def _csrf(self, nonce: str) -> str:
        return hmac.digest(self._secret, b"form " + nonce.encode(), "sha256").hex()


def sessions_of(request: Request) -> Sessions:
    """Return this server's sessions."""
    found: Sessions = request.app.state.sessions
    return found


def set_cookie(response: Response, request: Request, value: str) -> None:
    """Keep the session: no script reads it, no other site sends it."""
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, value, max_age=KEPT_S, httponly=True, samesite="strict", secure=secure, path="/")


def seeing(scope: Scope) -> Callable[..., Session]:
    """Return a dependency: who looks at the page, where they may."""

    def check(request: Request, the: The) -> Session:
        session = sessions_of(request).session_of(the, request.cookies.get(COOKIE))
        request.scope["apf_as_page"] = partial(request.app.state.problem_page, request, session)
        if session is None:
            query = f"?{request.url.query}" if request.url.query else ""
            raise LoginNeeded(quote(request.url.path + query, safe="/") if request.method == "GET" else "/")
        request.scope["apf_token"] = session.grant.name
        the.limits.request(session.grant)
        if not session.may(scope):
            raise Problem(
                HTTPStatus.FORBIDDEN, f"token {session.grant.name!r} has no scope {scope!r}: log in with another"
            )
        return session

    return check


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; raises Problem (413)."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the form is over {MOST_FORM_BYTES} bytes")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50))


Form = Annotated[dict[str, str], Depends(form_of)]
Viewer = Annotated[Session, Depends(seeing("read"))]


def acting(session: Annotated[Session, Depends(seeing("operate"))], form: Form) -> Session:
    """Return who sends a form that changes something; raises Problem (403) where it is not of one of our pages."""
    if not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
        raise Problem(HTTPStatus.FORBIDDEN, "this form is of another session, or of another site: reload the page")
    return session


Actor = Annotated[Session, Depends(acting)]
