"""One signed POST, against real receivers: any Standard Webhooks library verifies it, and none can lead it astray."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.certificates import certificate
from tests.receivers import SECRETS, drips, floods, hangs, receiving, status
from workers.config.settings import Settings, load_settings
from workers.errors import AddressRefused, CallbackError
from workers.webhooks.http_client import Answer, Post, Posting, send
from workers.webhooks.signing import parse_secrets, signed_headers
from workers.webhooks.ssrf import AddressPolicy

KEYS = parse_secrets(SECRETS[0])
BODY = '{"type":"test","é":1}'.encode()
HERE = Posting(AddressPolicy(allow_http=True, allowed=("127.0.0.0/8",)), timeout_s=1.5)
NAMED = replace(HERE, policy=AddressPolicy(allowed=("hooks.test",)))

#: The example of the standard's own specification.
SPEC = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')


def posted(url: str, how: Posting = HERE, keys: tuple[bytes, ...] = KEYS) -> Answer:
    return send(Post(url, "msg_1", BODY), keys, how)


def test_the_standards_own_example() -> None:
    secret, message, moment, body = SPEC
    headers = signed_headers(message, body, parse_secrets(secret), datetime.fromtimestamp(moment, UTC))
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == str(moment)


def test_a_receiver_verifies_what_it_gets() -> None:
    """By another implementation than ours; and a body that was changed on the way is found out."""
    with receiving() as receiver:
        assert posted(receiver.url).ok
    (got,) = receiver.got
    assert got.verified() == {"type": "test", "é": 1}
    assert (got.path, got.headers["content-type"]) == ("/hook?token=hunter2", "application/json")
    assert got.headers["host"] == receiver.url.split("/")[2]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[0]).verify(got.body + b" ", got.headers)


def test_while_secrets_change_either_verifies() -> None:
    """A receiver that has the old one only, and one that has the new one only."""
    with receiving() as receiver:
        posted(receiver.url, keys=parse_secrets(" ".join(SECRETS)))
    for secret in SECRETS:
        assert receiver.got[0].verified(secret)
    with receiving() as receiver:
        posted(receiver.url, keys=parse_secrets(SECRETS[1]))
    with pytest.raises(WebhookVerificationError):
        receiver.got[0].verified(SECRETS[0])


@pytest.mark.parametrize("code", [200, 204, 299])
def test_2xx_is_delivered(code: int) -> None:
    with receiving(status(code)) as receiver:
        assert posted(receiver.url) == Answer(code)


@pytest.mark.parametrize("code", [400, 404, 410, 429, 500, 503])
def test_any_other_answer_is_told(code: int) -> None:
    with receiving(status(code, Retry_After="7")) as receiver:
        answer = posted(receiver.url)
    assert answer == Answer(code, retry_after_s=7.0)
    assert not answer.ok


def test_retry_after_may_be_a_date() -> None:
    with receiving(status(503, Retry_After="Fri, 31 Dec 2199 23:59:59 GMT")) as receiver:
        assert (posted(receiver.url).retry_after_s or 0) > 1e9
    with receiving(status(503, Retry_After="when it suits us")) as receiver:
        assert posted(receiver.url).retry_after_s is None


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(code: int) -> None:
    """It could lead to where the URL itself may not."""
    with receiving() as within, receiving(status(code, Location=within.url)) as receiver:
        assert posted(receiver.url).status == code
    assert within.got == []


@pytest.mark.parametrize("answer", [hangs, drips])
def test_a_receiver_that_hangs_or_drips_costs_no_more_than_the_time_out(answer: Any) -> None:
    with receiving(answer) as receiver:
        started = time.monotonic()
        with pytest.raises(CallbackError, match=r"within 1\.5 s|gave no answer") as caught:
            posted(receiver.url)
        assert time.monotonic() - started < 10, "the receiver goes on for twenty"
        left = [thread for thread in threading.enumerate() if thread.name == "callback"]
        assert not any(thread.is_alive() for thread in left), "nobody goes on waiting for it"
    assert "hunter2" not in str(caught.value)


def test_an_endless_answer_is_not_read() -> None:
    with receiving(floods) as receiver:
        started = time.monotonic()
        assert posted(receiver.url).ok
        assert time.monotonic() - started < 10, "the receiver goes on for twenty"


def test_a_name_server_that_hangs_costs_no_more_than_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(12) or [])
    started = time.monotonic()
    with pytest.raises(CallbackError, match=r"within 0\.3 s"):
        posted("https://hooks.test/", replace(HERE, timeout_s=0.3))
    assert time.monotonic() - started < 10


def test_nobody_there_is_told_without_the_path() -> None:
    with receiving() as receiver:
        url = receiver.url
    with pytest.raises(CallbackError, match=r"http://127\.0\.0\.1:\d+ cannot be reached \(.*refused") as caught:
        posted(url)
    assert "hunter2" not in str(caught.value)


def test_a_private_address_gets_no_connection() -> None:
    """The receiver runs, and nothing arrives."""
    with receiving() as receiver, pytest.raises(AddressRefused, match="not public"):
        posted(receiver.url, replace(HERE, policy=AddressPolicy(allow_http=True)))
    assert receiver.got == []


def test_a_name_that_changes_its_address_meanwhile_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is checked, ours when it is connected to."""
    real, asked, connected = socket.getaddrinfo, [], []

    def rebinding(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.test":
            return real(host, *args, **kwargs)
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, args[0]))]

    def refusing(sock: socket.socket, address: Any) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError("no way out of this test")

    class Socket(socket.socket):
        connect = refusing

    with receiving() as receiver:
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        monkeypatch.setattr(socket, "socket", Socket)
        port = receiver.url.split(":")[2].split("/")[0]
        with pytest.raises(CallbackError, match="cannot be reached"):
            posted(f"http://rebind.test:{port}/", replace(HERE, policy=AddressPolicy(allow_http=True)))
        monkeypatch.undo()
    assert (asked, connected) == (["rebind.test"], ["93.184.216.34"])
    assert receiver.got == []


