"""Which upload goes where, and that our own outputs never go round."""

from __future__ import annotations

import pytest

from producer.events.routes import MAX_TENANT, Ignored, Route, Routes, parse_routes, tenant_of
from workers.errors import SettingsError

ROUTES = parse_routes(
    ["s3://uploads=s3://public", "s3://uploads/teamA=s3://public-a/x", "s3://mixed/in=s3://mixed/out"]
)


@pytest.mark.parametrize(
    ("bucket", "key", "source", "below"),
    [
        ("uploads", "a.jpg", "s3://uploads", "a.jpg"),
        ("uploads", "teamB/a.jpg", "s3://uploads", "teamB/a.jpg"),
        ("uploads", "teamA/b/a.jpg", "s3://uploads/teamA", "b/a.jpg"),
        ("uploads", "teamAB/a.jpg", "s3://uploads", "teamAB/a.jpg"),
        ("uploads", "teamA", "s3://uploads", "teamA"),
        ("uploads", "/lead//a.jpg", "s3://uploads", "/lead//a.jpg"),
        ("uploads", "../a.jpg", "s3://uploads", "../a.jpg"),
        ("uploads", "no-suffix", "s3://uploads", "no-suffix"),
        ("mixed", "in/a.jpg", "s3://mixed/in", "a.jpg"),
    ],
)
def test_the_longest_source_decides(bucket: str, key: str, source: str, below: str) -> None:
    """A route begins and ends at slashes, and keys are passed on as they are."""
    found = Routes(ROUTES).find(bucket, key)
    assert not isinstance(found, Ignored)
    assert (found[0].source, found[1]) == (source, below)


@pytest.mark.parametrize(
    ("bucket", "key", "why"),
    [
        ("public", "a.jpg", Ignored.own_output),
        ("public", "a/.apf/batches/1/batch.json", Ignored.own_output),
        ("public-a", "x/a.jpg", Ignored.own_output),
        ("public-a", "y/a.jpg", Ignored.unrouted),
        ("mixed", "out/a.jpg", Ignored.own_output),
        ("mixed", "other/a.jpg", Ignored.unrouted),
        ("mixed", "in", Ignored.unrouted),
        ("uploads", ".apf/doctor/a.jpg", Ignored.reserved),
        ("uploads", "teamA/.apf/a.jpg", Ignored.reserved),
        ("uploads", "ledgers/public/batches/a.jpg", Ignored.own_output),
        ("uploads", "notes.txt", Ignored.no_photo),
        ("uploads", "folder/", Ignored.no_photo),
        ("", "a.jpg", Ignored.unrouted),
        ("uploads/teamA", "a.jpg", Ignored.unrouted),
    ],
)
def test_what_is_left_alone(bucket: str, key: str, why: Ignored) -> None:
    """Our outputs and ledgers above all: taken for uploads, they would go round for ever."""
    found = Routes(ROUTES, own=["s3://uploads/ledgers/public"]).find(bucket, key)
    assert found is why


def test_a_bucket_with_a_slash_is_no_way_into_another_route() -> None:
    """A forged event names objects by bucket and key, and only what a real store could hold is found."""
    assert Routes([Route("s3://uploads/teamA", "s3://public")]).find("uploads/teamA", "a.jpg") is Ignored.unrouted


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no route"),
        (["s3://a"], "malformed"),
        (["/folder=s3://b"], "malformed"),
        (["s3://a=/folder"], "malformed"),
        (["s3://=s3://b"], "not a bucket"),
        (["s3://a=s3://a/out"], "overlap"),
        (["s3://a/x=s3://a"], "overlap"),
        (["s3://a=s3://b", "s3://b=s3://c"], "overlap"),
        (["s3://a=s3://b", "s3://a/=s3://c"], "two routes"),
    ],
)
def test_routes_that_cannot_be_are_refused(texts: list[str], message: str) -> None:
    """At the start, and not photo by photo."""
    with pytest.raises(SettingsError, match=message):
        parse_routes(texts)


def test_a_key_with_an_equals_sign_can_be_a_route() -> None:
    """Only what stands before the other URL ends the first."""
    assert parse_routes(["s3://a/x=1=s3://b/y=2"]) == (Route("s3://a/x=1", "s3://b/y=2"),)


def test_a_private_route_takes_gradient_files_alone() -> None:
    """And the others leave them; one listener may have both."""
    found = parse_routes(["s3://up=s3://public"], ["s3://up/private=s3://answers"])
    routes = Routes(found)
    assert [route.private for route in found] == [False, True]
    assert routes.find("up", "private/a.safetensors") == (found[1], "a.safetensors")
    for key in ("private/a.jpg", "private/upload", "a.safetensors"):
        assert routes.find("up", key) is Ignored.no_photo
    assert routes.find("up", "a.jpg") == (found[0], "a.jpg")
    with pytest.raises(SettingsError, match="two routes"):
        parse_routes(["s3://up=s3://public"], ["s3://up=s3://answers"])


def test_the_first_folders_name_the_tenant() -> None:
    """Too few name nobody, and a name that is too long for a batch is still the same for the same folders."""
    assert [tenant_of("ann/2024/a.jpg", n) for n in (0, 1, 2, 3)] == ["", "ann", "ann/2024", ""]
    assert tenant_of("a.jpg", 1) == ""
    long = tenant_of("x" * 300 + "/a.jpg", 1)
    assert 0 < len(long) <= MAX_TENANT
    assert long == tenant_of("x" * 300 + "/b.jpg", 1) != tenant_of("x" * 301 + "/a.jpg", 1)
