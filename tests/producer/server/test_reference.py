"""The OpenAPI document and its page for people."""

from __future__ import annotations

import re
from html import unescape

import pytest

from producer.server.pages import reference, render
from tests.producer.server.platform import Platform


def test_the_page_has_all_that_the_document_has(place: Platform) -> None:
    """Each route, parameter, body and field; every link goes somewhere; nothing is loaded from elsewhere."""
    place.token("ops", scopes=["read"])
    with place.server() as (api, _):
        document = api("GET", "/openapi.json").json
        answer = api("GET", "/reference")
    assert answer.status == 200, "without a token, as the document"
    assert answer.headers["Content-Security-Policy"] == render.POLICY
    page = unescape(answer.data.decode())
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            assert f'<b class="method">{method.upper()}</b> <code class="place">{path}</code>' in page
            for parameter in facts.get("parameters", ()):
                assert f"<code>{parameter['name']}</code>" in page
    for name, facts in document["components"]["schemas"].items():
        for field in facts["properties"]:
            assert f"<code>{field}</code>" in page.partition(f'id="schema-{name}"')[2].partition("</section>")[0]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:href|src)="([^"]+)"', page))
    assert {one[1:] for one in targets if one.startswith("#")} <= set(ids)
    assert all(one.startswith(("#", "/")) for one in targets)
    assert all(api_path.startswith(("/static/", "/openapi.json")) for api_path in targets if api_path[0] == "/")


def test_each_route_names_its_scope(place: Platform) -> None:
    """A token without a scope that the document names is refused for just that; the page shows the same."""
    with place.server() as (api, _):
        paths = api("GET", "/openapi.json").json["paths"]
    needed = {
        (method, path): [one["HTTPBearer"] for one in facts["security"]]
        for path, methods in paths.items()
        for method, facts in methods.items()
    }
    assert all(needed.values())
    assert needed["post", "/v1/batches"] == needed["post", "/v1/protect"] == [["submit"]]
    assert needed["post", "/v1/estimate"] == [["read"], ["submit"]]
    assert needed["post", "/v1/batches/{batch}/cancel"] == needed["delete", "/v1/photos"] == [["operate"]]
    narrow = {scope: place.token(scope, scopes=[scope]) for scope in ("read", "submit", "operate")}
    with place.server() as (api, _):
        for (method, path), ones in needed.items():
            for scope in {"read", "submit", "operate"} - {one for some in ones for one in some}:
                asked = path.replace("{batch}", "b").replace("{name}", "n")
                answer = api.with_token(narrow[scope])(method.upper(), asked)
                assert answer.status in (403, 422), (method, path, scope)


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "`<b>`", '"><img src=x>'])
def test_what_the_document_says_is_never_markup(hostile: str) -> None:
    """A description, name, default or pattern with markup in it is shown as it is."""
    field = {"description": hostile, "type": "string", "default": hostile, "pattern": hostile, "enum": [hostile]}
    operation = {
        "tags": ["t"], "description": hostile, "security": [{"x": [hostile]}],
        "parameters": [{"name": hostile, "in": "query", "schema": field}],
        "responses": {"200": {"description": hostile, "content": {hostile: {}}}, "400": {"description": ""}},
    }  # fmt: skip
    document = {
        "info": {"title": "", "version": hostile, "description": hostile}, "paths": {"/x": {"get": operation}},
        "components": {"schemas": {"A": {"properties": {hostile: field}, "description": hostile}}},
    }  # fmt: skip
    text = bytes(render.page("reference.html", None, **reference.facts_of(document)).body).decode()
    assert "<script>alert" not in text and "<img src=x" not in text and "<b>`" not in text and "<code><b>" not in text
