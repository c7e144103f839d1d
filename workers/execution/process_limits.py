"""CPU and memory limits of one worker process."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import celeryd_init

from apf.runtime.cores import available_cores, cores, use_cores
from workers.config.settings import Settings
from workers.core.heap import limit_heaps

#: Of 16 MiB each, which Pillow keeps: getting fresh memory for a large photo takes longer than filling it.
KEPT_BLOCKS = 32
#: Of the C library; more cost memory, and save no time: most allocations are small, from a thread's own cache.
LEAST_HEAPS = 2
#: From the parent to its children: how many processes there are.
PROCESSES = "_APF_PROCESSES"


@celeryd_init.connect
def note_processes(options: Any = None, **_: object) -> None:
    """In the parent."""
    os.environ[PROCESSES] = str((options or {}).get("concurrency") or 1)


def take_share(settings: Settings) -> None:
    """In whatever process runs the filter, before Pillow is loaded."""
    os.environ.setdefault("PILLOW_BLOCKS_MAX", str(KEPT_BLOCKS))
    use_cores(settings.cores or available_cores() // int(os.environ.get(PROCESSES, "1")))
    limit_heaps(max(LEAST_HEAPS, cores() // 2))
