"""What may stand in the query of a Redis URL, and what becomes of it."""

from __future__ import annotations

import pytest

from tests.command import apf
from workers.broker.app import make_app
from workers.config.redis_url import open_redis, redis_tls, without_tls
from workers.config.settings import Settings, load_settings
from workers.errors import SettingsError

HOST = "user:pa55word@queue:6379/0"
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


@pytest.mark.parametrize(
    ("query", "changed"),
    [
        ("", {}),
        ("ssl_cert_reqs=CERT_REQUIRED", {}),
        ("ssl_cert_reqs=Optional", {"ssl_cert_reqs": "optional"}),
        ("ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("ssl_cert_reqs=none&ssl_check_hostname=true", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
        ("ssl_check_hostname=False", {"ssl_check_hostname": False}),
        ("ssl_ca_certs=/a%20b.pem", {"ssl_ca_certs": "/a b.pem"}),
        ("ssl_certfile=/c.pem&ssl_keyfile=/k.pem", {"ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem"}),
    ],
)
def test_tls_of_the_url_is_merged_into_the_other_settings(query: str, changed: dict[str, object]) -> None:
    """Celery is given a URL without it, lest it forgets the rest; redis-py gets the same."""
    settings = Settings(broker_url=f"rediss://{HOST}?{query}", broker_ca_file="/ca.pem")
    wanted = {**VERIFIED, "ssl_ca_certs": "/ca.pem", **changed}
    assert redis_tls(settings) == wanted
    app = make_app(settings)
    assert (app.conf.broker_url, app.conf.broker_use_ssl) == (f"rediss://{HOST}", wanted)
    given = open_redis(str(settings.broker_url), settings).connection_pool.connection_kwargs
    assert {name: value for name, value in given.items() if name.startswith("ssl_")} == wanted
    assert given["password"] == "pa55word"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://{HOST}?ssl_cert_reqs=none", "has ssl_cert_reqs=none, which is about TLS, and begins with redis://"),
        (f"rediss://{HOST}?ssl_cert_reqs=maybe", "has ssl_cert_reqs=maybe: write required, optional or none"),
        (f"rediss://{HOST}?ssl_cert_reqs=", "has ssl_cert_reqs=: write required"),
        (f"rediss://{HOST}?ssl_check_hostname=perhaps", "has ssl_check_hostname=perhaps: write true or false"),
        (f"rediss://{HOST}?ssl_ca_certs=", "has ssl_ca_certs without a value: name a file"),
        (f"rediss://{HOST}?ssl_nonsense=hunter2", "has 'ssl_nonsense' in its query, which is not known"),
        (f"redis://{HOST}?colour=hunter2", "has 'colour' in its query, which is not known: leave it away, or use one"),
    ],
)
def test_what_is_not_understood_is_named(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    """Before anything is asked of Redis, and without what may be secret."""
    monkeypatch.setenv("APF_BROKER_URL", url)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"APF_BROKER_URL: {said}" in str(caught.value)
    assert "pa55word" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_command_ends_with_the_cure_and_no_traceback() -> None:
    """Both ways in which Celery's own spelling went wrong."""
    for url, said in (
        ("redis://127.0.0.1:1/0?ssl_cert_reqs=none", "write rediss://"),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=SOMETIMES", "write required, optional or none"),
    ):
        ended = apf("doctor", code=2, APF_BROKER_URL=url, APF_ALLOWED_URLS="*")
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
    told = apf("doctor", code=1, APF_BROKER_URL="rediss://127.0.0.1:1/0?ssl_cert_reqs=CERT_REQUIRED").stderr
    assert "does not answer" in told
    assert "Traceback" not in told


def test_other_urls_are_left_alone() -> None:
    """Sentinel's and sockets' queries are Kombu's."""
    for url in ("sentinel://a:1;sentinel://b:2", "redis+socket:///tmp/redis.sock?virtual_host=1", f"redis://{HOST}"):
        assert without_tls(url) == url
        assert Settings(broker_url=url).broker_url == url
        assert redis_tls(Settings(broker_url=url)) == {}
