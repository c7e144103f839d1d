"""The OpenAPI document, in which each route says which scopes a token needs for it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI


def described(app: FastAPI) -> dict[str, Any]:
    """Return the document of an app that has all its routes: now, and not at the first requests, several at once."""
    document = app.openapi()
    for methods in document["paths"].values():
        for facts in methods.values():
            # FastAPI writes that all are needed; it is any one of them.
            facts["security"] = [
                {scheme: [scope]} for one in facts["security"] for scheme, scopes in one.items() for scope in scopes
            ]
    return document
