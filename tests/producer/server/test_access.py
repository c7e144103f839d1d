"""Whom the API lets do what: tokens, scopes, tenants, places, limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from producer.cli.serve import examine_serving
from producer.server.settings import ServeSettings, check_serving
from producer.server.tokens import Grant, Keyring, append, digest, new_token, parse_tokens
from tests.conftest import RedisServer
from tests.producer.server.platform import Platform, platform
from workers.errors import SettingsError

ALL = ["read", "submit", "operate"]


def body(place: Platform, count: int = 1, **more: object) -> dict[str, object]:
    photos = sorted(place.world.photos)[:count]
    return {"source": place.source, "destination": place.destination, "recipe": "light", "photos": photos, **more}


def test_nobody_gets_in_without_a_token(place: Platform) -> None:
    """Neither without one, nor with one that nobody knows; only probes and the document are open."""
    place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        document = api("GET", "/openapi.json").json
        for path, methods in document["paths"].items():
            for method in methods:
                for token in ("", new_token()):
                    answer = api.with_token(token)(method.upper(), path.replace("{batch}", "b").replace("{name}", "n"))
                    assert answer.status in (401, 422), (method, path)
                    if answer.status == 401:
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert api("GET", "/v1/batches").status == 401
        assert api("GET", "/healthz").status == api("GET", "/readyz").status == 200


def test_a_tenant_cannot_see_anothers_batches(place: Platform) -> None:
    """Of ann's batch bob sees no status, photo, failure, event or entry of the list, and can change nothing."""
    ann, bob = (place.token(name, scopes=ALL, tenants=[name]) for name in ("ann", "bob"))
    with place.server() as (api, _):
        anns, bobs = api.with_token(ann), api.with_token(bob)
        batch = anns("POST", "/v1/batches", body(place)).json["batch"]
        assert anns("GET", f"/v1/batches/{batch}").json["tenant"] == "ann"
        asked = ("", "/failures", "/events", "/photo?key=x")
        for suffix in (*asked, f"?destination={place.destination}"):
            assert bobs("GET", f"/v1/batches/{batch}{suffix}").status == 404, suffix
        for act in ("retry", "resume", "pause", "cancel"):
            assert bobs("POST", f"/v1/batches/{batch}/{act}").status == 404, act
        assert bobs("GET", "/v1/batches").json["batches"] == []
        assert bobs("GET", "/v1/batches?tenant=ann").json["batches"] == []
        assert [one["batch"] for one in anns("GET", "/v1/batches").json["batches"]] == [batch]
        assert anns("GET", f"/v1/batches/{batch}").json["state"] == "running"
        assert bobs("POST", "/v1/batches", body(place, tenant="ann")).status == 403
        absent = bobs("GET", "/v1/batches/20260101-000000-000000-abcdef").json["detail"]
        assert (
            absent.replace("20260101-000000-000000-abcdef", batch) == bobs("GET", f"/v1/batches/{batch}").json["detail"]
        )


def test_a_token_without_operate_cannot_cancel(place: Platform) -> None:
    """Each scope opens its own routes and no others."""
    reader, submitter = place.token("reader", scopes=["read"]), place.token("submitter", scopes=["submit"])
    with place.server() as (api, _):
        batch = api.with_token(submitter)("POST", "/v1/batches", body(place)).json["batch"]
        for token in (reader, submitter):
            for act in ("retry", "resume", "pause", "cancel"):
                answer = api.with_token(token)("POST", f"/v1/batches/{batch}/{act}")
                assert answer.status == 403 and "operate" in answer.json["detail"]
            assert api.with_token(token)("POST", "/v1/schedules/x/run").status == 403
        assert api.with_token(submitter)("GET", "/metrics").status == 403
        assert api.with_token(reader)("GET", "/metrics").status == 200
        assert api.with_token(reader)("POST", "/v1/batches", body(place)).status == 403
        assert api.with_token(reader)("POST", "/v1/protect", b"face").status == 403
        assert api.with_token(submitter)("GET", f"/v1/batches/{batch}").status == 403
        assert api.with_token(reader)("GET", f"/v1/batches/{batch}").json["state"] == "running"


