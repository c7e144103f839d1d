"""What somebody who has taken a decoder over can still do: each try of the list, in the cage and without it."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from apf.errors import CorruptPhoto
from apf.photo import Limits, decode
from producer.cli import app
from producer.doctor import checks
from tests.benchmarks.processes import await_that
from tests.conftest import RedisServer, _without
from tests.workers.decoding.planted import MAGIC
from tests.workers.decoding.test_decoder_pool import GIBIBYTE, jpeg
from workers.config.settings import Settings
from workers.core.heap import _glibc
from workers.core.log_context import log_context as at
from workers.decoding import decoder_process
from workers.decoding.decoder_pool import Decoder
from workers.decoding.sandbox import Cage, Wanted
from workers.errors import SettingsError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a cage is Linux's")

#: Where clouds keep a machine's own credentials.
METADATA = ("169.254.169.254", 80)


@cache
def here() -> Cage:
    """What holds a decoder on this machine; CI requires all of it, as it does the services."""
    return decoder_process.look("best")


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    if not here().whole:
        _without("the cage", str(here()))
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.workers.decoding.planted")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


@contextmanager
def decoding(cage: Wanted, **more: float) -> Iterator[Decoder]:
    options = {"processes": 1, "limit_s": 20, "memory_bytes": 2 * GIBIBYTE, **more}
    decoder = Decoder(cage=cage, **options)  # type: ignore[arg-type]
    try:
        yield decoder
    finally:
        decoder.close()


def photo(code: str) -> bytes:
    """A whole JPEG, and what is run by the decoder that reads it."""
    return jpeg() + MAGIC + textwrap.dedent(code).encode()


def came_of(decoder: Decoder, code: str) -> str:
    """What the photo's owner is told."""
    with pytest.raises(CorruptPhoto) as told:
        decoder.decode(photo(code), Limits(), ())
    return str(told.value)


@dataclass(frozen=True)
class Around:
    """What is there to be attacked."""

    #: A process of the same user's, with a secret in its variables and its memory.
    victim: int
    redis: tuple[str, int]
    store: tuple[str, int]


SECRET = "hunter2-of-the-worker"


@pytest.fixture
def around(redis_server: RedisServer) -> Iterator[Around]:
    """A victim, a real Redis, and something that listens as a store does."""
    hold = "import sys; print('ready', flush=True); sys.stdin.read()"
    variables = {**os.environ, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (
        socket.create_server(("127.0.0.1", 0)) as store,
        subprocess.Popen(
            [sys.executable, "-c", hold], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim,
    ):
        assert victim.stdout is not None
        victim.stdout.readline()
        yield Around(victim.pid, ("127.0.0.1", redis_server.port), store.getsockname())
        victim.kill()


#: Code by name. It sets `said` where it got what it wanted.
ATTACKS: dict[str, Callable[[Around], str]] = {
    "read a file": lambda _: "said = open('/etc/passwd').read()[:20]",
    "write a file": lambda _: (
        "said = open('/tmp/planted-by-a-photo', 'w').write('x'); os.unlink('/tmp/planted-by-a-photo')"
    ),
    "list a folder": lambda _: "said = os.listdir('/')[0]",
    "read the worker's variables": lambda at: (
        f"""
        found = open('/proc/{at.victim}/environ').read()
        said = {SECRET!r} in found and 'the secret' or found
    """
    ),
    "open the worker's memory": lambda at: f"said = open('/proc/{at.victim}/mem', 'rb').fileno()",
    "trace the worker": lambda at: (
        f"""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(16, {at.victim}, 0, 0): raise OSError(ctypes.get_errno(), 'ptrace')
        os.waitpid({at.victim}, 0x40000000); libc.ptrace(17, {at.victim}, 0, 0); said = 'attached'
    """
    ),
    "read the worker's descriptors": lambda at: f"said = os.listdir('/proc/{at.victim}/fd')[0]",
    "connect to Redis": lambda at: (
        f"""
        talk = socket.create_connection({at.redis!r}, 5); talk.sendall(b'PING\\r\\n'); said = talk.recv(9)
    """
    ),
    "connect to the store": lambda at: f"said = socket.create_connection({at.store!r}, 5)",
    "ask for the machine's role": lambda _: (
        f"""
        talk = socket.socket(); talk.settimeout(1)
        try: talk.connect({METADATA!r})
        except OSError: pass  # none here, but it was asked
        said = 'asked'
    """
    ),
    "speak UDP": lambda _: "said = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "make a Unix socket": lambda _: "said = socket.socketpair()",
    "run a program": lambda _: "said = subprocess.run(['/bin/true']).returncode == 0",
    "become a program": lambda _: "os.execv('/bin/true', ['true'])",
    "fork": lambda _: (
        """
        children = [os.fork() for _ in range(1)]
        if not children[0]: os._exit(0)
        os.waitpid(children[0], 0); said = 'forked'
    """
    ),
    "kill the worker": lambda at: f"os.kill({at.victim}, 9); said = 'killed'",
    "stop the worker by a thread": lambda at: (
        f"""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(234, {at.victim}, {at.victim}, 10): raise OSError(ctypes.get_errno(), 'tgkill')
        said = 'signalled'
    """
    ),
    "live on without the worker": lambda _: (
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(1, 0, 0, 0, 0): raise OSError(ctypes.get_errno(), 'prctl')
        said = 'no longer ends with it'
    """
    ),
    "run code that it wrote": lambda _: (
        """
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); said = 'executable memory'
    """
    ),
    "open many files": lambda _: "said = len([os.dup(3) for _ in range(1000)])",
    "take more memory": lambda _: (
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); said = 'no limit'
    """
    ),
}
#: What is forbidden without a cage, too: the limits hold there. And what ends the decoder itself.
LIMITED = ("open many files", "take more memory")
#: What ends the decoder at once, and is counted as an attack.
DEADLY = (
    *("trace the worker", "connect to Redis", "connect to the store", "ask for the machine's role", "speak UDP"),
    *("make a Unix socket", "become a program", "kill the worker"),
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_can_do_nothing_but_decode(attack: str, around: Around) -> None:
    """In the cage every try fails, the worker and its neighbour live, and the next photo is right."""
    with decoding("require") as decoder:
        told = came_of(decoder, ATTACKS[attack](around))
        if attack in DEADLY:
            assert told.startswith("its decoder died 3 times"), told
        else:
            assert told.startswith(("refused: PermissionError", "refused: OSError", "refused: ValueError")), told
        assert psutil.Process(around.victim).status() != psutil.STATUS_ZOMBIE
        np.testing.assert_array_equal(decoder.decode(jpeg(), Limits(), ()).pixels, decode(jpeg()).pixels)


@pytest.mark.rotating
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in LIMITED])
def test_without_a_cage_it_could(attack: str, around: Around) -> None:
    """The same tries succeed where there is no cage, as before there was one: they are real."""
    with decoding("off") as decoder:
        told = came_of(decoder, ATTACKS[attack](around))
    became_another = "its decoder died 3 times"
    assert told.startswith(became_another if attack == "become a program" else "did: "), told


