"""How many cores a worker's process uses: the machine's are shared by the processes of `-c`."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import celeryd_init

from apf.cores import available_cores, use_cores
from workers.settings import Settings

#: From the parent to its children: how many processes there are.
PROCESSES = "_APF_PROCESSES"


@celeryd_init.connect
def note_processes(options: Any = None, **_: object) -> None:
    """In the parent."""
    os.environ[PROCESSES] = str((options or {}).get("concurrency") or 1)


def take_share(settings: Settings) -> None:
    """In whatever process runs the filter."""
    use_cores(settings.cores or available_cores() // int(os.environ.get(PROCESSES, "1")))
