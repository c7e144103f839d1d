"""Bearer tokens: random texts of which the server keeps a digest, with what each may do."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workers.broker import weights
from workers.core.records import explain
from workers.errors import SettingsError

log = logging.getLogger(__name__)

Scope = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = ("read", "submit", "operate")

PREFIX = "apf_"
#: Random bytes of a token: what cannot be guessed needs no slow digest.
TOKEN_BYTES = 32
#: Whether the file has changed is asked no more often.
LOOK_EVERY_S = 1.0

Tenant = Annotated[str, Field(max_length=200)]


class Grant(BaseModel):
    """What the holder of a token may do; a line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Of the token, for logs and the audit; not secret.
    name: str = Field(pattern=r"^[A-Za-z0-9._@-]{1,80}$")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    scopes: frozenset[Scope] = Field(min_length=1)
    #: The tenants whose batches it sees and makes; None: all.
    tenants: tuple[Tenant, ...] | None = None
    #: Buckets, prefixes and folders below which its photos lie, as URLs; None: all of APF_ALLOWED_URLS.
    urls: tuple[str, ...] | None = None
    #: None: as APF_SERVE_ settings say; 0: no limit.
    requests_per_minute: int | None = Field(default=None, ge=0)
    photos_per_hour: int | None = Field(default=None, ge=0)
    bytes_per_hour: int | None = Field(default=None, ge=0)
    #: Of its tenants, whatever way their batches come: turns on shared workers for each of a tenant of weight 1.
    weight: int | None = Field(default=None, ge=1, le=weights.MOST)

    @model_validator(mode="after")
    def _weighs_tenants(self) -> Self:
        if self.weight is not None and not self.tenants:
            raise ValueError("a weight is one of tenants, and the token is bound to none: name them (--tenant)")
        return self

    def may_see(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants


#: Whoever needs no token, as only this machine's own users reach the server.
LOCAL = Grant(name="local", scopes=frozenset(SCOPES))


def digest(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def line_of(grant: Grant) -> str:
    """Return the line that keeps a token."""
    facts = {name: value for name, value in grant.model_dump(mode="json").items() if value is not None}
    return json.dumps({**facts, "scopes": sorted(grant.scopes, key=SCOPES.index)})


def append(path: Path, grant: Grant) -> None:
    """Add a token to a file, which is made for its owner alone.

    Raises:
        SettingsError: it cannot be written, or has a token of that name.
    """
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if any(one.name == grant.name for one in parse_tokens(before, str(path))):
            raise SettingsError(f"{path} has a token named {grant.name!r}: take another name, or remove its line first")
        line = ("\n" if before and not before.endswith("\n") else "") + line_of(grant) + "\n"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise SettingsError(f"the token cannot be kept in {path}: {error.strerror}") from error


def parse_tokens(text: str, where: str) -> list[Grant]:
    """Return the tokens of a file or variable; empty lines and those that begin with # are left out.

    Raises:
        SettingsError: a line is none, by its number.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            grant = Grant.model_validate_json(line)
            if not grant.sha256:
                raise ValueError("it has no sha256")
        except (ValidationError, ValueError) as error:
            raise SettingsError(
                f"line {number} of {where} is no token ({explain(error)}): `apf token new` makes such lines"
            ) from None
        found.append(grant)
    return found


@dataclass(frozen=True)
class _Read:
    stamp: Any
    by_digest: dict[str, Grant]


class Keyring:
    """The tokens that count now. A file that changes is read anew; one that breaks leaves the tokens as they were."""

    def __init__(self, variable: str, file: str | None) -> None:
        """Raise SettingsError where a line is no token, or the file cannot be read."""
        self._given = parse_tokens(variable, "APF_SERVE_TOKENS")
        self._path = Path(file) if file else None
        self._lock = Lock()
        self._looked = time.monotonic()
        self._read = self._now()
        # For good: a server whose last token is taken back lets nobody in.
        self._guards = bool(self._read.by_digest) or self._path is not None

    def __bool__(self) -> bool:
        return self._guards

    def __len__(self) -> int:
        return len(self._read.by_digest)

    def weights(self) -> dict[str, int]:
        """Return the tenants' weights, of several tokens' the largest; who is in none has weight 1."""
        self._look_now_and_then()
        found: dict[str, int] = {}
        for grant in self._read.by_digest.values():
            for tenant in grant.tenants or ():
                found[tenant] = max(found.get(tenant, 1), grant.weight or 1)
        return found

    def grant_of(self, token: str) -> Grant | None:
        """Return what the token's holder may do; None where nobody knows it."""
        return self.grant_by_digest(digest(token))

    def grant_by_digest(self, kept: str) -> Grant | None:
        """As `grant_of`, by what is kept of a token."""
        self._look_now_and_then()
        return self._read.by_digest.get(kept)

    def _look_now_and_then(self) -> None:
        with self._lock:
            if self._path and time.monotonic() - self._looked > LOOK_EVERY_S:
                self._looked = time.monotonic()
                self._look()

    def _look(self) -> None:
        if self._path is None or (stamp := _stamp(self._path)) == self._read.stamp:
            return
        try:
            self._read = self._now()
        except SettingsError as error:
            log.error("%s: the tokens from before it was changed go on", error)
            self._read = _Read(stamp, self._read.by_digest)

    def _now(self) -> _Read:
        grants, stamp = list(self._given), None
        if self._path:
            stamp = _stamp(self._path)
            try:
                grants += parse_tokens(self._path.read_text(encoding="utf-8-sig"), str(self._path))
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"APF_SERVE_TOKENS_FILE cannot be read: {error}") from error
        return _Read(stamp, {grant.sha256: grant for grant in grants})


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
