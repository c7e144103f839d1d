"""Fetching guides: from a real server on loopback that does all that servers do."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apf.errors import GuideError
from apf.guides.catalogue import SFACE, Known, fetched_path, guides_folder, own_names, standings
from apf.guides.download import find_known, pull

GOOD = bytes(range(256)) * 1000
FOUL = GOOD[:-1] + b"\0"

Answer = Callable[[BaseHTTPRequestHandler], None]


def body(data: bytes, length: int | None = None, code: int = 200, **headers: str) -> Answer:
    """Sends this, and says that it is so long; a negative length: says nothing of it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        if length is None or length >= 0:
            handler.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def hangs(handler: BaseHTTPRequestHandler) -> None:
    """Sends half, and then nothing until the client has gone."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(GOOD[: len(GOOD) // 2])
    handler.wfile.flush()
    handler.connection.settimeout(20)
    handler.connection.recv(1)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte now and then."""
    handler.send_response(200)
    handler.end_headers()
    for byte in GOOD:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


ANSWERS: dict[str, Answer] = {
    "/good": body(GOOD),
    "/unsized": body(GOOD, -1),
    "/foul": body(FOUL),
    "/truncated": body(GOOD[:-100]),
    "/broken-off": body(GOOD[:-100], len(GOOD)),
    "/large": body(GOOD + b"more"),
    "/endless": body(GOOD * 200, -1),
    "/gone": body(b"no", code=404),
    "/moved": body(b"", code=302, Location="/good"),
    "/round": body(b"", code=302, Location="/round"),
    "/to-a-file": body(b"", code=302, Location="file:///etc/passwd"),
    "/hangs": hangs,
    "/drips": drips,
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with suppress(OSError):  # the client has gone, as it should
            ANSWERS[self.path](self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def known(server: str) -> Known:
    """A guide whose file is `GOOD`."""
    sha256 = hashlib.sha256(GOOD).hexdigest()
    return Known("tiny", sha256, "MIT", "a test", url=f"{server}/good", bytes=len(GOOD))


@pytest.mark.parametrize("path", ["", "/good", "/unsized", "/moved"])
def test_what_has_the_digest_is_kept(known: Known, server: str, tmp_path: Path, path: str) -> None:
    """From where its makers have it, from elsewhere, after a redirect; with nothing left beside it, for its owner."""
    folder = tmp_path / "new" / "guides"
    found = pull(known, path and server + path, folder)
    assert found == fetched_path(known, folder)
    assert found.read_bytes() == GOOD
    assert list(folder.iterdir()) == [found]
    assert (folder.stat().st_mode & 0o777, found.stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/foul", f"has SHA-256 {hashlib.sha256(FOUL).hexdigest()}, and tiny has"),
        ("/truncated", f"ended after {len(GOOD) - 100} of {len(GOOD)} bytes"),
        ("/broken-off", f"ended after {len(GOOD) - 100} of {len(GOOD)} bytes|cannot be fetched"),
        ("/large", f"has more than the {len(GOOD)} bytes of tiny"),
        ("/endless", f"has more than the {len(GOOD)} bytes of tiny"),
        ("/gone", "answered 404 Not Found"),
        ("/round", "answered 302"),
        ("/to-a-file", "answered 302"),
        ("/hangs", "cannot be fetched .nothing for 0.5 s"),
        ("/drips", "took more than 1 s"),
    ],
)
def test_what_has_not_is_not(known: Known, server: str, tmp_path: Path, path: str, told: str) -> None:
    """Each with its reason and a way out, soon; nothing is left, and what was there before stays."""
    before = fetched_path(known, tmp_path)
    before.write_bytes(b"of before")
    start = time.monotonic()
    with pytest.raises(GuideError, match=told) as raised:
        pull(known, server + path, tmp_path, silence_s=0.5, whole_s=1)
    assert time.monotonic() - start < 10
    assert "--from" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert before.read_bytes() == b"of before"


def test_a_server_that_is_not_there_is_told(known: Known, tmp_path: Path) -> None:
    """Refused connections and addresses that are none."""
    for place in ("http://127.0.0.1:9/x", "http://", "https://127.0.0.1:9/x"):
        with pytest.raises(GuideError, match=f"{re.escape(place)} cannot be fetched"):
            pull(known, place, tmp_path, silence_s=2)


def test_what_is_here_stays(known: Known, tmp_path: Path) -> None:
    """A file with the digest is fetched no second time; one that was damaged is."""
    path = fetched_path(known, tmp_path)
    path.write_bytes(GOOD)
    assert pull(known, "http://127.0.0.1:9/", tmp_path) == path
    path.write_bytes(FOUL)
    assert pull(known, "", tmp_path).read_bytes() == GOOD


def test_from_a_file(known: Known, tmp_path: Path) -> None:
    """With the same checks, for machines without a network."""
    file = tmp_path / "given.onnx"
    with pytest.raises(GuideError, match=r"given\.onnx cannot be read .*--from takes"):
        pull(known, str(file), tmp_path / "guides")
    file.write_bytes(FOUL)
    with pytest.raises(GuideError, match="has SHA-256"):
        pull(known, str(file), tmp_path / "guides")
    file.write_bytes(GOOD)
    assert pull(known, str(file), tmp_path / "guides").read_bytes() == GOOD


def test_a_folder_that_cannot_be_written_to_is_told(known: Known, tmp_path: Path) -> None:
    """By its name, with the variable that names another."""
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(GuideError, match=r"file/guides cannot be written to .*XDG_DATA_HOME"):
        pull(known, "", blocked / "guides")


def test_only_known_names_are_fetched() -> None:
    """SFace is, from OpenCV's own repository, by the digest of its 38 MB."""
    assert find_known("sface") is SFACE
    assert SFACE.url.startswith("https://media.githubusercontent.com/media/opencv/opencv_zoo/main/")
    with pytest.raises(GuideError, match="no guide 'dlib' to fetch: there is sface"):
        find_known("dlib")


def test_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As XDG_DATA_HOME says, else in the home; what lies there damaged is told so."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert guides_folder() == tmp_path / ".local" / "share" / "apf" / "guides"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert guides_folder() == tmp_path / "data" / "apf" / "guides"
    guides_folder().mkdir(parents=True)
    states = {one.name: (one.state, one.cure) for one in standings()}
    ships = dict.fromkeys(["probe", *own_names(), "dlib"], ("here", ""))
    fetched = {name: ("missing", f"apf guides pull {name}") for name in ("sface", "yunet")}
    assert states == {**ships, **fetched}
    fetched_path(SFACE).write_bytes(FOUL)
    assert {one.name: one.state for one in standings()}["sface"] == "damaged"
