"""The OpenAPI document, in which each route says which scopes a token needs for it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from producer.server.auth import scopes_of


def describe(app: FastAPI) -> None:
    """Make the document, now and not at the first requests, several at once."""
    document = app.openapi()
    for route in app.routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for needed in route.dependant.dependencies:
            if scopes := scopes_of(needed.call):
                for method in route.methods or ():
                    # Any one of them. What is no OAuth names roles here since OpenAPI 3.1.
                    document["paths"][route.path][method.lower()]["security"] = [
                        {"HTTPBearer": [scope]} for scope in scopes
                    ]
