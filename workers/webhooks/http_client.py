"""Send one signed POST to a checked address, within a bounded time, following no redirect."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from workers.errors import CallbackError
from workers.webhooks.signing import signed_headers
from workers.webhooks.ssrf import AddressPolicy, Target, addresses, parse_target

#: Of the answer, which is not used.
ANSWER_BYTES = 4096
#: Addresses of a host that are tried in turn, and the part of the time that each has to connect.
TRIED_ADDRESSES = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Post:
    """A request to be posted."""

    url: str = field(repr=False)
    #: The same at each try, so that receivers know a callback that they had already.
    id: str
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Posting:
    """How to post; from `APF_CALLBACK_` settings."""

    policy: AddressPolicy
    #: File of the authority that signed receivers' certificates; None: the system's own.
    ca_file: str | None = None
    #: From looking the host up to the end of the answer.
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Answer:
    """The receiver's answer."""

    status: int
    #: It wants to be left alone for so long.
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


def send(
    post: Post, keys: Sequence[bytes], how: Posting, admit: Callable[[list[str]], None] = lambda _: None
) -> Answer:
    """Post once, and follow no redirect; `admit` is given the checked addresses, and may raise before any is called.

    Raises:
        AddressRefused: it may not go there.
        CallbackError: there is no secret to sign with, or no answer came; the message says why.
    """
    target = parse_target(post.url)
    if not keys:
        raise CallbackError(
            "there is no secret to sign callbacks with: set APF_CALLBACK_SECRETS or APF_CALLBACK_SECRETS_FILE where "
            "workers run"
        )
    exchange = _Exchange(target, how, admit)
    headers = {
        "Host": target.origin.partition("://")[2],
        "Content-Type": "application/json",
        "User-Agent": "apf-callback/1",
        **signed_headers(post.id, post.body, keys, datetime.now(UTC)),
    }
    return _within(how.timeout_s, lambda: exchange.run(post.body, headers), exchange.abort, target)


class _Exchange:
    """One request on one connection, which another thread may cut off."""

    def __init__(self, target: Target, how: Posting, admit: Callable[[list[str]], None]) -> None:
        self._target = target
        self._how = how
        self._admit = admit
        self._connection: HTTPConnection | None = None
        self._aborted = False

    def run(self, body: bytes, headers: dict[str, str]) -> Answer:
        found = addresses(self._target, self._how.policy)
        self._admit(found)
        self._connection = connection = self._connected(found)
        try:
            connection.request(
                "POST", self._target.path, body=body, headers=headers, preload_content=False, decode_content=False
            )
            with closing(connection.getresponse()) as response:
                if self._aborted:  # its head was cut off, which http.client takes for the head's end
                    raise http.client.IncompleteRead(b"")
                with suppress(OSError, http.client.HTTPException, HTTPError):
                    response.read(ANSWER_BYTES)
                return Answer(response.status, _retry_after_s(response))
        except (OSError, http.client.HTTPException, HTTPError) as error:
            raise CallbackError(f"{self._target.origin} gave no answer ({_said(error)})") from error
        finally:
            connection.close()

    def abort(self) -> None:
        """End it, whatever it waits for."""
        self._aborted = True
        sock = getattr(self._connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _connected(self, found: list[str]) -> HTTPConnection:
        """Return a connection to the first of these addresses that takes one."""
        failure: Exception | None = None
        for address in found[:TRIED_ADDRESSES]:
            connection = self._connection = self._new(address)
            try:
                connection.connect()
                connection.timeout = self._how.timeout_s
                return connection
            except (OSError, HTTPError) as error:
                connection.close()
                failure = error
        if "CERTIFICATE_VERIFY_FAILED" in str(failure):
            raise CallbackError(
                f"the certificate of {self._target.origin} is not accepted ({_said(failure)}): name its authority's "
                "file in APF_CALLBACK_CA_FILE where workers run"
            ) from failure
        raise CallbackError(f"{self._target.origin} cannot be reached ({_said(failure)})") from failure

    def _new(self, address: str) -> HTTPConnection:
        timeout = self._how.timeout_s / TRIED_ADDRESSES
        if self._target.scheme == "http":
            return HTTPConnection(address, self._target.port, timeout=timeout)
        # The certificate must be the host's, though the connection goes to an address.
        return HTTPSConnection(
            address,
            self._target.port,
            timeout=timeout,
            server_hostname=self._target.host,
            cert_reqs="CERT_REQUIRED",
            ca_certs=self._how.ca_file,
        )


def _within(seconds: float, run: Callable[[], Answer], abort: Callable[[], None], target: Target) -> Answer:
    """Run with a bound on the whole time. Sockets' own time-outs start anew with each byte, and a name server's cannot
    be set.
    """
    outcome: list[Answer | Exception] = []

    def note() -> None:
        try:
            outcome.append(run())
        except Exception as error:  # raised again below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=note, name="callback", daemon=True)
    started = time.monotonic()
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        abort()
        thread.join(1)
    match outcome:
        case [Answer() as answer]:
            return answer
        case [Exception() as error] if time.monotonic() - started < seconds:
            raise error
        case _:
            raise CallbackError(f"{target.origin} did not answer within {seconds:g} s")


def _retry_after_s(response: BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text[:9])
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None


def _said(error: object) -> str:
    """Return the innermost reason, without the URL and the connection that urllib3 names."""
    text = str(error).rpartition("object at 0x")[2].partition(">: ")[2] or str(error)
    return text.replace("\n", " ")[:200] or type(error).__name__
