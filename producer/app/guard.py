"""Guard: nobody but the user's own browser, on the page's own address, gets an answer.

The token in the link becomes a cookie that no other site can send (SameSite=Strict). A foreign Host is DNS rebinding, a
foreign Origin another site's form.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
SAFE = ("GET", "HEAD")
CLOSED = (
    "This page is closed to whoever has no key. Open it by the link that `apf app` printed, or start `apf app` again."
)


class Guard:
    """Answers what may not pass, and puts the headers on what does.

    Args:
        port: of this server.
        token: what the link carries.
    """

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._cookie = f"apf-app-{port}"  # cookies know no ports
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self._hosts:
            return PlainTextResponse("This server answers on 127.0.0.1 alone.", 421)
        if not self._is_own_site(scope["method"], headers):
            return PlainTextResponse("Another site asked for this, and is refused.", 403)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._fits(asked):
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        return None if self._fits(_cookie(headers, self._cookie)) else PlainTextResponse(CLOSED, 403)

    def _is_own_site(self, method: str, headers: Mapping[str, str]) -> bool:
        if method in SAFE:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin") or _is_visit(headers)
        return headers.get("origin") == f"http://{headers['host']}"

    def _fits(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "surrogatepass"), self._token.encode())


def _is_visit(headers: Mapping[str, str]) -> bool:
    """Return whether a person follows a link, of a mail or a terminal in the browser, say."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _cookie(headers: Mapping[str, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Return a `send` that adds the headers of every answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in message["headers"]}
            more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in names]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent
