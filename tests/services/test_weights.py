"""Weights of tenants: from the file of tokens over a real Redis to the order in which a real worker takes shards."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import redis

from producer.server.tokens import Grant, Keyring, append, digest, new_token
from tests.command import apf
from tests.conftest import RedisServer
from tests.producer.server.conftest import place  # noqa: F401  a fixture
from tests.producer.server.platform import Api, Platform, platform
from tests.waiting import until
from tests.workers.broker.test_queues import served
from tests.workers.execution.test_shard_pipeline import make_batch
from workers.broker.app import make_app
from workers.broker.client import Broker, choose_queue
from workers.broker.queues import FairQueueOrder, occupant
from workers.broker.weights import publish, row_weights
from workers.config.settings import Settings


def submitted(api: Api, place: Platform, tenant: str, count: int) -> str:  # noqa: F811
    """A bulk batch of so many photos, into a destination of the tenant's own."""
    names = [f"{tenant}/{number:03}.jpg" for number in range(count)]
    for name in names:
        place.world.source.put(name, f"face {name} ".encode() * 100)
    asked = {"source": place.source, "destination": f"{place.destination}/{tenant}", "recipe": "light"}
    answer = api("POST", "/v1/batches", {**asked, "photos": names, "lane": "bulk", "tenant": tenant})
    assert answer.status == 202, answer.data
    return str(answer.json["batch"])


@pytest.mark.timeout(240)
def test_a_tenant_of_weight_three_gets_three_times_the_photos(tmp_path: Path, redis_server: RedisServer) -> None:
    """One worker, three tenants with work enough: by the time hers is half done, ann has about three times bob's and
    cleo's each, and neither waits for her end.
    """
    with platform(tmp_path, redis_server, CHEAP_SECONDS="0.05", APF_SHARD_PHOTOS="1") as made:
        scopes = ["read", "submit"]
        weighed = {"ann": {"weight": 3}, "bob": {}, "cleo": {"weight": 1}}
        tokens = {who: made.token(who, scopes=scopes, tenants=[who], **facts) for who, facts in weighed.items()}
        with made.server() as (api, _):
            batches = {who: submitted(api.with_token(tokens[who]), made, who, 60) for who in ("bob", "cleo", "ann")}
            made.world.start_worker()

            def done() -> dict[str, int]:
                views = {who: api.with_token(tokens[who])("GET", f"/v1/batches/{batches[who]}") for who in batches}
                return {who: view.json["protected"] for who, view in views.items()}

            until(lambda: done()["ann"] >= 36, 120, "ann's batch is half done")
            shares = done()
            print(f"\nphotos done: {shares}")
            for other in ("bob", "cleo"):
                assert 2.2 < shares["ann"] / shares[other] < 4


def test_workers_learn_of_weights_while_they_run(place: Platform, tmp_path: Path) -> None:  # noqa: F811
    """A line of the file of tokens that changes is in Redis in seconds, also after Redis has lost all it had."""
    path, token = tmp_path / "tokens", new_token()
    append(path, Grant(name="ann", sha256=digest(token), scopes={"read"}, tenants=("ann",)))
    place.serve["tokens_file"] = str(path)
    with pytest.MonkeyPatch.context() as patch, closing(redis.Redis(port=place.world.redis.port)) as client:
        patch.setattr("producer.server.app.WEIGH_EVERY_S", 0.2)
        with place.server():
            time.sleep(0.5)
            assert client.get("apf-weights") is None, "all weigh the same"
            path.write_text(path.read_text().replace('"ann"]', '"ann"], "weight": 5'))
            told = {occupant("ann"): 5}
            until(lambda: json.loads(client.get("apf-weights") or b"{}") == told, 20, "the weight is told")
            client.flushall()
            until(lambda: json.loads(client.get("apf-weights") or b"{}") == told, 20, "it is told again")


