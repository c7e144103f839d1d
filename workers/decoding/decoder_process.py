"""The worker's end of decoders' processes: how they are made, asked, and ended. `workers.decoding.decoder_child` is the
other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from workers.decoding import sandbox
from workers.decoding.decoder_protocol import COMMAND, END, GREETING, REPLY, REQUEST, START
from workers.errors import SettingsError

#: Variables that decoders get; all others could hold a secret.
HARMLESS = re.compile(
    r"PATH|LANG|LC_[A-Z]+|TMPDIR|[A-Z]+_NUM_THREADS|PYTHON[A-Z]*|PILLOW_[A-Z_]+|ORT_DISABLE_TELEMETRY"
)
#: The program of the template process; tests put another in its place.
PROGRAM = "workers.decoding.decoder_child"
#: A greeting is longer only where something is wrong; loading libraries takes seconds, on a busy machine more.
_MAX_GREETING, _START_LIMIT_S = 2**16, 300.0
#: Memory of a decoder that decodes nothing.
_LOOK_BYTES = 2**31


class Ended(Exception):
    """Raised where a decoder is no more, with the status that it ended with: as `subprocess` tells it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a decoder ended with status {status}")
        self.status = status


def look(wanted: sandbox.Wanted) -> sandbox.Cage:
    """Return what holds a decoder on this machine: one is made, asked, and ended.

    Raises:
        SettingsError: the cage is required, and this machine lacks some of it.
    """
    fork_server = ForkServer(_LOOK_BYTES, caged=wanted != "off")
    try:
        process = fork_server.make(None)
        process.end()
    except Ended as error:
        raise SettingsError(f"decoders cannot be started: {error}") from error
    finally:
        fork_server.close()
    process.cage.check(wanted)
    return process.cage


class ForkServer:
    """Makes decoders. Safe to share between threads; its process starts with the first of them, or by `start`."""

    def __init__(self, memory_bytes: int, *, caged: bool) -> None:
        self._memory_bytes = memory_bytes
        self._caged = caged
        self._template: _Template | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the template process, without waiting until it has loaded its libraries."""
        with self._lock:
            self._running()

    def make(self, tenant: object) -> DecoderProcess:
        """Return a new decoder, which has seen no photo; raises Ended where there is none to be had."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                template = self._running()
                process = template.ask(
                    COMMAND.pack(START, self._memory_bytes, template.threads, self._caged), theirs.fileno()
                )
            return DecoderProcess(ours, tenant, lambda: self._end(process, template))
        except BaseException:
            ours.close()
            raise

    def _end(self, process: int, template: _Template) -> int:
        with self._lock, suppress(Ended):
            if self._template is template and template.alive:
                return template.ask(COMMAND.pack(END, process, 0, 0))
        return -signal.SIGKILL  # the template process is gone, and so is this one

    def close(self) -> None:
        """End the template process, and with it all decoders."""
        with self._lock:
            if self._template:
                self._template.close()
                self._template = None

    def _running(self) -> _Template:
        if self._template is None or not self._template.alive:
            if self._template:
                self._template.close()
            self._template = _Template()
        return self._template


class _Template:
    """The process that decoders are forked from."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        variables = {name: value for name, value in os.environ.items() if HARMLESS.fullmatch(name)}
        # One thread, so that it can be forked; and modules are found where they are found here.
        variables |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())],
                env=variables,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._control.settimeout(_START_LIMIT_S)
        self.threads = sandbox.threads_allowed()
        self.close = weakref.finalize(self, _end, self._process, self._control)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, command: bytes, file: int | None = None) -> int:
        """Raise Ended where it is gone."""
        try:
            socket.send_fds(self._control, [command], [] if file is None else [file])
            reply = self._control.recv(REPLY.size, socket.MSG_WAITALL)
        except OSError:
            reply = b""
        if len(reply) < REPLY.size:
            self.close()
            raise Ended(self._process.returncode or 0)
        return int(REPLY.unpack(reply)[0])


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()  # it ends by itself, and its decoders with it
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Request:
    """A request to a decoder."""

    serial: int
    kind: int
    #: Bytes in the lent memory: of the parameters, and of what follows them.
    head: int
    size: int
    files: list[int]


class DecoderProcess:
    """One decoder, of one tenant. Of one thread at a time."""

    def __init__(self, channel: socket.socket, tenant: object, end: Callable[[], int]) -> None:
        self.tenant = tenant
        self._channel = channel
        self._end = end
        self._status: int | None = None
        weakref.finalize(self, channel.close)
        try:
            self.cage = self._greeting()
        except BaseException:
            self.end()
            raise

    def _greeting(self) -> sandbox.Cage:
        """Read it before the decoder has seen a photo."""
        deadline = time.monotonic() + _START_LIMIT_S
        try:
            (size,) = GREETING.unpack(self.read(GREETING.size, deadline))
            said = json.loads(self.read(min(size, _MAX_GREETING), deadline))
        except TimeoutError as error:  # no fault of a photo's
            raise self._ended() from error
        return sandbox.Cage(tuple(said["holds"]), tuple(said["lacks"]))

    def send(self, request: Request) -> None:
        """Ask; raises Ended."""
        message = REQUEST.pack(request.serial, request.kind, request.head, request.size)
        try:
            self._channel.settimeout(_START_LIMIT_S)
            socket.send_fds(self._channel, [message], request.files)
        except OSError as error:
            raise self._ended() from error

    def read(self, size: int, deadline: float) -> bytes:
        """Read so many bytes of its answer; raise TimeoutError or Ended."""
        found = bytearray()
        while len(found) < size:
            self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = self._channel.recv(size - len(found))
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                raise
            except OSError as error:
                raise self._ended() from error
            if not part:
                raise self._ended()
            found += part
        return bytes(found)

    @property
    def says_more(self) -> bool:
        """Whether it has written something unasked."""
        self._channel.settimeout(0)
        with suppress(OSError):
            return bool(self._channel.recv(1, socket.MSG_PEEK))
        return False

    def _ended(self) -> Ended:
        return Ended(self.end())

    def end(self) -> int:
        """End it, whatever it is at; the status that it ended with."""
        if self._status is None:
            self._channel.close()
            self._status = self._end()
        return self._status
