"""Photos forgotten, batches estimated and acts noted over HTTP."""

from __future__ import annotations

import gzip
import json
import re
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from producer.server import board
from tests.producer.server.platform import Api, Platform
from tests.producer.server.test_pages import Browser

ALL = ["read", "submit", "operate"]
SECRET = "anna klinik/1.jpg"
ABSENT = "anna klinik/2.jpg"


def submit(api: Api, place: Platform, photos: list[str], **more: object) -> str:
    key = {"Idempotency_Key": str(more.pop("key"))} if "key" in more else {}
    body = {"source": place.source, "destination": place.destination, "recipe": "light", "photos": photos, **more}
    answer = api("POST", "/v1/batches", body, **key)
    assert answer.status == 202, answer.data
    return str(answer.json["batch"])


def forget(api: Api, place: Platform, *keys: str, **more: object) -> dict[str, object]:
    answer = api("DELETE", "/v1/photos", {"destination": place.destination, "keys": list(keys), **more})
    assert answer.status == 200, answer.data
    return dict(answer.json)


def naming(place: Platform, key: str) -> list[str]:
    """All objects of the ledgers, outputs and the scratch place that name a photo."""
    forms = {key.encode(), quote(key).encode(), json.dumps(key)[1:-1].encode()}
    found = []
    for folder in ("ledgers", "public", "scratch"):
        for path in (place.world.folder / folder).rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            if any(form in str(path).encode() + data for form in forms):
                found.append(str(path))
    return found


def test_nothing_of_the_server_names_a_forgotten_photo(working: Platform) -> None:
    """A photo that failed and one that was not there: no object names them, nor an answer, nor the replay of one."""
    working.world.source.put(SECRET, b"corrupt")
    other = sorted(working.world.photos)[0]
    with working.server() as (api, _), working.server() as (second, _):
        asked = {"missing": "ignore", "key": "upload-1"}
        batch = submit(api, working, [SECRET, ABSENT, other], **asked)
        api.ended(batch), second.ended(batch)
        assert SECRET in api("GET", f"/v1/batches/{batch}/failures").data.decode()
        assert naming(working, SECRET), "the test looks where it should"
        done = forget(api, working, SECRET, ABSENT)
        assert done["left"] == [] and done["forgotten"] == 2 and done["unknown"] == []
        assert naming(working, SECRET) == naming(working, ABSENT) == []
        for path in (f"/v1/batches/{batch}/failures", f"/v1/batches/{batch}", "/v1/batches", f"/batches/{batch}"):
            assert "anna klinik" not in api("GET", path).data.decode(), path
        again = forget(api, working, SECRET, ABSENT)
        assert (again["outputs"], again["records"], again["left"]) == (0, 0, [])
        body = {"source": working.source, "destination": working.destination, "recipe": "light"}
        refused = api("POST", "/v1/batches", {**body, "photos": [SECRET]})
        assert refused.status == 422 and "was forgotten" in refused.json["detail"]
        place = {"destination": working.destination, "keys": [SECRET]}
        assert api("POST", "/v1/photos/remember", place).json == {"remembered": 1}
        assert api("POST", "/v1/batches", {**body, "photos": [SECRET]}).status == 202


def test_a_replayed_answer_names_what_was_missing(place: Platform) -> None:
    """The record of an idempotent request holds no key, and its replay answers with the keys all the same."""
    photos = [sorted(place.world.photos)[0], ABSENT]
    body = {"source": place.source, "destination": place.destination, "photos": photos, "missing": "ignore"}
    with place.server() as (api, _):
        first = api("POST", "/v1/batches", body, Idempotency_Key="k")
        again = api("POST", "/v1/batches", body, Idempotency_Key="k")
    assert first.json["missing"] == [ABSENT] and again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert not any("serve/requests" in path for path in naming(place, ABSENT))


