"""Nobody but the user's own browser gets an answer from the app."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.producer.app.conftest import App


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One for all tests here, which change nothing in it."""
    found = App(tmp_path_factory.mktemp("home"))
    found.start()
    yield found
    found.kill()


def test_the_token_in_the_link_becomes_a_cookie(app: App) -> None:
    """It leaves the address at once, and no script and no other site can use the cookie."""
    answer = app.ask("GET", f"/?token={app.token}", {"Cookie": ""})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"apf-app-{app.port}={app.token.lower()};")
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert app.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Cookie": ""}, 403),
        ("GET", {"Cookie": "apf-app-PORT=wrong"}, 403),
        ("GET", {"Cookie": "apf-app-1=TOKEN"}, 403),
        ("GET", {"Cookie": "", "Authorization": "Bearer TOKEN"}, 403),
        ("GET", {"Host": "evil.example"}, 421),
        ("GET", {"Host": "evil.example:PORT"}, 421),
        ("GET", {"Host": ""}, 400),  # the HTTP server itself
        ("GET", {"Host": "localhost:PORT"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ("POST", {"Origin": ""}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "http://127.0.0.1:1"}, 403),
        ("POST", {"Cookie": ""}, 403),
        ("POST", {}, 303),
        ("PUT", {"Origin": "http://evil.example"}, 403),
    ],
)
def test_strangers_are_refused(app: App, method: str, headers: dict[str, str], status: int) -> None:
    """Without the cookie, by another name for this machine, or from another site; each by itself."""
    filled = {n: v.replace("PORT", str(app.port)).replace("TOKEN", app.token) for n, v in headers.items()}
    assert app.ask(method, "/albums" if method == "POST" else "/", filled).status == status


def test_every_answer_has_the_strict_headers(app: App) -> None:
    """Refusals, pages and files: nothing from elsewhere runs or is shown, and nothing is kept in caches."""
    for path, cookie in (("/", None), ("/", ""), ("/app.js", None), ("/nothing", None)):
        headers = app.ask("GET", path, {} if cookie is None else {"Cookie": cookie}).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none';") and "script-src 'self';" in policy
        assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_it_listens_on_loopback_alone(app: App) -> None:
    """Another address of this machine refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing, and tells the machine's own address
        own = probe.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError), socket.create_connection((own, app.port), timeout=3):
        pass


@pytest.mark.parametrize(
    "path",
    [
        "/albums/20260101-000000-00000000",
        "/albums/..%2F..%2Fetc",
        "/nothing",
        "/..%2Fserver.py",
        "/folders/choose?at=/etc",
        "/folders/choose?at=/root/../etc",
    ],
)
def test_what_is_none_of_the_apps_is_not_shown(app: App, path: str) -> None:
    """Unknown albums, files beside its own, and folders that the user did not name."""
    assert app.ask("GET", path).status in (400, 404)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "own files, too"),  # its home, where the app keeps its albums
        ("empty", "There is no photo in"),
        ("../elsewhere", "is not among your own folders"),
        ("none", "There is no folder"),
    ],
)
def test_a_folder_that_cannot_be_an_album_is_refused_in_words(app: App, folder: str, message: str) -> None:
    """No album is made of it."""
    (app.home / "empty").mkdir(exist_ok=True)
    answer = app.ask("POST", "/albums", body=urlencode({"folder": str(app.home / folder)}).encode())
    assert answer.status == 400 and message in app.text


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [("a.jpg", b"x", 200), ("a.exe", b"x", 400), ("../a.jpg", b"x", 400), ("a.jpg", b"x" * (100 * 2**20 + 1), 400)],
)
def test_uploads_are_bounded_and_stay_in_their_album(app: App, name: str, body: bytes, status: int) -> None:
    """By the limit on photos, and under names that stay in their folder."""
    place = app.ask("POST", "/albums").headers["location"]
    assert app.ask("PUT", f"{place}/photos?name={quote(name)}", body=body).status == status
    assert app.ask("PUT", f"{place}/protected?name=a.jpg", body=b"x").status == 404
    kept = app.home / "data" / "apf" / "app" / place.removeprefix("/albums/") / "photos"
    assert [path.name for path in kept.glob("[!.]*")] == (["a.jpg"] if status == 200 else [])


def test_a_second_start_names_the_first_ones_link(app: App, tmp_path: Path) -> None:
    """Two processes never work on the same albums."""
    second = App(app.home)
    try:
        assert second.start() == app.links[0]
        assert second.process and second.process.wait(30) == 0
    finally:
        second.kill()
    assert app.ask("GET", "/").status == 200