#: What a decoder could answer instead of a photo. `serial` is the request's number.
LIES = {
    "a pickle": """
        class Evil:
            def __reduce__(self): return os.system, ('touch /tmp/unpickled-by-a-worker',)
        os.write(3, pickle.dumps((0, Evil())).ljust(decoder_answers.SIZE, b'.')); time.sleep(60)
    """,
    "a header that is too large": """
        head = decoder_answers.Head(frame['serial'], 2, 0, 0, 2**31, 2**31, output=2**63)
        os.write(3, decoder_answers._FORM.pack(*head)); time.sleep(60)
    """,
    "counts without end": """
        head = decoder_answers.Head(frame['serial'], 2, 0, 0, 1, 1, output=3, predictor=1, text=2**32 - 1)
        os.write(3, decoder_answers._FORM.pack(*head)); [os.write(3, bytes(2**20)) for _ in range(5000)]
    """,
    "the answer of another request": """
        head = decoder_answers.Head(frame['serial'] + 1, 2, 0, 0, 512, 512, output=512 * 512 * 3, predictor=1)
        os.write(3, decoder_answers._FORM.pack(*head)); time.sleep(60)
    """,
    "more pixels than there is room for": """
        head = decoder_answers.Head(frame['serial'], 2, 0, 0, 20000, 10001, output=20000 * 10001 * 3, predictor=1)
        os.write(3, decoder_answers._FORM.pack(*head)); time.sleep(60)
    """,
    "two answers": """
        real = decoder_answers.pack_photo
        def pack_photo(serial, photo): return real(serial, photo) + real(serial + 1, photo)
        decoder_answers.pack_photo = pack_photo
        raise StopIteration
    """,
    "a colour profile with somebody's face": """
        real = decoder_answers.pack_photo
        decoder_answers.pack_photo = lambda serial, photo: real(serial, replace(photo, icc=b'x' * 4096))
        raise StopIteration
    """,
    "tags that nobody asked for": """
        real = decoder_answers.pack_photo
        tags = b'Exif' + bytes(2) + b'MM' + bytes([0, 42, 0, 0, 0, 8]) + bytes(64)
        decoder_answers.pack_photo = lambda serial, photo: real(serial, replace(photo, exif=tags))
        raise StopIteration
    """,
}


