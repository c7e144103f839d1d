"""The services that the tests run against are what they claim to be."""

from __future__ import annotations

import time
from contextlib import closing

import boto3
import pytest
import redis

from tests import conftest
from tests.conftest import RedisServer, S3Server


def test_redis_keeps_its_data_over_a_kill_and_never_evicts(redis_server: RedisServer) -> None:
    """Tests of lost workers and servers need a Redis that is set up as production's."""
    with closing(redis.Redis(port=redis_server.port)) as client:
        client.set("k", "v")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        # While it syncs to a slow disk Redis keeps what is new to itself, for two seconds at most.
        while client.info("persistence")["aof_buffer_length"]:
            time.sleep(0.05)
    redis_server.kill()
    redis_server.start()
    with closing(redis.Redis(port=redis_server.port)) as client:
        assert client.get("k") == b"v"


def test_redis_is_empty_for_the_next_test(redis_server: RedisServer) -> None:
    """No test sees another's queue."""
    with closing(redis.Redis(port=redis_server.port)) as client:
        assert client.dbsize() == 0


def test_swift_checks_signatures(swift: S3Server) -> None:
    """It is a real server: a wrong secret gets no answer but 403."""
    bucket = swift.new_bucket()
    assert bucket in [b["Name"] for b in swift.client.list_buckets()["Buckets"]]
    stranger = boto3.client(
        "s3", endpoint_url=swift.endpoint_url, aws_access_key_id=conftest.S3_KEY, aws_secret_access_key="wrong"
    )
    with closing(stranger), pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()


def test_a_missing_service_skips_on_a_laptop_and_fails_where_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI must not turn green because nothing ran."""
    monkeypatch.delenv("APF_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Redis"):
        conftest._without("Redis", "why")
    monkeypatch.setenv("APF_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="Redis is required"):
        conftest._without("Redis", "why")
