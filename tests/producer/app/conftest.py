"""The app as its users start it: a process of its own, with a home of its own, and its link."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage.data import astronaut

from tests.conftest import OWN_SETTINGS

#: Notes where the process connects to, and what names it asks for.
AUDIT = """
import os, sys
def note(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        with open(os.environ["NOTED"], "a") as file:
            file.write(f"{event} {args[1] if event != 'socket.getaddrinfo' else args[0]}\\n")
sys.addaudithook(note)
"""


@dataclass
class App:
    """A home, and the app that runs in it."""

    home: Path
    process: subprocess.Popen[str] | None = None
    links: list[str] = field(default_factory=list)
    text: str = ""

    def start(self) -> str:
        """Start it, and return its link."""
        (self.home / "audit").mkdir(exist_ok=True)
        (self.home / "audit" / "sitecustomize.py").write_text(AUDIT)
        mine = {n: value for n, value in os.environ.items() if n in OWN_SETTINGS or not n.startswith("APF_")}
        mine |= {"HOME": str(self.home), "XDG_DATA_HOME": str(self.home / "data"), "NOTED": str(self.home / "noted")}
        mine["PYTHONPATH"] = str(self.home / "audit")
        command = [sys.executable, "-m", "producer", "app", "--no-open"]
        with (self.home / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=mine)
        assert self.process.stdout
        self.links.append(self.process.stdout.readline().strip())
        assert self.links[-1].startswith("http://127.0.0.1:"), (self.home / "log").read_text()
        return self.links[-1]

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()
            self.process = None

    @property
    def port(self) -> int:
        return int(urlsplit(self.links[-1]).port or 0)

    @property
    def token(self) -> str:
        return urlsplit(self.links[-1]).query.removeprefix("token=")

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> http.client.HTTPResponse:
        """Ask it something, with the user's cookie and Origin unless the headers say otherwise; "" leaves one out.

        What it answers is in `text`.
        """
        asked = {"Host": f"127.0.0.1:{self.port}", "Cookie": f"apf-app-{self.port}={self.token}"}
        asked |= {"Origin": f"http://127.0.0.1:{self.port}", **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {**asked, "Content-Length": str(len(body))}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        self.text = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    found = App(tmp_path)
    found.start()
    yield found
    found.kill()


def small_photos(folder: Path, count: int) -> dict[str, bytes]:
    """So many small photos of one face, all different; returns their bytes by name."""
    folder.mkdir(parents=True)
    face = Image.fromarray(astronaut()[:300, 80:380]).resize((200, 200))
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = ImageEnhance.Brightness(face.rotate(float(rng.uniform(-6, 6)))).enhance(float(rng.uniform(0.8, 1.2)))
        photo.save(folder / f"photo {number:02}.jpg", quality=90)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
