"""The worker inside the command: what a task tries again is tried again there."""

from __future__ import annotations

import threading
from typing import Any

from workers.broker.app import make_app
from workers.broker.embedded import embedded_worker
from workers.config.settings import Settings
from workers.core.records import INTERACTIVE


def test_a_task_may_be_tried_again_and_again() -> None:
    """The first retry is sent from the worker's thread, the second from its timer's; neither may leave the process."""
    app = make_app(Settings())
    app.conf.imports = ()
    tries: list[int] = []
    done = threading.Event()

    @app.task(bind=True, name="tests.again")
    def again(self: Any, number: int) -> None:
        tries.append(number)
        if number == 2:
            done.set()
            return
        raise self.retry(args=[number + 1], countdown=0.2, max_retries=None)

    with embedded_worker(app):
        app.send_task("tests.again", args=[0], queue=INTERACTIVE)
        assert done.wait(20)
    assert tries == [0, 1, 2]
    app.close()
