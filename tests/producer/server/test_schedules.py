"""Schedules over HTTP: made, changed, held, run and removed; a tenant's are its own."""

from __future__ import annotations

from tests.producer.server.platform import Platform

ALL = ["read", "submit", "operate"]


def asked(place: Platform, **more: object) -> dict[str, object]:
    return {"name": "nightly", "source": place.source, "destination": place.destination, "recipe": "light",
            "cron": "0 3 * * *", "timezone": "Europe/Berlin", **more}  # fmt: skip


def test_a_schedule_from_its_making_to_its_end(place: Platform) -> None:
    """Each step shows in what is answered next; what makes no sense is a problem that names it."""
    with place.server() as (api, _):
        made = api("POST", "/v1/schedules", asked(place), Idempotency_Key="s-1")
        assert made.status == 201 and made.headers["Location"] == "/v1/schedules/nightly"
        assert api("POST", "/v1/schedules", asked(place), Idempotency_Key="s-1").json == made.json
        assert api("POST", "/v1/schedules", asked(place)).status == 409
        assert [one["name"] for one in api("GET", "/v1/schedules").json["schedules"]] == ["nightly"]
        path = "/v1/schedules/nightly"
        assert api("PATCH", path, {"every": "6h", "on_change": ["new"]}).json["trigger"] == "every 6h"
        assert api("PATCH", path, {"recipe": "strong", "fraction": 0.1}).json["new_recipe"] == "strong"
        for bad, told in (({}, "nothing to change"), ({"every": "soon"}, "soon"), ({"timezone": "Mars"}, "cron"),
                          ({"recipe": "light"}, "rollout")):  # fmt: skip
            answer = api("PATCH", path, bad)
            assert answer.status in (409, 422) and told in answer.json["detail"], bad
        assert api("POST", f"{path}/pause").json["paused"] is True
        refused = api("POST", f"{path}/run")
        assert refused.status == 409 and "paused" in refused.json["detail"]
        assert api("POST", f"{path}/go-on").json["paused"] is False
        fired = api("POST", f"{path}/run").json["batches"]
        assert len(fired) == 2, "one for the part with the new recipe, one for the rest"
        assert {api("GET", f"/v1/batches/{batch}").json["schedule"] for batch in fired} == {"nightly"}
        assert api("GET", path).json["last"]["batches"] == fired
        assert api("DELETE", path).status == 204
        assert api("GET", path).status == api("POST", f"{path}/run").status == 404


def test_what_cannot_be_a_schedule_is_told(place: Platform) -> None:
    with place.server() as (api, _):
        for bad, told in (({"cron": "sometimes"}, "sometimes"), ({"name": "Not One"}, "name"),
                          ({"cron": None}, "cron, every or on_change"), ({"destination": place.source}, "overlap"),
                          ({"source": "file:///etc"}, "APF_ALLOWED_URLS")):  # fmt: skip
            answer = api("POST", "/v1/schedules", asked(place, **bad))
            assert answer.status in (403, 422) and told in answer.json["detail"], bad
        assert api("GET", "/v1/schedules").json["schedules"] == []


def test_a_tenants_schedules_are_its_own(place: Platform) -> None:
    """Bob neither sees ann's schedule nor runs, holds, changes or removes it."""
    ann, bob = (place.token(name, scopes=ALL, tenants=[name]) for name in ("ann", "bob"))
    with place.server() as (api, _):
        anns, bobs = api.with_token(ann), api.with_token(bob)
        assert anns("POST", "/v1/schedules", asked(place)).json["tenant"] == "ann"
        assert bobs("GET", "/v1/schedules").json["schedules"] == []
        path = "/v1/schedules/nightly"
        assert {bobs(method, f"{path}{act}", body).status for method, act, body in (
            ("GET", "", None), ("PATCH", "", {"every": "1d"}), ("DELETE", "", None), ("POST", "/run", None),
            ("POST", "/pause", None), ("POST", "/go-on", None),
        )} == {404}  # fmt: skip
        assert bobs("POST", "/v1/schedules", asked(place, name="mine", tenant="ann")).status == 403
        assert anns("GET", path).json["paused"] is False