def test_another_server_names_a_forgotten_photo_no_longer_than_a_minute(
    working: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that follows the batch reads it anew after a time, of which the test waits a part."""
    monkeypatch.setattr(board, "ANEW_S", 0.5)
    working.world.source.put(SECRET, b"corrupt")
    with working.server() as (api, _), working.server() as (second, _):
        batch = submit(api, working, [SECRET, sorted(working.world.photos)[0]])
        second.ended(batch)
        assert SECRET in second("GET", f"/v1/batches/{batch}/failures").data.decode()
        forget(api, working, SECRET)
        time.sleep(0.8)
        assert SECRET not in second("GET", f"/v1/batches/{batch}/failures").data.decode()


def test_a_tenant_forgets_its_own_photos_alone(working: Platform) -> None:
    """Of another's output, and of a failed photo that no batch of its own has, nothing is done, told or marked."""
    ann, bob = (working.token(name, scopes=ALL, tenants=[name]) for name in ("ann", "bob"))
    working.world.source.put("bob/failed.jpg", b"corrupt")
    mine, his = sorted(key for key in working.world.photos if working.world.photos[key].startswith(b"face"))[:2]
    with working.server() as (api, _):
        anns, bobs = api.with_token(ann), api.with_token(bob)
        anns.ended(submit(anns, working, [mine]))
        batch = submit(bobs, working, [his, "bob/failed.jpg"])
        bobs.ended(batch)
        for more in ({}, {"batch": batch}):
            done = forget(anns, working, his, "bob/failed.jpg", mine + "x", **more)
            assert (done["forgotten"], done["unknown"]) == (0, sorted([his, "bob/failed.jpg", mine + "x"]))
        assert len(bobs("GET", f"/v1/batches/{batch}/failures").json["failures"]) == 1
        assert working.world.destination.head(his)
        assert forget(anns, working, mine)["outputs"] == 1
        assert forget(bobs, working, his, "bob/failed.jpg", batch=batch)["forgotten"] == 2
        assert bobs("GET", f"/v1/batches/{batch}").status == 404, "no photo is left of it"
        where = {"destination": working.destination, "keys": [his]}
        assert anns("POST", "/v1/photos/remember", where).status == 403
        assert anns("GET", f"/v1/audit?destination={working.destination}").status == 403


def test_a_token_with_places_forgets_below_them(place: Platform) -> None:
    """Keys outside are refused by their names, before anything is done; those inside need no output."""
    urls = [place.source, f"{place.destination}/ann lee".replace(" ", "%20")]
    token = place.token("ann", scopes=ALL, tenants=["ann"], urls=urls)
    with place.server() as (api, _):
        anns = api.with_token(token)
        for key in ("bob/1.jpg", "ann leeds/1.jpg"):
            where = {"destination": place.destination, "keys": ["ann lee/1.jpg", key]}
            for method, path in (("DELETE", "/v1/photos"), ("POST", "/v1/photos/remember")):
                refused = anns(method, path, where)
                assert refused.status == 403 and key in refused.json["detail"], refused.data
        assert forget(anns, place, "ann lee/1.jpg")["forgotten"] == 1
        where = {"destination": place.destination, "keys": ["ann lee/1.jpg"]}
        assert anns("POST", "/v1/photos/remember", where).json == {"remembered": 1}


def test_forgetting_wants_operate(place: Platform) -> None:
    """Neither a reader nor a submitter forgets, remembers, or reads the audit log."""
    tokens = [place.token(scope, scopes=[scope]) for scope in ("read", "submit")]
    where = {"destination": place.destination, "keys": ["a.jpg"]}
    with place.server() as (api, _):
        for token in tokens:
            one = api.with_token(token)
            assert one("DELETE", "/v1/photos", where).status == 403
            assert one("POST", "/v1/photos/remember", where).status == 403
            assert one("GET", f"/v1/audit?destination={place.destination}").status == 403


def test_keys_are_bounded_and_named(place: Platform) -> None:
    """Too many keys, none, one that is no photo's and a place that is not allowed are told, and nothing is marked."""
    with place.server() as (api, _):
        for keys in ([], ["x"] * 1001, [".apf/x"], ["s3://a/b.jpg"]):
            assert api("DELETE", "/v1/photos", {"destination": place.destination, "keys": keys}).status == 422
        elsewhere = {"destination": "s3://elsewhere", "keys": ["a.jpg"]}
        assert api("DELETE", "/v1/photos", elsewhere).status == 403
    assert not list(Path(place.world.folder / "ledgers").rglob("forgotten/*"))


def test_an_estimate_writes_nothing(place: Platform) -> None:
    """It tells photos and costs to whoever may read or submit; an operator's token alone is refused."""
    tokens = {scope: place.token(scope, scopes=[scope]) for scope in ALL}
    asked = {"source": place.source, "destination": place.destination, "recipe": "light"}
    with place.server() as (api, _):
        for scope in ("read", "submit"):
            found = api.with_token(tokens[scope])("POST", "/v1/estimate", asked)
            assert found.status == 200, found.data
            view = found.json
            assert (view["photos"], view["done"], view["forgotten"], view["workers"]) == (8, 0, 0, 0)
            assert view["because"] and view["writes"] > 0 and view["wall_s"] is None
        refused = api.with_token(tokens["operate"])("POST", "/v1/estimate", asked)
        assert refused.status == 403 and "'read' or 'submit'" in refused.json["detail"]
        reader = api.with_token(tokens["read"])
        few = {**asked, "photos": sorted(place.world.photos)[:2], "prices": {"worker_hour": 1000}}
        assert reader("POST", "/v1/estimate", few).json["photos"] == 2
        dear = reader("POST", "/v1/estimate", few).json["computing_usd"]
        assert dear > reader("POST", "/v1/estimate", {**few, "prices": {"worker_hour": 1}}).json["computing_usd"]
        assert reader("POST", "/v1/estimate", {**asked, "source": "s3://elsewhere"}).status == 403
    assert not list(Path(place.world.folder / "public").rglob("*.jpg"))
    assert not place.world.ledger.batches()


def test_only_a_few_long_acts_go_on_at_once(place: Platform) -> None:
    """One more estimate or erasure than there are places for is told to come again, and holds no thread."""
    asked = {"source": place.source, "destination": place.destination}
    where = {"destination": place.destination, "keys": ["a.jpg"]}
    with place.server() as (api, services), ExitStack() as held:
        for _ in range(services.long_acts.most):
            held.enter_context(services.long_acts.one(None))
        for method, path, body in (("POST", "/v1/estimate", asked), ("DELETE", "/v1/photos", where)):
            refused = api(method, path, body)
            assert refused.status == 429 and refused.headers["Retry-After"]


def test_each_act_is_noted_under_the_tokens_name(place: Platform) -> None:
    """Submissions, stops, schedules and erasures leave a line; what is only looked at leaves none, nor does protect."""
    token = place.token("night-shift", scopes=ALL)
    names = sorted(place.world.photos)[:2]
    with place.server() as (api, _):
        ops = api.with_token(token)
        batch = submit(ops, place, names)
        for act in ("pause", "resume", "cancel"):
            assert ops("POST", f"/v1/batches/{batch}/{act}").status == 200
        ops("GET", f"/v1/batches/{batch}"), ops("POST", f"/v1/batches/{batch}/retry")
        schedule = {"name": "nightly", "source": place.source, "destination": place.destination, "cron": "0 3 * * *"}
        assert ops("POST", "/v1/schedules", schedule).status == 201
        assert ops("PATCH", "/v1/schedules/nightly", {"cron": "0 4 * * *"}).status == 200
        for act in ("pause", "go-on", "run"):
            assert ops("POST", f"/v1/schedules/nightly/{act}").status == 200, act
        assert ops("DELETE", "/v1/schedules/nightly").status == 204
        forget(ops, place, "a.jpg")
        ops("POST", "/v1/photos/remember", {"destination": place.destination, "keys": ["a.jpg"]})
        lines = ops("GET", f"/v1/audit?destination={place.destination}").json["acts"]
        assert {line["who"] for line in lines} == {"night-shift"}
        told = [line["act"] for line in reversed(lines)]
        assert told[:4] == ["submit", "pause", "resume", "cancel"]
        edits = [f"schedule {act}" for act in ("add", "change", "pause", "go-on", "run-now", "remove")]
        assert [act for act in told if act.startswith("schedule")] == edits
        assert told[-2:] == ["forget", "remember"] and lines[-1]["batch"] == batch
        newest = ops("GET", f"/v1/audit?destination={place.destination}&limit=2").json["acts"]
        assert newest == lines[:2]
        later = ops("GET", f"/v1/audit?destination={place.destination}&since=2999-01-01T00:00:00Z")
        assert later.json["acts"] == []
        assert ops("GET", f"/v1/audit?destination={place.destination}&since=x").status == 422


def test_an_operator_forgets_a_failed_photo_on_the_page(working: Platform) -> None:
    """The button asks once more, a forged form does nothing, and the batch's page shows who did it."""
    token, reader = working.token("ops", scopes=ALL), working.token("eyes", scopes=["read"])
    working.world.source.put(SECRET, b"corrupt")
    with working.server() as (api, _):
        batch = submit(api.with_token(token), working, [SECRET, sorted(working.world.photos)[0]])
        api.with_token(token).ended(batch)
        ops, eyes = Browser(api, token), Browser(api, reader)
        page = ops.get(f"/batches/{batch}").data.decode()
        assert "Forget" in page and "Forget" not in eyes.get(f"/batches/{batch}").data.decode()
        asked = {"batch": batch, "key": SECRET}
        assert ops.post("/forget", **asked, csrf="x", sure="yes").status == 403
        csrf = re.search(r'name="csrf" value="(\w+)"', page)[1]  # type: ignore[index]
        sure = ops.post("/forget", **asked, csrf=csrf)
        assert sure.status == 200 and SECRET in sure.data.decode() and 'name="sure"' in sure.data.decode()
        assert SECRET in ops.get(f"/batches/{batch}").data.decode(), "nothing is done yet"
        done = ops.post("/forget", **asked, csrf=csrf, sure="yes")
        assert done.status == 303 and SECRET not in done.headers["Location"]
        after = ops.get(done.headers["Location"]).data.decode()
        assert SECRET not in after and "forgotten" in after
        log = ops.get(f"/batches/{batch}/audit").data.decode()
        assert "submit" in log and "ops" in log and "anna" not in log
        assert eyes.get(f"/batches/{batch}/audit").status == 403
    assert naming(working, SECRET) == []
