"""The operator's pages as any program sees them: sessions, forged forms, tenants, and names that are markup."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

from producer.server.pages.session import COOKIE
from tests.producer.server.platform import Answer, Api, Platform
from workers.core.records import Outcome, PhotoReport, ShardReport
from workers.ledger.batch_ledger import Ledger

ALL = ["read", "submit", "operate"]
PAGES = ("/", "/workers", "/schedules", "/recipes")


class Browser:
    """A cookie, and forms; follows nothing."""

    def __init__(self, api: Api, token: str) -> None:
        self._api = api
        self.login = self.post("/login", token=token, after="/workers")
        self.cookie = self.login.headers.get("Set-Cookie", "").partition(";")[0]

    def get(self, path: str) -> Answer:
        return self._asked("GET", path)

    def post(self, path: str, **fields: str) -> Answer:
        return self._asked("POST", path, urlencode(fields).encode())

    def csrf(self, path: str = "/schedules") -> str:
        return re.search(r'name="csrf" value="(\w+)"', self.get(path).data.decode())[1]  # type: ignore[index]

    def _asked(self, method: str, path: str, body: bytes | None = None) -> Answer:
        headers = {"Cookie": getattr(self, "cookie", "")}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        got = self._api.pool.request(method, self._api.url + path, body=body, headers=headers, redirect=False)
        return Answer(got.status, got.headers, got.data)


def body(place: Platform, **more: object) -> dict[str, object]:
    photos = sorted(place.world.photos)[:1]
    return {"source": place.source, "destination": place.destination, "recipe": "light", "photos": photos, **more}


def test_one_logs_in_with_a_token(place: Platform) -> None:
    """Pages ask for it; a wrong one is told; the cookie is for this site's pages alone, and ends with the token."""
    token = place.token("ops", scopes=ALL)
    with place.server() as (api, services):
        nobody = Browser(api, "apf_wrong")
        assert nobody.login.status == 401 and b"not known" in nobody.login.data
        for path in PAGES:
            answer = nobody.get(path)
            assert answer.status == 303 and answer.headers["Location"] == f"/login?after={quote(path)}"
        ops = Browser(api, token)
        cookie = ops.login.headers["Set-Cookie"]
        assert ops.login.status == 303 and ops.login.headers["Location"] == "/workers"
        assert cookie.startswith(COOKIE) and token not in cookie
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        for path in PAGES:
            answer = ops.get(path)
            assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/html")
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"
        forged = Browser(api, token)
        forged.cookie = forged.cookie[:-2] + ("aa" if not forged.cookie.endswith("aa") else "bb")
        assert forged.get("/").status == 303
        services.keyring._read.by_digest.clear()
        assert ops.get("/").status == 303, "its token was taken back"


def test_a_login_leads_to_no_other_site(place: Platform) -> None:
    token = place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        browser = Browser(api, token)
        for after in ("//evil.example", "https://evil.example", "/\\evil.example", "%2F%2Fevil.example"):
            assert browser.post("/login", token=token, after=after).headers["Location"] == "/"


def test_forged_forms_change_nothing(place: Platform) -> None:
    """Without the session's own token, with another's, or with the right to look alone."""
    tokens = [place.token(name, scopes=scopes) for name, scopes in (("ops", ALL), ("two", ALL), ("look", ["read"]))]
    with place.server() as (api, _):
        ops, two, look = (Browser(api, token) for token in tokens)
        batch = api.with_token(tokens[0])("POST", "/v1/batches", body(place)).json["batch"]
        pause = f"/batches/{batch}/pause"
        own = ops.csrf(f"/batches/{batch}")
        for answer in (
            ops.post(pause),
            ops.post(pause, csrf=two.csrf(f"/batches/{batch}")),
            look.post(pause, csrf=own),
        ):
            assert answer.status == 403 and b"<h1>Forbidden</h1>" in answer.data
        assert api.with_token(tokens[0])("GET", f"/v1/batches/{batch}").json["state"] == "running"
        assert b"<button>Pause" not in look.get(f"/batches/{batch}").data
        assert ops.post(pause, csrf=own).status == 303
        assert api.with_token(tokens[0])("GET", f"/v1/batches/{batch}").json["state"] == "paused"