def test_a_token_names_photos_of_its_own_places_alone(place: Platform) -> None:
    """A tenant's token with places takes no other tenant's photo, and writes over none."""
    token = place.token("ann", scopes=ALL, tenants=["ann"], urls=[place.source + "/ann", place.destination + "/ann"])
    with place.server() as (api, _):
        mine = api.with_token(token)
        own = {"source": place.source + "/ann", "destination": place.destination + "/ann"}
        for bad in ({"source": place.source}, {"destination": place.destination}):
            answer = mine("POST", "/v1/batches", body(place, **{**own, **bad}))
            assert answer.status == 403 and "token 'ann'" in answer.json["detail"]
        schedule = {"name": "n", "every": "1d", **own, "destination": place.destination}
        assert mine("POST", "/v1/schedules", schedule).status == 403
        assert mine("GET", f"/v1/photos?destination={place.destination}&key=a.jpg").status == 403


def test_photos_an_hour_hold_across_servers(place: Platform) -> None:
    """Two servers count together; what is refused uses nothing up, and so does what fails."""
    token = place.token("ann", scopes=ALL, tenants=["ann"], photos_per_hour=3)
    with place.server() as (one, _), place.server() as (other, _):
        first, second = one.with_token(token), other.with_token(token)
        assert first("POST", "/v1/batches", body(place, photos=["absent.jpg"])).status == 422
        assert first("POST", "/v1/batches", body(place, 2)).status == 202
        refused = second("POST", "/v1/batches", body(place, 2))
        assert refused.status == 429 and "3 photos an hour" in refused.json["detail"] and refused.headers["Retry-After"]
        assert second("POST", "/v1/batches", body(place, 1)).status == 202
        assert first("POST", "/v1/batches", body(place, 1)).status == 429


def test_a_whole_source_counts_with_what_it_holds(place: Platform) -> None:
    """Eight photos are too many for a tenant with five, whatever way they are named."""
    token = place.token("ann", scopes=ALL, tenants=["ann"], photos_per_hour=5)
    with place.server() as (api, _):
        asked = {key: value for key, value in body(place).items() if key != "photos"}
        assert api.with_token(token)("POST", "/v1/batches", asked).status == 429


def test_bytes_an_hour_are_counted(place: Platform) -> None:
    token = place.token("ann", scopes=ALL, tenants=["ann"], bytes_per_hour=60_000)
    with place.server() as (api, _):
        mine = api.with_token(token)
        assert mine("POST", "/v1/batches", body(place, 2)).status == 202
        refused = mine("POST", "/v1/batches", body(place, 1))
        assert refused.status == 429 and "bytes an hour" in refused.json["detail"]


def test_requests_a_minute_hold_without_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """Where Redis is down the server counts by itself: no limit is never what a fault gives."""
    with platform(tmp_path, redis_server) as place:
        token = place.token("ann", scopes=ALL, requests_per_minute=5)
        with place.server() as (api, _):
            redis_server.kill()
            statuses = [api.with_token(token)("GET", "/v1/batches").status for _ in range(12)]
            assert statuses.count(200) <= 10 and 429 in statuses


def test_a_server_without_tokens_is_this_machines_own(place: Platform) -> None:
    """A page in a browser reaches it by no name of its own, and from no origin of its own."""
    with place.server() as (api, _):
        assert api("GET", "/v1/batches").status == 200
        assert api("GET", "/v1/batches", Host="evil.example").status == 421
        assert api("GET", "/v1/batches", Origin="https://evil.example").status == 403
        host = api.url.partition("://")[2]
        assert api("GET", "/v1/batches", Origin=f"http://{host}").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "photos.example"])
