"""An engine in a child process, where there is no queue: `POST /v1/protect` on a machine alone.

The child runs a worker on a queue inside of it, and is asked by lines of JSON. It is started with the server, and anew
when it has died; all else, the ledger and how one waits for it, is as with a queue.
"""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from typing import Any

from producer.client import Client, Submitted
from workers.broker.app import EMBEDDED_BROKER
from workers.broker.embedded import embedded_worker
from workers.config.settings import load_settings
from workers.errors import BadRequest, WorkerError

log = logging.getLogger(__name__)

#: What begins an answer: libraries print, too.
MARK = "apf-answer "
#: Loading networks takes seconds, on a busy machine many.
PATIENCE_S = 60.0


class EngineDied(WorkerError):
    """Raised when the child has died, or does not answer. It is started anew for the next photo."""

    transient = True


class Engine:
    """The child, asked from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._child: subprocess.Popen[str] | None = None

    def submit(self, source: str, destination: str, **asked: Any) -> Submitted:
        """As `Client.submit`, for the child's own queue.

        Raises:
            EngineDied: the child has died, or does not answer.
            BadRequest: it refuses.
        """
        number, future = next(self._numbers), Future[dict[str, Any]]()
        line = json.dumps({"number": number, "source": source, "destination": destination, **asked})
        with self._lock:
            child = self._started()
            self._waiting[number] = future
            try:
                assert child.stdin  # noqa: S101  it is a pipe
                child.stdin.write(line + "\n")
                child.stdin.flush()
            except OSError as error:
                raise EngineDied("the engine has died: it is started anew, try again") from error
        try:
            answer = future.result(PATIENCE_S)
        except NotInTime:
            raise EngineDied(f"the engine did not answer within {PATIENCE_S:g} s: try again") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise BadRequest(answer["error"])
        return Submitted(answer["batch"], destination, 1)

    def stop(self) -> None:
        """End the child, once it has done what it has in hand."""
        with self._lock:
            child, self._child = self._child, None
        if child and child.stdin:
            with suppress(OSError):
                child.stdin.close()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            command = [sys.executable, "-m", "producer.server.engine"]
            self._child = subprocess.Popen(  # noqa: S603  our own module, no shell
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self._read, args=(self._child,), name="engine", daemon=True).start()
        return self._child

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout  # noqa: S101  it is a pipe
        with child.stdout:
            for line in child.stdout:
                if line.startswith(MARK):
                    answer = json.loads(line.removeprefix(MARK))
                    if waiting := self._waiting.get(answer["number"]):
                        waiting.set_result(answer)
        child.wait()
        for waiting in list(self._waiting.values()):
            with suppress(Exception):  # answered in this very moment
                waiting.set_exception(EngineDied("the engine has died: it is started anew, try again"))


def main() -> None:
    """Take requests from stdin until it ends."""
    settings = load_settings().model_copy(update={"broker_url": EMBEDDED_BROKER})
    client = Client(settings, actor="")  # nothing stays of such a photo, in the audit log neither
    with embedded_worker(client._app):
        for line in sys.stdin:
            asked = json.loads(line)
            number = asked.pop("number")
            try:
                answer = {"number": number, "batch": client.submit(**asked).batch}
            except Exception as error:
                answer = {"number": number, "error": str(error)}
            print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