def test_a_tenant_sees_its_own_batches_alone(place: Platform) -> None:
    """On no page, by no address, in no picture."""
    tokens = {name: place.token(name, scopes=ALL, tenants=[name]) for name in ("ann", "bob")}
    with place.server() as (api, _):
        batch = api.with_token(tokens["ann"])("POST", "/v1/batches", body(place)).json["batch"]
        ann, bob = (Browser(api, tokens[name]) for name in ("ann", "bob"))
        assert batch in ann.get("/").data.decode()
        for path in (*PAGES, "/?tenant=ann"):
            assert batch not in bob.get(path).data.decode()
        for path in (f"/batches/{batch}", f"/batches/{batch}/picture?key=x"):
            assert bob.get(path).status == 404
        assert bob.post(f"/batches/{batch}/cancel", csrf="x").status == 403
        assert bob.get("/page-metrics").status == 403


def test_names_are_text_and_never_markup(place: Platform) -> None:
    """A photo, a tenant and a reason that are HTML are shown as they are written."""
    evil = "<img src=x onerror=alert(1)>.jpg"
    place.world.source.put(evil, b"corrupt " * 10)
    with place.server() as (api, services):
        batch = api("POST", "/v1/batches", body(place, photos=[evil], tenant="<b>bob</b>")).json["batch"]
        ledger: Ledger = services.find_ledger(place.destination)
        failed = PhotoReport(key=evil, etag="e", outcome=Outcome.failed, reason="<script>alert(1)</script>")
        ledger.write_report(batch, ShardReport(
            shard=0, photos=(failed,), stage_seconds={}, wall_seconds=0, worker="w",
            finished_at="2026-01-01T00:00:00+00:00", peak_memory_bytes=0,
        ))  # fmt: skip
        services.board.forget(ledger, batch)
        page = Browser(api, "").get(f"/batches/{batch}").data.decode()
    assert "&lt;img src=x onerror=alert(1)&gt;.jpg" in page and "<img src=x" not in page
    assert "&lt;script&gt;" in page and "<script>alert" not in page and "<b>bob" not in page


def test_a_picture_is_a_workers_output_and_nothing_else(working: Platform) -> None:
    """What else lies in the destination is shown to nobody."""
    name = sorted(working.world.photos)[0]
    working.world.destination.put("secret.txt", b"of somebody else")
    with working.server() as (api, _):
        batch = api("POST", "/v1/batches", body(working, photos=[name])).json["batch"]
        api.ended(batch)
        browser = Browser(api, "")
        shown = browser.get(f"/batches/{batch}/picture?key={quote(name)}")
        assert shown.status == 200 and shown.data.startswith(b"protected ")
        assert (
            shown.headers["Content-Disposition"] == "attachment"
            and shown.headers["X-Content-Type-Options"] == "nosniff"
        )
        assert browser.get(f"/batches/{batch}/picture?key=secret.txt").status == 404


def test_pages_without_a_queue_say_so(place: Platform) -> None:
    """Redis down is a line on the page of workers, and no error."""
    with place.server() as (api, _):
        place.world.redis.kill()
        answer = Browser(api, "").get("/workers")
        assert answer.status == 200 and b"does not answer" in answer.data


def test_tenants_do_not_read_where_the_queue_is(place: Platform) -> None:
    """Neither from a schedule that cannot run without it, nor from a form's error, nor from the page of workers."""
    ann, ops = place.token("ann", scopes=ALL, tenants=["ann"]), place.token("ops", scopes=ALL)
    with place.server() as (api, _):
        anns, page, operator = api.with_token(ann), Browser(api, ann), Browser(api, ops)
        asked = {"name": "nightly", "source": place.source, "destination": place.destination, "recipe": "light"}
        assert anns("POST", "/v1/schedules", {**asked, "cron": "0 3 * * *"}).status == 201
        assert anns("POST", "/v1/batches", body(place)).status == 202
        batch = anns("GET", "/v1/batches").json["batches"][0]["batch"]
        assert anns("POST", f"/v1/batches/{batch}/pause").status == 200
        csrf = page.csrf()
        place.world.redis.kill()
        ran = anns("POST", "/v1/schedules/nightly/run")
        assert "the queue cannot be used" in ran.json["detail"]
        assert "the queue cannot be used" in anns("GET", "/v1/schedules/nightly").json["error"]
        form = page.post(f"/batches/{batch}/resume", csrf=csrf)
        assert form.status == 503
        workers = page.get("/workers")
        assert b"The queue cannot be asked" in workers.data
        assert all(b"127.0.0.1" not in answer.data for answer in (ran, form, workers, page.get("/schedules")))
        assert b"127.0.0.1" in operator.get("/workers").data
