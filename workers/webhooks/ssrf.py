"""SSRF guard: the form of a callback's URL, and the addresses that its host may have.

A callback's URL comes from the submitter of photos, and is posted to from inside the operator's network. So the host's
addresses are looked up once, all of them are checked, and the connection is made to one of these very addresses: a name
server that answers differently a moment later changes nothing.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from workers.errors import AddressRefused, CallbackError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PORTS = {"https": 443, "http": 80}
#: Services that are no web servers (mail, remote shells) listen below.
FIRST_FREE_PORT = 1024

#: All that is routed as unicast so far; `is_global` counts most of what is reserved, too.
_UNICAST = IPv6Network("2000::/3")
#: Ways to write an IPv4 address that is reached through a gateway.
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = 0x5EFE
#: Documentation, segment routing, and the relays of 6to4, which `is_global` counts as global.
_NOT_PUBLIC = tuple(map(ip_network, ("192.88.99.0/24", "3fff::/20", "5f00::/16")))

_NOT_IN_URLS = re.compile(r"[\s\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class AddressPolicy:
    """The operator's allowances beyond https to public addresses; from `APF_CALLBACK_` settings."""

    allow_http: bool = False
    #: Host names, and networks in CIDR form, that need not be public.
    allowed: tuple[str, ...] = ()

    @cached_property
    def hosts(self) -> frozenset[str]:
        """The names among them, in lower case."""
        return frozenset(_host(text) for text in self.allowed if _network(text) is None)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        return tuple(network for text in self.allowed if (network := _network(text)))


@dataclass(frozen=True)
class Target:
    """A callback's URL, taken apart once."""

    scheme: str
    #: Lower case, without a dot at its end; an IPv6 address without brackets.
    host: str
    port: int
    #: Path and query. It may hold a password of the receiver's: never logged, nor part of an error.
    path: str

    @property
    def origin(self) -> str:
        """All of the URL that may be told."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")


def parse_target(url: str) -> Target:
    """Return the parts of a callback's URL; whether it may be reached is not looked up.

    Raises:
        CallbackError: it is no http or https URL, holds a user or password, or names a port that it may not.
    """
    try:
        parts = parse_url(url) if not _NOT_IN_URLS.search(url) else Url()
    except LocationParseError as error:
        raise CallbackError("a callback's URL is malformed: write https://host/path, hosts in ASCII") from error
    if parts.scheme not in PORTS or not parts.host:
        raise CallbackError("a callback's URL is malformed: write https://host/path, blanks as %20")
    if parts.auth is not None:
        raise CallbackError(
            "a callback's URL holds a user or password, which logs would show: leave them out, and have the receiver "
            "verify the signature"
        )
    port = parts.port or PORTS[parts.scheme]
    if port < FIRST_FREE_PORT and port not in PORTS.values():
        raise CallbackError(f"a callback may not go to port {port}: use 443, 80, or one from {FIRST_FREE_PORT} up")
    return Target(parts.scheme, _host(parts.host), port, parts.request_uri)


def addresses(target: Target, policy: AddressPolicy) -> list[str]:
    """Return the host's addresses, which may all be connected to.

    Raises:
        AddressRefused: the scheme, or one of the addresses, is not allowed.
        CallbackError: the host's name does not resolve.
    """
    if target.scheme == "http" and not policy.allow_http:
        raise AddressRefused(
            f"{target.origin} is not encrypted: use https, or set APF_CALLBACK_ALLOW_HTTP=true where workers run"
        )
    found = _resolved(target)
    if target.host not in policy.hosts:
        for address in found:
            _check(target, address, policy)
    return found


def site(text: str) -> str:
    """Return the rate-limit key of an address: of IPv6 its /64, which belongs to one site as a rule."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return text
    if wrapped := _wrapped(address):
        return str(wrapped[0])
    return str(IPv6Network((int(address), 64), strict=False))


def is_public(address: Address) -> bool:
    """Return whether an address lies on the public internet, and so does any IPv4 address that it wraps."""
    if any(address.version == network.version and address in network for network in _NOT_PUBLIC):
        return False
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return True
    wrapped = _wrapped(address)
    if address not in _UNICAST and not wrapped:
        return False
    return all(is_public(inner) for inner in wrapped)


def check_allowed_hosts(texts: tuple[str, ...]) -> None:
    """Raise ValueError for what is neither a host's name nor a network."""
    for text in texts:
        if _network(text) is None and not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?", text):
            raise ValueError(f"{text!r} is no host and no network: write hooks.internal or 10.0.0.0/8")


def _wrapped(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that packets to this one end up at, or pass."""
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:
        return [last]
    wrapped = [address.sixtofour] if address.sixtofour else []
    wrapped += address.teredo or ()
    if int(address) >> 32 & 0xFDFFFFFF == _ISATAP:
        wrapped.append(last)
    return wrapped


def _resolved(target: Target) -> list[str]:
    try:
        answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise CallbackError(
            f"host {target.host!r} does not resolve ({error}): correct the callback's URL, or name servers where "
            "workers run"
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in answers))


def _check(target: Target, text: str, policy: AddressPolicy) -> None:
    address = ip_address(text)
    plain = getattr(address, "ipv4_mapped", None) or address
    if any(plain.version == network.version and plain in network for network in policy.networks):
        return
    if not is_public(address):
        raise AddressRefused(
            f"{target.host!r} has the address {text}, which is not public: if callbacks may go there, add the host or "
            "its network to APF_CALLBACK_ALLOWED_HOSTS where workers run"
        )


def _host(text: str) -> str:
    return text.lower().strip("[]").removesuffix(".")


def _network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None
