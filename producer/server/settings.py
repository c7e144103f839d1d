"""Settings of `apf serve`: the variables APF_SERVE_*."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.config.access import EVERYTHING, check_allowed
from workers.config.settings import MEBIBYTE, Settings, unsound
from workers.errors import SettingsError
from workers.store import canonical_url

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

#: Names under which a machine knows itself: nobody else reaches what listens there.
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeSettings(BaseSettings):
    """Each field is the variable `APF_SERVE_<FIELD>` in capitals; an empty variable counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix="APF_SERVE_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    #: Where requests are taken. Any other address than loopback needs tokens.
    host: Text = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    #: Tokens as `apf token new` prints them, one a line: digests, scopes, tenants, quotas, weights. Or a file that
    #: holds them, read anew when it changes.
    tokens: SecretStr | None = None
    tokens_file: Text | None = None
    #: Addresses and networks of the proxies in front, with spaces between: their X-Forwarded-For and -Proto count.
    proxies: str = ""
    #: A private bucket, prefix or folder, which workers may read and write: where photos of `POST /v1/protect` lie
    #: for the moment. Not set: that route is closed.
    scratch_url: Text | None = None
    #: Photos of `POST /v1/protect` at once, the bytes of one, and the seconds that one may take.
    protect_at_once: int = Field(default=8, ge=1, le=256)
    protect_max_bytes: int = Field(default=25 * MEBIBYTE, gt=0)
    protect_timeout_s: float = Field(default=60, gt=0, le=600)
    #: Bytes of any other request's body, and seconds in which a body has to be here.
    max_body_bytes: int = Field(default=8 * MEBIBYTE, gt=0)
    body_timeout_s: float = Field(default=30, gt=0)
    #: Streams of events at once; connections at once.
    streams: int = Field(default=100, ge=1)
    #: Of these, and of photos of `POST /v1/protect`, those of one tenant at once; not set: half of all.
    streams_per_tenant: int | None = Field(default=None, ge=1)
    protect_per_tenant: int | None = Field(default=None, ge=1)
    connections: int = Field(default=500, ge=1)
    #: Signs the cookies of the operator's page, alike for all servers; not set: one that is lost with the process.
    cookie_secret: SecretStr | None = Field(default=None, min_length=16)
    #: What a tenant may do whose token does not say it; 0: no limit.
    requests_per_minute: int = Field(default=0, ge=0)
    photos_per_hour: int = Field(default=0, ge=0)
    bytes_per_hour: int = Field(default=0, ge=0)
    #: A batch's status is read from the ledger no more often than this, however many ask.
    status_every_s: float = Field(default=1, ge=0)
    #: How often batches that came by other ways are looked for, for the list.
    index_every_s: float = Field(default=10, gt=0)

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        for part in text.split():
            try:
                ip_network(part, strict=False)
            except ValueError:
                raise ValueError(f"{part!r} is no address or network: write 10.0.0.7 or 10.0.0.0/8") from None
        return text


def load_serve_settings() -> ServeSettings:
    """Read and check the `APF_SERVE_*` variables.

    Raises:
        SettingsError: naming each variable that does not validate.
    """
    try:
        return ServeSettings()
    except ValidationError as error:
        raise unsound(error, "APF_SERVE_") from error


def serving_asked() -> bool:
    """Return whether any `APF_SERVE_*` variable is set here: then a server is meant to run."""
    return any(name.startswith("APF_SERVE_") and value for name, value in os.environ.items())


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on the address."""
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


def check_serving(serve: ServeSettings, settings: Settings, *, has_tokens: bool) -> None:
    """Refuse to serve what nobody should serve.

    Raises:
        SettingsError: others could use it without a token, or nothing says what it may read and write, or where its
            own records go.
    """
    if not has_tokens and not is_loopback(serve.host):
        raise SettingsError(
            f"without tokens everybody who reaches {serve.host} could protect, stop and read: make one with "
            "`apf token new`, and name its file in APF_SERVE_TOKENS_FILE, or listen on 127.0.0.1"
        )
    if not settings.broker_url and not serve.scratch_url:
        raise SettingsError(
            "the server hands work to a queue: set APF_BROKER_URL, for example to redis://localhost/0; or, for POST "
            "/v1/protect alone, APF_SERVE_SCRATCH_URL to a private folder"
        )
    if settings.ledger_root is None:
        raise SettingsError(
            "the server keeps its records, and finds batches, in one place: set APF_LEDGER_URL to a bucket, prefix or "
            "folder that is not published, alike for workers and producers"
        )
    if not settings.allowed:
        raise SettingsError(
            "the server does what requests say, in buckets and folders that you name: set APF_ALLOWED_URLS, for "
            'example to "s3://photos s3://public"'
        )
    if serve.scratch_url and EVERYTHING not in settings.allowed:
        check_allowed(canonical_url(serve.scratch_url), settings.allowed, what="APF_SERVE_SCRATCH_URL")
