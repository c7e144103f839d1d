"""Authenticate requests by their bearer token, and say what each may do."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from producer.server.problems import Problem
from producer.server.services import Services
from producer.server.tokens import LOCAL, Grant, Scope
from workers.config.access import check_allowed
from workers.errors import NotAllowed
from workers.store import canonical_url

bearer = HTTPBearer(auto_error=False, description="A token of `apf token new`.")

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


async def services_of(request: Request) -> Services:
    """Return what this server works with; awaited, as it needs no thread."""
    found: Services = request.app.state.services
    return found


The = Annotated[Services, Depends(services_of)]


def grant_of(the: Services, token: str | None) -> Grant:
    """Return what the holder of a token may do; raises Problem (401) where nobody knows it."""
    if not the.keyring:
        return LOCAL
    if token is None:
        raise _unknown("send a token: Authorization: Bearer apf_...")
    grant = the.keyring.grant_of(token)
    if grant is None:
        raise _unknown("this token is not known, or was taken back: have the operator make one with `apf token new`")
    return grant


def require_scope(*scopes: Scope) -> Any:
    """Return a dependency: the request's grant, where it has one of the scopes."""

    def check(request: Request, the: The, credentials: Credentials) -> Grant:
        grant = grant_of(the, credentials.credentials if credentials else None)
        request.scope["apf_token"] = grant.name
        the.limits.request(grant)
        if grant.scopes.isdisjoint(scopes):
            raise _without(grant, *scopes)
        return grant

    # With its scopes, for the OpenAPI document.
    return Security(check, scopes=scopes)


Reader = Annotated[Grant, require_scope("read")]
Submitter = Annotated[Grant, require_scope("submit")]
Operator = Annotated[Grant, require_scope("operate")]


def tenant_for(grant: Grant, asked: str | None) -> str:
    """Return the tenant of new work; raises Problem (403) where the token is not for it."""
    if grant.tenants is None:
        return asked or ""
    if asked is None and len(grant.tenants) == 1:
        return grant.tenants[0]
    if asked is None or asked not in grant.tenants:
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"token {grant.name!r} is not for tenant {asked or ''!r}: name one of {', '.join(grant.tenants)}",
        )
    return asked


def check_place(grant: Grant, url: str, what: str) -> None:
    """Raise NotAllowed where the token is not for the place."""
    if grant.urls is None:
        return
    try:
        check_allowed(url, tuple(canonical_url(one) for one in grant.urls), what=what)
    except NotAllowed:
        raise NotAllowed(
            f"{what} {url} lies under none of the places of token {grant.name!r}: name one below "
            f"{', '.join(grant.urls)}"
        ) from None


def check_may_remember(grant: Grant) -> None:
    """Raise Problem (403) where the token may not have forgotten photos protected again."""
    if "operate" not in grant.scopes:
        raise _without(grant, "operate")
    if grant.tenants is not None and grant.urls is None:
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"nothing is left of a forgotten photo that says whose it was, and token {grant.name!r} is bound to "
            "tenants and to no place: use one of `apf token new --url`",
        )


def _without(grant: Grant, *scopes: Scope) -> Problem:
    wanted = " or ".join(map(repr, scopes))
    return Problem(
        HTTPStatus.FORBIDDEN, f"token {grant.name!r} has no scope {wanted}, which this needs: use one that has it"
    )


def _unknown(detail: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, detail, WWW_Authenticate="Bearer")