@pytest.mark.parametrize("lie", LIES)
def test_what_it_answers_is_not_believed(lie: str, caplog: pytest.LogCaptureFixture) -> None:
    """A false answer costs the liar its decoder: nothing is unpickled or allocated, and the next photo is right."""
    before = psutil.Process().memory_info().rss
    with decoding("require") as decoder:
        told = came_of(decoder, LIES[lie])
        assert told.startswith("its decoder died 3 times"), told
        assert "answered what none does" in caplog.text
        np.testing.assert_array_equal(decoder.decode(jpeg(), Limits(), ()).pixels, decode(jpeg()).pixels)
    assert not Path("/tmp/unpickled-by-a-worker").exists()
    assert psutil.Process().memory_info().rss - before < 200 * 2**20


def test_another_photos_pixels_stay_as_they_are() -> None:
    """A decoder that keeps what it was lent can neither write to it later, nor to the memory of a photo beside it."""
    hold = "os.close = kept.append; raise StopIteration"
    write = """
        for file in range(4, 16):
            try: os.pwrite(file, b'\\xff' * 100_000, 0); said = f'{said} {file}'
            except OSError: pass
    """
    with decoding("require", processes=2) as decoder:
        beside = decoder.decode(jpeg(), Limits(), ())
        first = decoder.decode(photo(hold), Limits(), ())
        before = first.pixels.copy()
        mine = came_of(decoder, write)
        assert mine.startswith("did: nothing "), "it wrote to what was lent for this very photo"
        assert len(mine.split()) == 3, "and to that alone"
        np.testing.assert_array_equal(first.pixels, before)
        np.testing.assert_array_equal(beside.pixels, before)


@pytest.mark.skipif(_glibc("mallopt") is None, reason="glibc alone keeps freed memory when asked to")
def test_an_encoder_keeps_memory_until_it_is_idle_and_a_decoder_none() -> None:
    """In the cage a large photo leaves its memory to the next that is encoded, for a while; what decodes keeps none."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(buffer, "JPEG")
    with decoding("require") as decoder:
        small = decoder.decode(jpeg(), Limits(), ())
        decoder.encode(small, small.pixels, jpeg_floor_quality=75)
        template = decoder._fork_server._template
        assert template is not None
        decodes, encodes = psutil.Process(template._process.pid).children()
        before = [process.memory_info().rss for process in (decodes, encodes)]

        def held() -> list[float]:
            return [
                (process.memory_info().rss - own) / 2**20
                for process, own in zip((decodes, encodes), before, strict=True)
            ]

        large = decoder.decode(buffer.getvalue(), Limits(), ())
        decoder.encode(large, large.pixels, jpeg_floor_quality=75)
        assert held()[0] < 20 and held()[1] > 40
        await_that(lambda: held()[1] < 20, 20, "the memory is given back")
        np.testing.assert_array_equal(decoder.decode(jpeg(), Limits(), ()).pixels, decode(jpeg()).pixels)
        decoder.encode(small, small.pixels, jpeg_floor_quality=75)


def test_what_is_still_open_for_writing_is_not_read() -> None:
    """Without the cage a decoder can map what it is lent: then it cannot be sealed, and the answer is not taken."""
    code = """
        file = frame['files'][1]
        kept.append(mmap.mmap(file, 4096))
        raise StopIteration
    """
    with decoding("off") as decoder:
        assert came_of(decoder, code).startswith("its decoder died 3 times")
    with decoding("require") as decoder:
        assert came_of(decoder, code).startswith("refused: PermissionError")


def test_it_holds_its_channel_and_its_memory_alone() -> None:
    """Of descriptors a decoder has /dev/null, the worker's end and what it is lent."""
    code = """
        said = []
        for file in range(64):
            try: os.pread(file, 1, 0); said.append(file)
            except OSError as error:
                if error.errno != 9: said.append(file)
    """
    with decoding("require") as decoder:
        assert came_of(decoder, code) == "did: [0, 1, 2, 3, 4, 5]"


