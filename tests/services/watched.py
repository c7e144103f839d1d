"""Worker and exporter under test, as Prometheus sees them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RedisServer, _free_ports, _without
from tests.faults.world import ROOT, World, closing_world, photos
from tests.waiting import until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Scrape:
    """The numbers of one scrape."""

    def __init__(self, port: int) -> None:
        status, self.text = fetch(port)
        assert status == 200
        self.families = list(text_string_to_metric_families(self.text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float:
        return self._samples[name, frozenset(labels.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        return {dict(own)[label]: value for (each, own), value in self._samples.items() if each == name}

    def names(self) -> set[str]:
        return {name for name, _ in self._samples}


def program(name: str) -> str:
    """Where a program of Prometheus is; skips where it is missing."""
    return shutil.which(name) or _without(name, "install Debian's package prometheus")


@pytest.fixture(name="world")
def watched_world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    port = str(_free_ports([0]))
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"APF_METRICS_PORT": port, "TMPDIR": str(tmp_path), "APF_RECONCILE_EVERY_S": "1"}
    with closing_world(World(tmp_path, redis_server, source, out, photos(12), variables)) as made:
        yield made


def port_of(world: World) -> int:
    return int(world.variables["APF_METRICS_PORT"])


@contextmanager
def exporting(world: World, **more: str) -> Iterator[int]:
    """`apf exporter` on the world's queue and store; its port."""
    port = _free_ports([0])
    with _running(world, "exporter", port, ["--port", str(port)], {"APF_EXPORTER_EVERY_S": "0", **more}):
        yield port


@contextmanager
def listening(world: World) -> Iterator[int]:
    """`apf listen` on the world's queue, with a route of its own; the port of its metrics."""
    port, events = _free_ports([0]), _free_ports([0])
    token = "test-token-" + "x" * 32
    variables = {"APF_ALLOWED_URLS": "s3://uploads s3://public", "APF_LISTEN_TOKEN": token}
    options = ["--route", "s3://uploads=s3://public", "--http", f"127.0.0.1:{events}", "--metrics-port", str(port)]
    with _running(world, "listen", port, options, variables):
        yield port


@contextmanager
def serving(world: World) -> Iterator[int]:
    """`apf serve` of the world's photos, without tokens; its port."""
    port = _free_ports([0])
    allowed = f"{world.source_url} {world.destination_url}"
    ledgers = (world.folder / "server-ledgers").as_uri()
    variables = {"APF_ALLOWED_URLS": allowed, "APF_LEDGER_URL": ledgers}
    with _running(world, "serve", port, ["--port", str(port)], variables):
        yield port


@contextmanager
def _running(world: World, command: str, port: int, options: list[str], variables: dict[str, str]) -> Iterator[None]:
    path = world.folder / f"{command}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer", command, *options],
            cwd=ROOT,
            env={**os.environ, **world.variables, **variables},
            stdout=log,
            stderr=log,
        )

    def answers() -> bool:
        with suppress(OSError):
            return fetch(port, "/healthz")[0] == 200
        return False

    try:
        until(answers, 30, f"apf {command} answers", path)
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0
