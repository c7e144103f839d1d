"""Forgotten photos protected once more over HTTP: by whom, and what is kept of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from producer.server.idempotency import FOLDER
from producer.server.models import BatchRequest
from tests.producer.server.platform import Api, Platform
from workers.store import open_store

ALL = ["read", "submit", "operate"]


def face(place: Platform) -> str:
    """The key of a photo that can be protected."""
    return min(key for key, data in place.world.photos.items() if data.startswith(b"face"))


def asked(place: Platform, **more: object) -> dict[str, object]:
    return {"source": place.source, "destination": place.destination, "recipe": "light", **more}


def forget(api: Api, place: Platform, key: str) -> None:
    done = api("DELETE", "/v1/photos", {"destination": place.destination, "keys": [key]})
    assert done.json["forgotten"] == 1 and done.json["left"] == []


def test_a_forgotten_photo_is_protected_once(working: Platform) -> None:
    """By name, with a line in the audit log that says so and names no photo; the next batch leaves it out again."""
    key = face(working)
    with working.server() as (api, _):
        forget(api, working, key)
        assert api("POST", "/v1/batches", asked(working, photos=[key])).status == 422
        accepted = api("POST", "/v1/batches", asked(working, photos=[key], include_forgotten=True))
        assert accepted.status == 202 and accepted.json["forgotten"] == []
        assert api.ended(accepted.json["batch"])["protected"] == 1
        lines = api("GET", f"/v1/audit?destination={working.destination}").json["acts"]
        (line,) = [one for one in lines if one["act"] == "submit"]
        assert line["batch"] == accepted.json["batch"] and line["facts"]["include_forgotten"] is True
        assert key not in json.dumps(lines)
        assert api("POST", "/v1/batches", asked(working, photos=[key])).status == 422, "it stays forgotten"


def test_a_whole_source_with_its_forgotten_photos(working: Platform) -> None:
    """The estimate counts them, and the batch protects them, where they are asked for; else neither does."""
    key = face(working)
    with working.server() as (api, _):
        forget(api, working, key)
        without, with_it = (
            api("POST", "/v1/estimate", asked(working, include_forgotten=one)).json["photos"] for one in (False, True)
        )
        assert with_it == without + 1
        for included in (False, True):
            batch = api("POST", "/v1/batches", asked(working, include_forgotten=included)).json["batch"]
            api.ended(batch)
            assert (working.world.destination.head(key) is not None) is included


def test_whoever_may_not_remember_may_not_include_either(place: Platform) -> None:
    """It takes submit and operate, and of a tenant's token places around the photos: else nothing is written."""
    tokens = {
        "submits": place.token("submits", scopes=["submit"]),
        "operates": place.token("operates", scopes=["operate", "read"]),
        "ann": place.token("ann", scopes=ALL, tenants=["ann"]),
        "placed": place.token("placed", scopes=ALL, tenants=["ann"], urls=[place.source, place.destination]),
        "elsewhere": place.token("elsewhere", scopes=ALL, tenants=["ann"], urls=[place.source + "/ann"]),
    }
    body = asked(place, photos=[face(place)], include_forgotten=True)
    with place.server() as (api, _):
        for name, told in {"submits": "operate", "operates": "submit", "ann": "--url", "elsewhere": "places"}.items():
            refused = api.with_token(tokens[name])("POST", "/v1/batches", body)
            assert refused.status == 403 and told in refused.json["detail"], name
        assert not place.world.ledger.batches()
        assert (
            api.with_token(tokens["submits"])("POST", "/v1/batches", {**body, "include_forgotten": False}).status == 202
        )
        assert api.with_token(tokens["placed"])("POST", "/v1/batches", body).status == 202


def test_a_key_of_the_version_before_still_replays(place: Platform) -> None:
    """What that version kept of a request counts after an upgrade: the same request is the same batch."""
    before = [
        "POST /v1/batches",
        {
            "source": place.source, "destination": place.destination, "photos": ["a.jpg"], "recipe": "light",
            "lane": None, "tenant": None, "callback": None, "no_face": "copy", "overwrite": False,
            "on_weak": "publish", "exclude": [], "missing": "refuse", "private": False,
        },
    ]  # fmt: skip
    answer = {"batch": "b-1", "destination": place.destination, "photos": 1, "missing": [], "forgotten": []}
    digest = hmac.digest(b"k", repr(before).encode(), "sha256").hex()
    record = {"fingerprint": digest, "batch": "b-1", "at": "2026-01-01T00:00:00+00:00", "answer": answer}
    name = hashlib.sha256(b"local\0k").hexdigest()
    open_store(Path(place.world.folder / "ledgers").as_uri()).put(FOLDER + name, json.dumps(record).encode())
    with place.server() as (api, _):
        body = asked(place, photos=["a.jpg"])
        replayed = api("POST", "/v1/batches", body, Idempotency_Key="k")
        assert replayed.status == 202 and replayed.headers["Idempotency-Replayed"] == "true"
        assert replayed.json["batch"] == "b-1"
        other = api("POST", "/v1/batches", {**body, "include_forgotten": True}, Idempotency_Key="k")
        assert other.status == 422 and "another request" in other.json["detail"]


@pytest.mark.parametrize("included", [True, False])
def test_a_request_tells_a_new_field_only_where_it_asks_for_something(included: bool) -> None:
    found = BatchRequest(source="s3://a", destination="s3://b", include_forgotten=included)
    assert ("include_forgotten" in found.told()) is included
    assert "/include_forgotten" in "/" + "/".join(BatchRequest.model_json_schema()["properties"])