def test_without_tokens_no_other_machine_is_served(place: Platform, host: str) -> None:
    serve = ServeSettings(host=host)
    with pytest.raises(SettingsError, match="apf token new"):
        check_serving(serve, place.world.settings, has_tokens=False)
    check_serving(serve, place.world.settings, has_tokens=True)


@pytest.mark.parametrize("change", [{"broker_url": None}, {"ledger_url": "beside-outputs"}, {"allowed_urls": None}])
def test_a_server_wants_a_queue_and_places(place: Platform, change: dict[str, None]) -> None:
    """What it would need at the first request is asked for at the start, by the name of the variable."""
    (name,) = change
    settings = place.world.settings.model_copy(update=change)
    with pytest.raises(SettingsError, match=f"APF_{name.upper()}"):
        check_serving(ServeSettings(), settings, has_tokens=False)


def test_the_file_of_tokens_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token counts once its line is there, and no more once it is gone; a torn file leaves all as it was."""
    monkeypatch.setattr("producer.server.tokens.LOOK_EVERY_S", 0.0)
    path, token, other = tmp_path / "tokens", new_token(), new_token()
    append(path, Grant(name="one", sha256=digest(token), scopes={"read"}))
    assert path.stat().st_mode & 0o777 == 0o600
    ring = Keyring("", str(path))
    assert ring.grant_of(token) and ring.grant_of(other) is None
    append(path, Grant(name="two", sha256=digest(other), scopes={"read"}))
    assert (found := ring.grant_of(other)) and found.name == "two"
    before = path.read_text()
    path.write_text("{torn")
    assert ring.grant_of(token)
    path.write_text(before.splitlines()[1] + "\n# one was taken back\n")
    assert ring.grant_of(token) is None and ring.grant_of(other)
    with pytest.raises(SettingsError, match="another name"):
        append(path, Grant(name="two", sha256=digest(token), scopes={"read"}))


@pytest.mark.parametrize("line", ["apf_abc", "{}", '{"name": "a", "scopes": ["read"]}', '{"name": "a", "scopes": []}'])
def test_a_line_that_is_no_token_is_told_by_its_number(line: str) -> None:
    with pytest.raises(SettingsError, match="line 2 of tokens"):
        parse_tokens("# tokens\n" + line, "tokens")


@pytest.mark.parametrize(
    ("variables", "ok", "told"),
    [
        ({}, None, ""),
        ({"APF_SERVE_PORT": "99999"}, False, "APF_SERVE_PORT"),
        ({"APF_SERVE_HOST": "0.0.0.0"}, False, "apf token new"),
        ({"APF_SERVE_TOKENS_FILE": "/nowhere/tokens"}, False, "APF_SERVE_TOKENS_FILE"),
        ({"APF_SERVE_SCRATCH_URL": "s3://elsewhere"}, False, "APF_SERVE_SCRATCH_URL"),
        ({"APF_SERVE_PROXIES": "10.0.0.0/8"}, True, "0 tokens"),
    ],
)
def test_doctor_says_whether_the_server_would_start(
    place: Platform, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ok: bool | None, told: str
) -> None:
    """Where a variable of the server is set: with what is wrong, by its name; else nothing is said of it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = examine_serving(place.world.settings)
    assert [one.ok for one in found] == ([] if ok is None else [ok])
    assert all(told in one.detail for one in found)


def test_a_token_is_printed_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    """`apf token new` prints it on stdout alone; the file has a line that lets its holder in, and no token."""
    path = tmp_path / "tokens"
    command = [sys.executable, "-m", "producer", "token", "new", "ops", "--scope", "operate", "--file", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    token = ran.stdout.strip()
    assert token.startswith("apf_") and len(token) > 40 and token not in path.read_text() + ran.stderr
    found = Keyring("", str(path)).grant_of(token)
    assert found and found.name == "ops" and found.scopes == {"operate"}
    bad = subprocess.run([*command[:-4], "--scope", "everything"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2 and "everything" not in bad.stdout and "scopes" in bad.stderr
