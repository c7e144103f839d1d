"""A server of the API in this process or in one of its own, beside a real Redis and, where asked for, a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from producer.server.app import make_app
from producer.server.run import _Server, uvicorn_config
from producer.server.services import Services, make_services
from producer.server.settings import ServeSettings
from producer.server.tokens import Grant, digest, line_of, new_token
from tests.conftest import RedisServer
from tests.faults.world import World, photos
from tests.waiting import until

ROOT = Path(__file__).parents[3]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Api:
    """The API as a client sees it."""

    url: str
    token: str = ""
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=64, retries=False))

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        got = self.pool.request(method, self.url + path, body=body, headers=sent, timeout=90)
        return Answer(got.status, got.headers, got.data)

    def with_token(self, token: str) -> Api:
        return Api(self.url, token, self.pool)

    def ended(self, batch: str, within_s: float = 60) -> Any:
        """The batch's view once it is done."""
        deadline = time.monotonic() + within_s
        while (view := self("GET", f"/v1/batches/{batch}").json).get("state") != "done":
            assert time.monotonic() < deadline, view
            time.sleep(0.2)
        return view


@dataclass
class Platform:
    """Photos, a place for outputs, one for ledgers; a server takes the settings from here."""

    world: World
    scratch: Path
    serve: dict[str, Any] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def source(self) -> str:
        return self.world.source_url

    @property
    def destination(self) -> str:
        return self.world.destination_url

    def token(self, name: str, **facts: Any) -> str:
        """A new token, that servers which start from now on know."""
        token = new_token()
        self.tokens.append(line_of(Grant(name=name, sha256=digest(token), **facts)))
        return token

    def settings(self) -> ServeSettings:
        facts = {"port": 0, "scratch_url": self.scratch.as_uri(), "status_every_s": 0.2, "index_every_s": 0.5}
        return ServeSettings.model_validate({**facts, "tokens": "\n".join(self.tokens) or None, **self.serve})

    @contextmanager
    def server(self) -> Iterator[tuple[Api, Services]]:
        """A server in a thread of this process."""
        serve = self.settings()
        services = make_services(self.world.settings, serve)
        config = uvicorn_config(make_app(services), serve, self.world.settings)
        server = _Server(config, services)
        sock = config.bind_socket()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        api = Api(f"http://127.0.0.1:{sock.getsockname()[1]}")
        try:
            yield api, services
        finally:
            services.stopping.set()
            server.should_exit = True
            thread.join(20)
            api.pool.clear()
            sock.close()

    def process(self, **more: str) -> tuple[subprocess.Popen[bytes], Api]:
        """`apf serve` in a process of its own; it ends with the platform at the latest."""
        log = self.world.folder / f"serve-{time.monotonic_ns()}.log"
        variables = {**os.environ, **self.world.variables, "APF_SERVE_SCRATCH_URL": self.scratch.as_uri()}
        variables |= more | {"APF_SERVE_TOKENS": "\n".join(self.tokens)}
        command = [sys.executable, "-m", "producer", "serve", "--port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
        self.processes.append(process)
        until(lambda: b"serving on " in log.read_bytes() or process.poll() is not None, 60, "it serves", log)
        assert process.poll() is None, log.read_text()
        url = log.read_text().partition("serving on ")[2].split()[0]
        return process, Api(url)


@contextmanager
def platform(folder: Path, redis: RedisServer, count: int = 8, **variables: str) -> Iterator[Platform]:
    """A platform with so many photos, of which one has no face and one is damaged."""
    places = {name: folder / name for name in ("photos", "public", "ledgers", "scratch")}
    for place in places.values():
        place.mkdir()
    allowed = " ".join(places[name].as_uri() for name in ("photos", "public", "scratch"))
    found = World(
        folder=folder, redis=redis, source_url=places["photos"].as_uri(), destination_url=places["public"].as_uri(),
        photos=photos(count),
        variables={"APF_LEDGER_URL": places["ledgers"].as_uri(), "APF_ALLOWED_URLS": allowed, **variables},
    )  # fmt: skip
    made = Platform(found, places["scratch"])
    try:
        yield made
    finally:
        for process in made.processes:  # those that a failed test has left
            process.kill()
            process.wait()
        found.close()


def end(process: subprocess.Popen[bytes]) -> int:
    """Ends a server as an operator would, and returns its status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)
