"""The reference of the API for people: a page made of the OpenAPI document, once, when the server starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from producer.server.auth import The
from producer.server.pages import render
from producer.server.pages.session import COOKIE, sessions_of

router = APIRouter(include_in_schema=False)

#: Where components of the document lie.
SCHEMAS = "#/components/schemas/"
#: Bounds of a value, and how they are said.
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "over {}",
    "maximum": "at most {}",
    "minLength": "{} characters or more",
    "maxLength": "up to {} characters",
    "minItems": "{} or more",
    "maxItems": "up to {}",
    "pattern": "as {}",
}
#: Those of an empty text or list say nothing that a required field does not.
UNSAID = {("minLength", 1), ("minItems", 1)}


@dataclass(frozen=True)
class Field:
    """A parameter, a header, or a field of a body."""

    name: str
    #: Where it goes: query, path, header; empty for a field.
    place: str
    kind: Markup
    required: bool
    #: The value where it is left away, as JSON has it; empty: none.
    default: str
    about: Markup


@dataclass(frozen=True)
class Answer:
    """What an operation answers when all is well."""

    status: str
    about: str
    kinds: tuple[Markup, ...]
    headers: tuple[Field, ...]


@dataclass(frozen=True)
class Operation:
    """A method of a route."""

    anchor: str
    method: str
    path: str
    #: Tokens need one of these.
    scopes: tuple[str, ...]
    summary: Markup
    about: tuple[Markup, ...]
    parameters: tuple[Field, ...]
    #: The body: by its name, or what media types it may have.
    body: tuple[Markup, ...]
    answers: tuple[Answer, ...]
    #: Statuses of problems.
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """A body, or a part of one."""

    name: str
    about: Markup
    fields: tuple[Field, ...]


def facts_of(document: Mapping[str, Any]) -> dict[str, object]:
    """Return what the page shows of an OpenAPI document."""
    operations: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            operations.setdefault(facts["tags"][0], []).append(_operation(method, path, facts))
    schemas = tuple(_schema(name, facts) for name, facts in document["components"]["schemas"].items())
    problems = {problem for some in operations.values() for one in some for problem in one.problems}
    return {
        "info": document["info"],
        "about": _text(document["info"]["description"]),
        "operations": operations,
        "schemas": schemas,
        "problems": {status: HTTPStatus(int(status)).phrase for status in sorted(problems)},
    }


@router.get("/reference")
def reference(request: Request, the: The) -> HTMLResponse:
    """Show it to anybody: it says no more than /openapi.json."""
    session = sessions_of(request).session_of(the, request.cookies.get(COOKIE))
    return render.page("reference.html", session, **request.app.state.reference)


def _operation(method: str, path: str, facts: Mapping[str, Any]) -> Operation:
    about = [_text(part) for part in facts.get("description", "").split("\n\n")]
    good = [(status, one) for status, one in facts["responses"].items() if status < "400"]
    return Operation(
        anchor=re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-"),
        method=method.upper(),
        path=path,
        scopes=tuple(
            dict.fromkeys(scope for one in facts.get("security", ()) for some in one.values() for scope in some)
        ),
        summary=about[0],
        about=tuple(about[1:]),
        parameters=tuple(
            _field(one["name"], one["in"], one, one.get("required")) for one in facts.get("parameters", ())
        ),
        body=_kinds(facts.get("requestBody", {})),
        answers=tuple(_answer(status, one) for status, one in good),
        problems=tuple(status for status in facts["responses"] if status >= "400"),
    )


def _answer(status: str, facts: Mapping[str, Any]) -> Answer:
    headers = tuple(_field(name, "header", one, required=False) for name, one in facts.get("headers", {}).items())
    said = facts.get("description", "")
    return Answer(status, "" if said == "Successful Response" else said, _kinds(facts), headers)


def _kinds(facts: Mapping[str, Any]) -> tuple[Markup, ...]:
    """Return the bodies that something may have."""
    found = []
    for media_type, one in facts.get("content", {}).items():
        is_json = media_type == "application/json" and one.get("schema")
        found.append(_kind(one["schema"]) if is_json else escape(media_type))
    return tuple(found)


def _schema(name: str, facts: Mapping[str, Any]) -> Schema:
    required = facts.get("required", ())
    fields = (_field(one, "", told, one in required) for one, told in facts.get("properties", {}).items())
    return Schema(name, _text(facts.get("description", "").partition("\n\n")[0]), tuple(fields))


def _field(name: str, place: str, facts: Mapping[str, Any], required: bool | None) -> Field:
    schema = facts.get("schema", facts)
    default = schema.get("default")
    told = "" if default in (None, "", []) else render.as_json(default)
    options = schema.get("anyOf", ())
    about = facts.get("description") or next((one["description"] for one in options if "description" in one), "")
    return Field(name, place, _kind(schema), bool(required), told, _text(about))


def _kind(schema: Mapping[str, Any]) -> Markup:
    """Return what a value may be, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(SCHEMAS)
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if options := schema.get("anyOf"):
        return Markup(", or ").join(_kind(one) for one in options if one.get("type") != "null")
    if "const" in schema:
        return Markup("<code>{}</code>").format(schema["const"])
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(one) for one in schema["enum"])
    if schema.get("type") == "array":
        how_many = Markup(" and ").join(_bounds(schema))
        size = Markup(" ({})").format(how_many) if how_many else ""
        return Markup("list{} of {}").format(size, _kind(schema.get("items", {})))
    kind = {"object": "object", "integer": "whole number", "boolean": "true or false", "string": "text"}
    said = escape(kind.get(schema.get("type", ""), schema.get("type", "any value")))
    return Markup("; ").join([said, *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> Iterator[Markup]:
    for name, words in BOUNDS.items():
        if name in schema and (name, schema[name]) not in UNSAID:
            yield escape(words.format(schema[name]))


def _text(text: str) -> Markup:
    """Return a description, with what stands between backticks as code."""
    parts = " ".join(text.split()).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))