def test_the_next_address_is_tried_where_one_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        assert posted(f"http://hooks.test:{port}/").ok
    assert receiver.got[0].headers["host"] == f"hooks.test:{port}"


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up by itself, and connect to whatever it finds."""
    with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert posted(receiver.url).ok
    assert (len(proxy.got), len(receiver.got)) == (0, 1)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """`hooks.test` has these addresses."""
    real = socket.getaddrinfo

    def fake(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "hooks.test":
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def test_over_tls_the_certificate_is_the_hosts_and_not_the_addresss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to a checked address, and the name is verified all the same; then by what it is trusted."""
    issuer = certificate(tmp_path, "authority")
    certificate(tmp_path, "hooks", issuer, host="hooks.test")
    certificate(tmp_path, "other", issuer, host="other.test")
    certificate(tmp_path, "stranger")
    resolve_to(monkeypatch, "127.0.0.1")
    ours = replace(NAMED, ca_file=str(tmp_path / "authority.pem"))
    strangers = replace(NAMED, ca_file=str(tmp_path / "stranger.pem"))

    def at_name(url: str) -> str:
        return url.replace("127.0.0.1", "hooks.test")

    with receiving(certificate=tmp_path / "hooks.pem") as receiver:
        assert posted(at_name(receiver.url), ours).ok
        assert receiver.got[0].verified()
        for how in (NAMED, strangers):
            with pytest.raises(CallbackError, match=r"not accepted.*APF_CALLBACK_CA_FILE"):
                posted(at_name(receiver.url), how)
    with receiving(certificate=tmp_path / "other.pem") as receiver:
        with pytest.raises(CallbackError, match=r"not accepted.*hooks\.test"):
            posted(at_name(receiver.url), ours)
        assert receiver.got == []


def test_over_tls_to_an_address(tmp_path: Path) -> None:
    certificate(tmp_path, "server", certificate(tmp_path, "authority"))
    how = replace(HERE, ca_file=str(tmp_path / "authority.pem"))
    with receiving(certificate=tmp_path / "server.pem") as receiver:
        assert posted(receiver.url, how).ok


def test_without_a_secret_nothing_is_posted() -> None:
    with receiving() as receiver, pytest.raises(CallbackError, match="APF_CALLBACK_SECRETS"):
        posted(receiver.url, keys=())
    assert receiver.got == []


@pytest.mark.parametrize("secret", ["hunter2", "whsec_hunter2", "whsec_c2hvcnQ=", "whsec_" + "QUFB" * 22])
def test_a_malformed_secret_is_explained_and_not_told(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """No prefix, no base64, too short, too long."""
    monkeypatch.setenv("APF_CALLBACK_SECRETS", f"{SECRETS[0]} {secret}")
    with pytest.raises(Exception, match=r"APF_CALLBACK_SECRETS: secret 2 is not whsec_") as caught:
        load_settings()
    assert secret not in str(caught.value).replace("whsec_ ", "")


def test_secrets_stay_out_of_what_is_printed() -> None:
    settings = Settings(callback_secrets=SECRETS[0])
    assert SECRETS[0].removeprefix("whsec_") not in f"{settings!r} {settings.model_dump_json()}"


def test_a_file_of_secrets_is_read_anew(tmp_path: Path) -> None:
    """Secrets change while workers run."""
    file = tmp_path / "secrets"
    settings = Settings(callback_secrets=SECRETS[0], callback_secrets_file=str(file))
    with pytest.raises(CallbackError, match="APF_CALLBACK_SECRETS_FILE"):
        settings.callback_keys()
    file.write_text(SECRETS[1] + "\n")
    assert settings.callback_keys() == parse_secrets(" ".join(SECRETS))
