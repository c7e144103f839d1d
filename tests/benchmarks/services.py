"""An S3 store for benchmarks, as the tests have them, without pytest: `with store() as server`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from botocore.exceptions import EndpointConnectionError

from tests.conftest import ANY_PLACE, HERE, S3_KEY, S3_SECRET, S3Server, _end_swift, _free_ports


def own_credentials() -> None:
    """The environment's: those of the store on loopback, and nobody else's."""
    for name in [name for name in os.environ if name.startswith(("APF_", "AWS_"))]:
        del os.environ[name]
    os.environ |= {
        **ANY_PLACE,
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def store() -> Iterator[tuple[str, S3Server]]:
    """Swift where it is installed and may be started, else moto in a process of its own; and its name."""
    if os.geteuid() == 0 and all(map(shutil.which, ("swift-proxy-server", "memcached", "curl"))):
        with _swift() as server:
            yield "Swift", server
    else:
        with _moto() as server:
            yield "moto", server


@contextmanager
def _swift() -> Iterator[S3Server]:
    port = _free_ports([0, 1, 2, 3, 5])
    folder = Path(tempfile.mkdtemp(prefix="apf-swift-"))
    try:
        subprocess.run(
            ["bash", HERE / "services" / "swift-s3.sh", folder, str(port)], check=True, stdout=subprocess.DEVNULL
        )
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        _end_swift(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _moto() -> Iterator[S3Server]:
    port = _free_ports([0])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = S3Server(f"http://127.0.0.1:{port}")
        for _ in range(100):
            with suppress(EndpointConnectionError):
                server.client.list_buckets()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()
