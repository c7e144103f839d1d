"""Where to run: one settings object, read from `APF_*` variables by `load_settings` and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.config.access import EVERYTHING
from workers.config.redis_url import check_query
from workers.errors import CallbackError, SettingsError, StoreError
from workers.store import S3Options, canonical_url
from workers.webhooks.http_client import Posting
from workers.webhooks.signing import parse_secrets
from workers.webhooks.ssrf import AddressPolicy, check_allowed_hosts

MEBIBYTE = 2**20

#: To a store: the ledger and `submit` ask 16 questions at once, however few threads read photos.
LEAST_CONNECTIONS = 32
#: An APF_LEDGER_URL by which ledgers lie in their destinations, in buckets as well.
BESIDE_OUTPUTS = "beside-outputs"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Settings(BaseSettings):
    """Each field is the variable `APF_<FIELD>` in capitals; an empty variable counts as not set."""

    # Values stay out of pydantic's own errors, which tracebacks show: some hold passwords.
    model_config = SettingsConfigDict(env_prefix="APF_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True)

    #: Redis, as redis://[user:password@]host:port/db or rediss://. None: a worker inside the command itself.
    broker_url: Text | None = None
    #: File of the certificate authority that signed a rediss:// server's certificate; None: the system's own.
    broker_ca_file: Text | None = None
    #: Prefix of every key in Redis, for a server that is shared or guarded by ACLs.
    broker_key_prefix: str = ""
    #: Where batches' ledgers lie, with the photos' names, tenants and callbacks; "beside-outputs": in `.apf` of each
    #: destination. None: there too, but for destinations in a bucket, which are refused: many are published.
    ledger_url: Text | None = None
    #: Days after which the ledger's records of an ended batch are deleted, by the periodic pass; None: never.
    ledger_keep: float | None = Field(default=None, gt=0)
    #: Buckets and folders under which a queue's worker may read and write, as URLs with spaces between; * for all.
    #: Without a queue everything is allowed that the user may do.
    allowed_urls: Text | None = None
    #: Overrides the recipe's detector: "centerface", "yunet", or the name or folder of an InsightFace pack.
    detector: Text | None = None
    #: "auto" takes CUDA where there is one.
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    #: The precision of the filter's networks on a GPU; "auto": bfloat16 where it has units for that. A CPU: float32.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    #: Whether a GPU runs the filter by CUDA graphs; without, each kernel is launched by itself.
    cuda_graphs: bool = True

    #: Endpoint of an S3-compatible store; None: AWS. Credentials come from boto3's usual chain.
    s3_endpoint_url: Text | None = None
    s3_region: Text | None = None
    s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    s3_connect_timeout_s: float = Field(default=5, gt=0)
    s3_read_timeout_s: float = Field(default=60, gt=0)

    #: Largest photo that is read, in bytes and in pixels; larger ones fail with that reason.
    max_photo_bytes: int = Field(default=100 * MEBIBYTE, gt=0)
    max_photo_pixels: int = Field(default=200_000_000, gt=0)

    #: Largest batch, in photos; planning a larger source stops there, and says so.
    max_batch_photos: int = Field(default=10_000_000, gt=0)
    #: Decoding one photo may take so long, in a process of its own; encoding one that, and 3 s more a megapixel.
    decode_limit_s: float = Field(default=60, gt=0)
    #: Whether decoders are caged by Landlock and seccomp: "require" refuses to work where the machine lacks them,
    #: "best" takes what there is.
    decoder_cage: Literal["require", "best", "off"] = "best"

    #: A shard is closed at this many estimated megapixels or photos: 20 to 60 s of work, and what a restart repeats.
    shard_megapixels: float = Field(default=384, gt=0)
    shard_photos: int = Field(default=128, gt=0, le=10_000)

    #: Cores that each of a worker's processes uses; not set: the machine's, shared by the processes of `-c`.
    cores: int | None = Field(default=None, ge=1, le=1024)
    #: How far `apf worker` gives way to other programs of the machine (Unix niceness), such as what answers people.
    nice: int = Field(default=10, ge=0, le=19)
    #: Threads that read and decode, and that encode and write.
    read_threads: int = Field(default=4, ge=1, le=64)
    write_threads: int = Field(default=4, ge=1, le=64)
    #: Compressed bytes in flight, and decoded photos in flight; one larger photo passes alone.
    read_buffer_bytes: int = Field(default=64 * MEBIBYTE, gt=0)
    photo_buffer_bytes: int = Field(default=2048 * MEBIBYTE, gt=0)
    #: Photos whose faces share a batch of the filter.
    batch_megapixels: float = Field(default=32, gt=0)

    #: A shard is asked to stop, then killed, after so long; a lost message is delivered again after the third.
    shard_soft_limit_s: int = Field(default=900, gt=0)
    shard_hard_limit_s: int = Field(default=1200, gt=0)
    visibility_timeout_s: int = Field(default=3600, gt=0)
    #: The part of a worker's time that bulk work gets at least while uploads wait; 0: none.
    bulk_share: float = Field(default=0.25, ge=0, le=0.9)
    #: A worker that has not been heard of for so long counts as dead.
    lease_s: float = Field(default=60, ge=1)
    #: How often orphaned shards are requeued, where `apf beat` runs.
    reconcile_every_s: float = Field(default=60, ge=1)
    #: How often schedules (`apf schedule`) are looked at, where `apf beat` runs.
    schedule_every_s: float = Field(default=60, ge=1)
    #: On SIGTERM a worker has so long to finish its shard before it gives it back.
    shutdown_grace_s: float = Field(default=20, ge=0)
    #: How often a running shard writes how far it is, for `apf status`; 0: never.
    progress_interval_s: float = Field(default=5, ge=0)

    #: Whether a worker's log may name photos by their keys.
    log_keys: bool = False

    #: `apf listen --http`: what signs events (whsec_ and base64, or text), and what stores send that cannot sign; of
    #: each, several with spaces between while one is changed. Or files that hold them.
    listen_secret: SecretStr | None = None
    listen_secret_file: Text | None = None
    listen_token: SecretStr | None = None
    listen_token_file: Text | None = None
    #: `apf listen --sqs`: endpoint of an SQS-compatible queue; None: as its URL says.
    listen_sqs_endpoint_url: Text | None = None

    # Callbacks (docs/callbacks.md); read where workers run, and by `apf callback test`.

    #: Secrets that sign callbacks, each as whsec_ and base64, with blanks between: every one signs, so that a new one
    #: can be handed out before the old one goes. A process that has none delivers no callback.
    callback_secrets: SecretStr | None = None
    #: A file with more of them, read anew at each callback.
    callback_secrets_file: Text | None = None
    #: Hosts and networks that callbacks may go to though they are not public, with blanks between:
    #: "hooks.internal 10.0.0.0/8".
    callback_allowed_hosts: str = ""
    #: Whether callbacks may go over http, where anyone on the way can read them.
    callback_allow_http: bool = False
    #: File of the authorities that receivers' certificates must be signed by; None: the system's own.
    callback_ca_file: Text | None = None
    #: One try may take so long, and all of them together.
    callback_timeout_s: float = Field(default=10, gt=0, le=60)
    callback_give_up_s: float = Field(default=24 * 3600, ge=0)

    #: A worker's metrics (GET /metrics) and health (GET /healthz) answer on this port; 0: they are off.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    #: On this address; 0.0.0.0 is open to every machine that reaches this one.
    metrics_host: Text = "127.0.0.1"
    #: `apf exporter` asks Redis and the store no more often than this, however often it is scraped.
    exporter_every_s: float = Field(default=15, ge=0)
    #: Lines of logs: for people, or one JSON object each.
    log_format: Literal["text", "json"] = "text"
    #: Traces, where OTEL_EXPORTER_OTLP_ENDPOINT says; needs the extra `otel`.
    otel: bool = False

    @field_validator("callback_secrets")
    @classmethod
    def _secrets_are_keys(cls, secrets: SecretStr | None) -> SecretStr | None:
        parse_secrets(secrets.get_secret_value() if secrets else "")
        return secrets

    @field_validator("callback_allowed_hosts")
    @classmethod
    def _are_hosts(cls, text: str) -> str:
        check_allowed_hosts(tuple(text.split()))
        return text

    @field_validator("broker_url")
    @classmethod
    def _broker_is_redis(cls, url: str | None) -> str | None:
        if url and not url.startswith(("redis://", "rediss://", "redis+socket://", "sentinel://")):
            # All but a scheme may hold a password, and is not told.
            scheme = re.match(r"[a-z][a-z0-9+.-]*://", url)
            got = f"starts with {scheme[0]}" if scheme else "has no such scheme"
            raise ValueError(f"{got}, and must start with redis:// or rediss://; unset it to run without")
        try:
            if url and url.startswith(("redis://", "rediss://")):
                _ = urlsplit(url).port
        except ValueError:  # its text may hold a part of the password
            raise ValueError(
                "is malformed: write it as redis://user:password@host:port/0, with / # ? @ in the password as "
                "%2F %23 %3F %40"
            ) from None
        check_query(url or "")
        return url

    @field_validator("allowed_urls")
    @classmethod
    def _allowed_are_urls(cls, text: str | None) -> str | None:
        for url in (text or "").split():
            if url == EVERYTHING:
                continue
            if "://" not in url:
                raise ValueError(f"{url!r} is no URL: write s3://bucket/prefix or file:///folder, or * for all")
            try:
                canonical_url(url)
            except StoreError as error:
                raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _limits_fit(self) -> Settings:
        if not self.shard_soft_limit_s < self.shard_hard_limit_s:
            raise ValueError(
                f"APF_SHARD_SOFT_LIMIT_S ({self.shard_soft_limit_s}) must be below "
                f"APF_SHARD_HARD_LIMIT_S ({self.shard_hard_limit_s})"
            )
        if not 2 * self.shard_hard_limit_s < self.visibility_timeout_s:
            raise ValueError(
                f"APF_VISIBILITY_TIMEOUT_S ({self.visibility_timeout_s}) must be over twice APF_SHARD_HARD_LIMIT_S "
                f"({self.shard_hard_limit_s}), or Redis delivers a shard that still runs a second time"
            )
        return self

    @property
    def allowed_for_batches(self) -> tuple[str, ...]:
        """Where a message's batch may lie: as `allowed`, and where the operator says that ledgers are."""
        return (*self.allowed, canonical_url(self.ledger_root)) if self.ledger_root else self.allowed

    @property
    def ledger_root(self) -> str | None:
        """Where all ledgers lie; None: each beside its outputs."""
        return None if self.ledger_url == BESIDE_OUTPUTS else self.ledger_url

    @property
    def allowed(self) -> tuple[str, ...]:
        """`allowed_urls` as canonical URLs; without a queue, all."""
        if self.broker_url is None:
            return (EVERYTHING,)
        return tuple(text if text == EVERYTHING else canonical_url(text) for text in (self.allowed_urls or "").split())

    @property
    def posting(self) -> Posting:
        """How callbacks are posted."""
        policy = AddressPolicy(self.callback_allow_http, tuple(self.callback_allowed_hosts.split()))
        return Posting(policy, self.callback_ca_file, self.callback_timeout_s)

    def callback_keys(self) -> tuple[bytes, ...]:
        """Return the keys of all secrets, those of the file as it is now.

        Raises:
            CallbackError: the file cannot be read, or holds something else.
        """
        given = parse_secrets(self.callback_secrets.get_secret_value()) if self.callback_secrets else ()
        if self.callback_secrets_file is None:
            return given
        try:
            return given + parse_secrets(Path(self.callback_secrets_file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise CallbackError(f"APF_CALLBACK_SECRETS_FILE ({self.callback_secrets_file}): {error}") from error

    @property
    def s3(self) -> S3Options:
        """The options of S3 for `open_store`."""
        return S3Options(
            endpoint_url=self.s3_endpoint_url,
            region=self.s3_region,
            addressing_style=self.s3_addressing_style,
            max_pool_connections=max(LEAST_CONNECTIONS, self.read_threads + self.write_threads + 2),
            connect_timeout_s=self.s3_connect_timeout_s,
            read_timeout_s=self.s3_read_timeout_s,
        )


def load_settings() -> Settings:
    """Read and check the `APF_*` variables.

    Raises:
        SettingsError: naming each variable that does not validate.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise unsound(error, "APF_") from error


def check_worker(settings: Settings) -> None:
    """Check what a worker on a queue needs besides.

    Raises:
        SettingsError: no queue is set, or nothing says where the worker may read and write.
    """
    if not settings.broker_url:
        raise SettingsError("a worker needs a queue: set APF_BROKER_URL, for example to redis://localhost:6379/0")
    if not settings.allowed:
        raise SettingsError(
            "a worker does what messages say, in buckets and folders that you name: set APF_ALLOWED_URLS, for example "
            'to "s3://photos s3://public", or to * where every program that can write to the queue is trusted'
        )


def unsound(error: ValidationError, prefix: str) -> SettingsError:
    """Return the error that names each variable which does not validate; their names begin with `prefix`."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        variable = f"{prefix}{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""
        lines.append(variable + problem["msg"].removeprefix("Value error, "))
    return SettingsError("settings do not validate: " + "; ".join(lines))
