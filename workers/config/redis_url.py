"""Redis by its URL: allowed options, and how a rediss:// server's certificate is verified. Loads no Celery.

Celery and redis-py read a URL's query each in its own way, and Celery's would take the place of all other TLS settings.
So both are given a URL without TLS, and what is said of TLS, there and by variables, as arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    import redis

    from workers.config.settings import Settings

#: URLs that redis-py itself understands.
ASKABLE = ("redis://", "rediss://")
#: A query's words on TLS: files and folders are taken as they are.
CERT_REQS, CHECK_HOSTNAME = "ssl_cert_reqs", "ssl_check_hostname"
TLS = (CERT_REQS, CHECK_HOSTNAME, "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
#: redis-py's words, which are Celery's in small letters.
VERIFIED = ("required", "optional", "none")


def check_query(url: str) -> None:
    """Check that the query says what is understood, of TLS. Values may be secret: not told.

    Raises:
        ValueError: naming what is not, and its cure.
    """
    if not url.startswith(ASKABLE):
        return
    for name, value in _query(url).items():
        if name not in TLS:
            known = ", ".join(sorted(TLS))
            raise ValueError(f"has {name!r} in its query, which is not known: leave it away, or use one of {known}")
        if not url.startswith("rediss://"):
            raise ValueError(f"has {name}={value}, which is about TLS, and begins with redis://: write rediss://")
        _argument(name, value)


def without_tls(url: str) -> str:
    """Return the URL without what its query says of TLS."""
    place, mark, _ = url.partition("?")
    if not url.startswith(ASKABLE) or not mark:
        return url
    kept = {name: value for name, value in _query(url).items() if name not in TLS}
    return f"{place}?{urlencode(kept)}" if kept else place


def redis_tls(settings: Settings, url: str | None = None) -> dict[str, Any]:
    """How a rediss:// server's certificate is verified, the broker's or that of another URL; empty where there is none.

    The URL says more than APF_BROKER_CA_FILE, and where it is silent, that and verifying all count.
    """
    url = url or settings.broker_url or ""
    if not url.startswith("rediss://"):
        return {}
    found: dict[str, Any] = {CERT_REQS: "required", CHECK_HOSTNAME: True}
    if settings.broker_ca_file:
        found["ssl_ca_certs"] = settings.broker_ca_file
    found |= {name: _argument(name, value) for name, value in _query(url).items() if name in TLS}
    if found[CERT_REQS] == "none":
        found[CHECK_HOSTNAME] = False
    return found


def open_redis(url: str, settings: Settings, **options: Any) -> redis.Redis:
    """redis-py's client on a redis:// or rediss:// URL, with its TLS as `redis_tls` says."""
    import redis  # noqa: PLC0415  settings are read everywhere, and Redis is not

    return redis.Redis.from_url(without_tls(url), **{**redis_tls(settings, url), **options})


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))


def _argument(name: str, value: str) -> str | bool:
    """Return what redis-py is given; raises ValueError."""
    match name:
        case "ssl_cert_reqs":
            word = value.lower().removeprefix("cert_")
            if word in VERIFIED:
                return word
            raise ValueError(f"has {name}={value}: write {', '.join(VERIFIED[:-1])} or {VERIFIED[-1]}")
        case "ssl_check_hostname":
            if value.lower() in ("true", "false"):
                return value.lower() == "true"
            raise ValueError(f"has {name}={value}: write true or false")
        case _ if not value:
            raise ValueError(f"has {name} without a value: name a file, or leave it away")
        case _:
            return value
