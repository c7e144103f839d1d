"""Redis behind TLS, and a user that may touch nothing but our keys: the whole road works, and no less is accepted."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import kombu.pools
import pytest
import redis

from producer.doctor import checks as doctor
from producer.events.dedupe import redis_client
from tests.certificates import certificate
from tests.conftest import RedisServer, _free_ports, _redis_binary
from tests.faults.world import World, closing_world, photos
from workers.broker.app import make_app
from workers.broker.client import Broker, BrokerError, queue_snapshot
from workers.broker.presence import listeners
from workers.config.settings import Settings
from workers.core.records import ShardJob

pytestmark = pytest.mark.timeout(180)

JOB = ShardJob(batch_url="memory://x/.apf/batches/b1", shard=0)


@pytest.fixture(scope="module")
def tls_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a Redis that speaks TLS alone, and the file of the authority that signed its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, "server", certificate(folder, "authority"))
    port, authority = _free_ports([0]), folder / "authority.pem"
    options = {"port": 0, "tls-port": port, "bind": "127.0.0.1", "save": "", "appendonly": "yes", "dir": folder}
    options |= {"tls-cert-file": folder / "server.pem", "tls-key-file": folder / "server.key"}
    options |= {"tls-ca-cert-file": authority, "tls-auth-clients": "no"}
    command = [_redis_binary(), *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not _answers(process, port):
            pytest.skip("this redis-server was built without TLS")
        yield f"rediss://127.0.0.1:{port}/0", authority
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it takes connections, before it ends."""
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def tls_redis(tls_process: tuple[str, Path]) -> tuple[str, Path]:
    """The same, empty."""
    url, authority = tls_process
    kombu.pools.reset()  # a connection that was verified otherwise is no proof
    with closing(redis.Redis.from_url(url, ssl_ca_certs=str(authority))) as client:
        client.flushall()
    return tls_process


def test_a_certificate_that_is_verified_is_accepted(tls_redis: tuple[str, Path]) -> None:
    url, authority = tls_redis
    settings = Settings(broker_url=url, broker_ca_file=str(authority), allowed_urls="*")
    app = make_app(settings)
    Broker(app).send(JOB)
    assert sum(queue_snapshot(app).queued.values()) == 1
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
            Broker(app).send(JOB)
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
            assert listeners(admin, "apf:"), "a worker may say that it listens"
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


@pytest.mark.rotating
@pytest.mark.parametrize("word", ["required", "optional", "CERT_REQUIRED", "cert_optional"])
def test_a_url_that_says_how_to_verify_keeps_the_authority(tls_redis: tuple[str, Path], word: str) -> None:
    """Celery's words and redis-py's, for queue, doctor and listener alike: with APF_BROKER_CA_FILE."""
    url, authority = tls_redis
    assert _reached(f"{url}?ssl_cert_reqs={word}", broker_ca_file=str(authority)) == (True, True, True)


def test_a_url_that_names_the_authority_needs_no_variable(tls_redis: tuple[str, Path], tmp_path: Path) -> None:
    """It says more than APF_BROKER_CA_FILE, where both are set."""
    url, authority = tls_redis
    certificate(tmp_path, "stranger")
    named = f"{url}?ssl_ca_certs={authority}"
    assert _reached(named) == (True, True, True)
    assert _reached(named, broker_ca_file=str(tmp_path / "stranger.pem")) == (True, True, True)


def test_a_strangers_certificate_is_refused_unless_the_url_says_that_none_is_verified(
    tls_redis: tuple[str, Path], tmp_path: Path
) -> None:
    """The URL's `ssl_cert_reqs` leaves the other settings in force, and doctor tells of one that verifies nothing."""
    url, _ = tls_redis
    certificate(tmp_path, "stranger")
    stranger = str(tmp_path / "stranger.pem")
    for word in ("CERT_REQUIRED", "optional"):
        assert _reached(f"{url}?ssl_cert_reqs={word}", broker_ca_file=stranger) == (False, False, False)
    open_to_all = f"{url}?ssl_cert_reqs=CERT_NONE"
    assert _reached(open_to_all, broker_ca_file=stranger) == (True, True, True)
    found = {f.check: f for f in doctor.examine(Settings(broker_url=open_to_all, allowed_urls="*"), [])}
    assert "verifies no certificate" in found["queue encryption"].detail


def test_a_certificate_of_another_name_is_refused_unless_the_url_says_otherwise(tls_redis: tuple[str, Path]) -> None:
    """The server's is for 127.0.0.1."""
    url, authority = tls_redis
    url = f"{url.replace('127.0.0.1', 'localhost')}?ssl_ca_certs={authority}"
    assert _reached(url) == (False, False, False)
    assert _reached(f"{url}&ssl_check_hostname=False") == (True, True, True)


def _reached(url: str, **more: str) -> tuple[bool, bool, bool]:
    """Whether Celery, doctor, and a listener's marks get through to Redis."""
    kombu.pools.reset()  # they tell apps apart by place and user alone
    settings = Settings(broker_url=url, allowed_urls="*", **more)
    app = make_app(settings)
    app.conf.task_publish_retry = False
    try:
        Broker(app).send(JOB)
        sent = True
    except BrokerError as error:
        assert "certificate" in str(error)
        sent = False
    finally:
        app.close()
    answers = {finding.check: finding.ok for finding in doctor.examine(settings, [])}["queue"]
    with closing(redis_client(url, settings)) as client:
        try:
            listens = bool(client.ping())
        except redis.ConnectionError:
            listens = False
    return sent, answers, listens