def test_rows_have_the_weights_of_their_tenants(redis_server: RedisServer) -> None:
    """What is no weight counts as 1, and a row that Redis has forgotten is its batch's tenant's again."""
    app = make_app(Settings(broker_url=redis_server.url, allowed_urls="*", broker_key_prefix="p:"))
    with closing(redis.Redis(port=redis_server.port)) as client:
        queues = {who: choose_queue(app, "bulk", who) for who in ("ann", "bob")}
        row = {who: queue.split(".")[1] for who, queue in queues.items()}
        assert row_weights(client, "p:") == {}
        publish(client, "p:", {"ann": 3, "bob": 1, "absent": 7})
        assert row_weights(client, "p:") == {("bulk", row["ann"]): 3}
        client.delete("p:apf-tenants.bulk")
        assert row_weights(client, "p:") == {}
        batch = make_batch("memory://a", "memory://b", tenant="ann", queue=queues["ann"])
        Broker(app).keep_row(batch)
        Broker(app).keep_row(batch.model_copy(update={"tenant": "bob"}))
        assert row_weights(client, "p:") == {("bulk", row["ann"]): 3}, "the first who says so"
        for bad in (b"no JSON", b"[1]", json.dumps({occupant("ann"): "3", occupant("bob"): -1}).encode()):
            client.set("p:apf-weights", bad)
            assert row_weights(client, "p:") == {}
    app.close()


def test_turns_follow_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three to two to one while all have work; who is alone gets all; who comes back has no turns saved up."""
    weights = {("bulk", "01"): 3, ("bulk", "02"): 2, ("interactive", "03"): 9}
    monkeypatch.setattr(FairQueueOrder, "weights", weights)
    waiting = {"bulk.01.0": 100, "bulk.01.3": 100, "bulk.02.0": 100, "bulk.03.0": 100}
    turns = Counter(served(waiting, 60))
    assert turns == {"bulk.01.0": 15, "bulk.01.3": 15, "bulk.02.0": 20, "bulk.03.0": 10}
    assert Counter(served({"bulk.03.0": 9, "bulk.01.0": 1}, 10)) == {"bulk.03.0": 9, "bulk.01.0": 1}
    longest = max(len(run) for run in "".join(queue[6] for queue in served(waiting, 60)).split("3"))
    assert longest <= 5, "nobody waits for longer than all others' turns"


@pytest.mark.parametrize("facts", [{"weight": 3}, {"weight": 0, "tenants": ["a"]}, {"weight": 101, "tenants": ["a"]}])
def test_a_weight_is_of_a_tenant_and_within_bounds(facts: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Grant.model_validate({"name": "a", "scopes": ["read"], **facts})


def test_of_a_tenants_tokens_the_largest_weight_counts() -> None:
    """Whichever of them submits; a line of an older version has none, and counts as 1."""
    lines = [
        f'{{"name": "{name}", "sha256": "{digest(name)}", "scopes": ["read"], "tenants": ["ann", "bob"]{more}}}'
        for name, more in (("old", ""), ("small", ', "weight": 2'), ("large", ', "weight": 4'))
    ]
    assert Keyring("\n".join(lines[:1]), None).weights() == {"ann": 1, "bob": 1}
    assert Keyring("\n".join(lines), None).weights() == {"ann": 4, "bob": 4}


def test_records_and_messages_are_as_workers_of_older_versions_know_them(place: Platform) -> None:  # noqa: F811
    """Those of a tenant with a weight have the fields of one without: an older worker takes both."""
    tokens = {"ann": place.token("ann", scopes=["submit"], tenants=["ann"], weight=9)}
    tokens["bob"] = place.token("bob", scopes=["submit"], tenants=["bob"])
    fields = {}
    with place.server() as (api, _), closing(redis.Redis(port=place.world.redis.port)) as client:
        for who, token in tokens.items():
            batch = submitted(api.with_token(token), place, who, 1)
            (record,) = (place.world.folder / "ledgers").rglob(f"{batch}/batch.json")
            told = json.loads(record.read_bytes())
            message = json.loads(client.lpop(told["queue"]) or b"")
            body = json.loads(base64.b64decode(message["body"]))
            fields[who] = (sorted(told), sorted(message["headers"]), sorted(body[0][0]))
        until(lambda: client.exists("apf-weights"), 20, "the weight is told")
    assert fields["ann"] == fields["bob"]


def test_a_token_is_made_with_a_weight(tmp_path: Path) -> None:
    """`apf token new` writes it, and refuses one that is of no tenant; a line without one has no such field."""
    path = tmp_path / "tokens"
    apf("token", "new", "ann", "--tenant", "ann", "--weight", "3", "--file", path)
    apf("token", "new", "bob", "--tenant", "bob", "--file", path)
    assert Keyring("", str(path)).weights() == {"ann": 3, "bob": 1}
    assert ["weight" in line for line in path.read_text().splitlines()] == [True, False]
    assert "--tenant" in apf("token", "new", "ops", "--weight", "3", "--file", path, code=None).stderr