def test_it_is_counted_as_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try that the cage ended, and each false answer, is a count of its own."""
    counted: list[str] = []
    monkeypatch.setattr("workers.telemetry.metrics.add", lambda name, **labels: counted.append(labels["reason"]))
    with decoding("require") as decoder:
        came_of(decoder, "os.execv('/bin/true', ['true'])")
        came_of(decoder, LIES["the answer of another request"])
    assert counted == ["caged"] * 3 + ["invalid"] * 3


def test_a_caged_decoder_ends_with_its_worker() -> None:
    """A worker that is killed while a photo holds its decoder forever leaves nothing behind."""
    code = (
        "import sys; from tests.workers.decoding.test_sandbox import photo; from apf.photo import Limits\n"
        "from workers.decoding import decoder_process; decoder_process.PROGRAM = 'tests.workers.decoding.planted'\n"
        "from workers.decoding.decoder_pool import Decoder\n"
        "d = Decoder(processes=1, limit_s=600, memory_bytes=2**31, cage='require'); d.check()\n"
        "print('ready', flush=True); d.decode(photo('while True: time.sleep(600)'), Limits(), ())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        time.sleep(1)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.fixture
def _old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "PROGRAM", "tests.workers.uncaged")


@pytest.mark.usefixtures("_old_kernel")
def test_where_the_kernel_lacks_it_a_required_cage_refuses() -> None:
    """Nothing is decoded, and what is missing is named with its cure."""
    with decoding("require") as decoder:
        with pytest.raises(SettingsError, match=r"APF_DECODER_CAGE is require, .* without Landlock .* Linux 5\.13"):
            decoder.check()
        with pytest.raises(SettingsError, match="APF_DECODER_CAGE"):
            decoder.decode(jpeg(), Limits(), ())


@pytest.mark.usefixtures("_old_kernel")
def test_where_the_kernel_lacks_it_the_best_is_taken_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are decoded by what holds there, and metric and doctor say what does not."""
    said: list[str] = []
    monkeypatch.setattr("workers.telemetry.metrics.put", lambda name, value, **labels: said.append(labels["held"]))
    with decoding("best") as decoder:
        assert decoder.decode(jpeg(), Limits(), ()).pixels.shape == (512, 512, 3)
    assert said == ["part"]
    alone = checks._cage(Settings())
    assert alone.ok
    assert "without Landlock" in alone.detail
    assert not checks._cage(Settings(broker_url="redis://localhost")).ok
    refused = checks._cage(Settings(decoder_cage="require"))
    assert not refused.ok
    assert "set it to best" in refused.detail


def test_the_doctor_shows_the_cage() -> None:
    """It names what holds a decoder here; and says so where it is switched off."""
    found = checks._cage(Settings(broker_url="redis://localhost", decoder_cage="require"))
    assert found.ok
    assert re.fullmatch(r"no new privileges; Landlock \(ABI \d+\); seccomp", found.detail)
    off = checks._cage(Settings(broker_url="redis://localhost", decoder_cage="off"))
    assert not off.ok
    assert "APF_DECODER_CAGE is off" in off.detail


@pytest.mark.usefixtures("_old_kernel")
def test_a_worker_without_a_required_cage_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`apf worker` ends with the reason before it takes a shard."""
    monkeypatch.setenv("APF_BROKER_URL", "redis://localhost:1/0")
    monkeypatch.setenv("APF_ALLOWED_URLS", "*")
    monkeypatch.setenv("APF_DECODER_CAGE", "require")
    ran = CliRunner().invoke(app, ["worker"])
    assert ran.exit_code
    assert "APF_DECODER_CAGE is require" in " ".join(ran.output.split())


def test_no_decoder_serves_two_tenants() -> None:
    """What one tenant's photo does to its decoder, another's photo does not meet; the same tenant's does."""
    spoil = "globals()['photos'].spoilt = True; decoder_answers.spoilt = True; raise StopIteration"
    ask = "said = hasattr(decoder_answers, 'spoilt')"
    with decoding("require") as decoder:
        with at(tenant="mallory"):
            decoder.decode(photo(spoil), Limits(), ())
            assert came_of(decoder, ask) == "did: True"
        with at(tenant="ann"):
            assert came_of(decoder, ask) == "did: False"
        with at(tenant="mallory"):
            assert came_of(decoder, ask) == "did: False", "nor does it wait for its own to come back"


def test_what_decodes_never_encodes() -> None:
    """A decoder that was taken over is not asked to write what is published."""
    with decoding("require") as decoder:
        kept = decoder.decode(photo("decoder_answers.spoilt = photos.encode = None; raise StopIteration"), Limits(), ())
        assert decoder.encode(kept, kept.pixels, jpeg_floor_quality=75)[:2] == b"\xff\xd8"


@pytest.mark.parametrize(("layer", "said"), [("_enter_landlock", "13 13"), ("_enter_seccomp", "1 SIGSYS")])
def test_each_layer_holds_alone(layer: str, said: str) -> None:
    """Landlock refuses files and connections where there is no seccomp, and the other way round."""
    code = f"""
        import os, socket
        from workers.decoding import sandbox as cage
        cage.prepare()
        cage._prctl(38, 1)
        cage.{layer}()
        try: open('/etc/passwd')
        except OSError as error: os.write(1, b'%d ' % error.errno)
        try: socket.socket().connect(('127.0.0.1', 9))
        except OSError as error: os.write(1, b'%d' % error.errno)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False)
    ended = "SIGSYS" if ran.returncode == -signal.SIGSYS else ""
    assert ran.stdout.decode() + ended == said, ran.stderr
