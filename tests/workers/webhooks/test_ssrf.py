"""Where a callback may go: what lies inside a network is refused, however it is written."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from workers.config.settings import Settings
from workers.errors import AddressRefused, CallbackError
from workers.webhooks.ssrf import AddressPolicy, addresses, is_public, parse_target

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
INSIDE = {
    "127.0.0.1": "loopback",
    "127.9.9.9": "loopback",
    "0.0.0.0": "this host",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "169.254.169.254": "link-local: a cloud's metadata",
    "100.64.0.1": "shared by a carrier",
    "198.18.0.1": "benchmarks",
    "192.0.2.1": "documentation",
    "192.88.99.1": "relay of 6to4",
    "224.0.0.1": "multicast, which is_global counts as global",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "this host",
    "::1": "loopback",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local, with its interface",
    "fc00::1": "private",
    "fd00:ec2::254": "a cloud's metadata",
    "fec0::1": "site-local, which is_global counts as global",
    "ff0e::1": "multicast",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation, newer than some Pythons",
    "5f00::1": "segment routing",
    "4000::1": "assigned to nobody",
    "::ffff:127.0.0.1": "IPv4 in IPv6",
    "::ffff:169.254.169.254": "IPv4 in IPv6",
    "::127.0.0.1": "IPv4 in IPv6, the old way",
    "64:ff9b::10.0.0.1": "NAT64 to a private one",
    "64:ff9b::169.254.169.254": "NAT64 to a cloud's metadata",
    "64:ff9b:1::1": "NAT64 of a local network",
    "2002:7f00:1::": "6to4 to loopback",
    "2002:a9fe:a9fe::1": "6to4 to a cloud's metadata",
    "2001:0:5ef5:79fd:0:0:f5ff:fffe": "Teredo of 10.0.0.1",
    "2606:4700::5efe:10.0.0.1": "ISATAP to a private one",
    "2606:4700::200:5efe:10.0.0.1": "ISATAP to a private one",
}
#: What name servers and C libraries take for 127.0.0.1, or for another address within.
DISGUISES = [
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "localhost",
    "localhost.",
    "[::ffff:7f00:1]",
    "[::1]",
    "0",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_allowed(text: str) -> None:
    """Those that wrap a public IPv4 address, too: hosts without IPv4 reach all others that way."""
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", INSIDE, ids=lambda text: f"{text} {INSIDE[text]}")
def test_addresses_within_are_refused(text: str) -> None:
    """Private, link-local, special and wrapped ones: each is what a request forger would want posted to."""
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("host", DISGUISES)
def test_a_disguised_address_is_refused(host: str) -> None:
    """What counts is where the connection would go, not how the URL is written."""
    with pytest.raises(AddressRefused, match=r"not public.*APF_CALLBACK_ALLOWED_HOSTS"):
        addresses(parse_target(f"https://{host}/"), AddressPolicy())


def test_one_address_within_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that mixes a public with a private address gets neither."""
    answers = [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", ("10.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        addresses(parse_target("https://hooks.example/"), AddressPolicy())


@pytest.mark.parametrize(
    ("allowed", "host"),
    [("127.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "localhost"), ("LocalHost", "localhost"), ("::1/128", "[::1]"),
     ("127.0.0.0/8", "[::ffff:127.0.0.1]")],
)  # fmt: skip
def test_what_the_operator_names_is_allowed(allowed: str, host: str) -> None:
    """By name or network; an IPv4 network also holds for its addresses in IPv6's clothes."""
    assert addresses(parse_target(f"https://{host}/"), AddressPolicy(allowed=(allowed,)))


def test_what_is_allowed_opens_nothing_else() -> None:
    policy = AddressPolicy(allowed=("10.0.0.0/8", "hooks.internal"))
    with pytest.raises(AddressRefused):
        addresses(parse_target("https://127.0.0.1/"), policy)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "malformed"),
        ("file:///etc/passwd", "malformed"),
        ("gopher://example.com/", "malformed"),
        ("//example.com/", "malformed"),
        ("example.com/hook", "malformed"),
        ("https:///hook", "malformed"),
        ("", "malformed"),
        ("https://example.com/a b", "malformed"),
        ("https://example.com\\@10.0.0.1/", "malformed"),
        ("https://example.com/\r\nHost: within", "malformed"),
        ("https://example.com:port/", "malformed"),
        ("https://[::1/", "malformed"),
        ("https://user@example.com/", "user or password"),
        ("https://user:hunter2@example.com/", "user or password"),
        ("https://example.com:25/", "port 25"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:6553600/", "malformed"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, reason: str) -> None:
    """Before anybody is asked where it leads to, and without telling what it holds."""
    with pytest.raises(CallbackError, match=reason) as caught:
        parse_target(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("HTTPS://Hooks.Example.COM./a?token=hunter2#x", "https://hooks.example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("http://example.com:80/", "http://example.com"),
        ("https://[2606:4700::1]:8443/", "https://[2606:4700::1]:8443"),
    ],
)
def test_what_may_be_told_of_a_url_is_its_origin(url: str, origin: str) -> None:
    """Paths and queries of receivers are often their only secret."""
    assert parse_target(url).origin == origin


def test_http_is_for_those_who_ask_for_it() -> None:
    target = parse_target("http://127.0.0.1:8000/")
    with pytest.raises(AddressRefused, match="APF_CALLBACK_ALLOW_HTTP"):
        addresses(target, AddressPolicy(allowed=("127.0.0.1",)))
    assert addresses(target, AddressPolicy(allow_http=True, allowed=("127.0.0.1",))) == ["127.0.0.1"]


def test_a_name_that_does_not_resolve_says_so() -> None:
    with pytest.raises(CallbackError, match=r"nowhere\.invalid.*does not resolve"):
        addresses(parse_target("https://nowhere.invalid/"), AddressPolicy())


@pytest.mark.parametrize("text", ["10.0.0.1/8", "https://hooks.internal", "*.internal", "10.0.0.0/33"])
def test_allowed_hosts_are_names_or_networks(text: str) -> None:
    """A typo would quietly allow nothing, or more than was meant."""
    with pytest.raises(ValueError, match="no host and no network"):
        Settings(callback_allowed_hosts=f"hooks.internal {text}")
