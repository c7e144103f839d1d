"""Redis behind TLS, and a user that may touch nothing but our keys: the whole road works, and no less is accepted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from producer import doctor
from tests.certificates import certificate
from tests.conftest import RedisServer, _free_ports, _redis_binary
from tests.faults.world import World, closing_world, photos
from workers.app import make_app
from workers.job import ShardJob
from workers.sending import BrokerError, Sender, waiting
from workers.settings import Settings

pytestmark = pytest.mark.timeout(180)

JOB = ShardJob(batch_url="memory://x/.apf/batches/b1", shard=0)


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a Redis that speaks TLS alone, and the file of the authority that signed its certificate."""
    issuer = certificate(tmp_path, "authority")
    certificate(tmp_path, "server", issuer)
    port = _free_ports([0])
    options = [
        "--port",
        "0",
        "--tls-port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--dir",
        str(tmp_path),
        "--tls-cert-file",
        str(tmp_path / "server.pem"),
        "--tls-auth-clients",
        "no",
        "--tls-key-file",
        str(tmp_path / "server.key"),
        "--tls-ca-cert-file",
        str(tmp_path / "authority.pem"),
    ]
    process = subprocess.Popen([_redis_binary(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            pytest.skip("this redis-server was built without TLS")
        yield f"rediss://127.0.0.1:{port}/0", tmp_path / "authority.pem"
    finally:
        process.kill()
        process.wait()


def test_a_certificate_that_is_verified_is_accepted(tls_redis: tuple[str, Path]) -> None:
    url, authority = tls_redis
    settings = Settings(broker_url=url, broker_ca_file=str(authority), allowed_urls="*")
    app = make_app(settings)
    Sender(app)(JOB)
    assert sum(waiting(app).queued.values()) == 1
    checks = {finding.check: finding for finding in doctor.examine(settings, [])}
    assert checks["queue"].ok
    assert "queue encryption" not in checks
    app.close()


def test_one_of_an_unknown_authority_is_not(tls_redis: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = tls_redis
    certificate(tmp_path, "stranger")
    for file in (None, str(tmp_path / "stranger.pem")):
        settings = Settings(broker_url=url, broker_ca_file=file, allowed_urls="*")
        app = make_app(settings)
        app.conf.task_publish_retry = False
        with pytest.raises(BrokerError, match="certificate"):
            Sender(app)(JOB)
        assert not {f.check: f for f in doctor.examine(settings, [])}["queue"].ok
        app.close()


def test_a_user_of_our_keys_alone_is_enough(redis_server: RedisServer, tmp_path: Path) -> None:
    """SECURITY.md's ACL: a worker, a producer and the periodic task run with it, and nothing else can be touched."""
    with closing(redis.Redis(port=redis_server.port)) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "apf", "on", ">secret", "~apf:*", "&*", "+@all", "-@dangerous", "+info", "-@admin"
        )
        try:
            _road(redis_server, tmp_path)
            assert {key.split(b":")[0] for key in admin.scan_iter()} <= {b"apf"}
            with closing(redis.Redis(port=redis_server.port, username="apf", password="secret")) as client:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.set("elsewhere", "x")
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.flushall()
        finally:
            admin.execute_command("ACL", "DELUSER", "apf")


def _road(server: RedisServer, folder: Path) -> None:
    variables = {
        "APF_BROKER_URL": f"redis://apf:secret@127.0.0.1:{server.port}/0",
        "APF_BROKER_KEY_PREFIX": "apf:",
    }
    source, out = (folder / "in").as_uri(), (folder / "out").as_uri()
    with closing_world(World(folder, server, source, out, photos(6), variables)) as world:
        world.start_worker()
        world.submit()
        world.wait(60)
        world.check()
        assert "NOPERM" not in world.log.read_text()
