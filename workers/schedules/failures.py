"""Record a schedule's errors beside it: one that fails holds up no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from celery.exceptions import SoftTimeLimitExceeded

from apf.errors import ApfError
from workers.broker.client import BrokerError
from workers.config.settings import Settings
from workers.errors import WorkerError
from workers.schedules.lease import ScheduleLeaseLost
from workers.schedules.models import Problem
from workers.schedules.repository import ScheduleRepository, by_root

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]

#: A schedule's error is read by tenants, too, whom it does not concern where the queue is.
NO_QUEUE = "the queue cannot be used now: it is tried again, and the log says more"


def failing_last(settings: Settings, only: str | None) -> list[tuple[ScheduleRepository, str, bool]]:
    """Return the schedules to look at, and whether there is an error of each."""
    found: list[tuple[ScheduleRepository, str, bool]] = []
    for repository, names in by_root(settings, complain=_log_problem):
        found += [(repository, name, troubled) for name, troubled in names.items() if only in (None, name)]
    return sorted(found, key=lambda one: one[2])


def _log_problem(url: str, error: WorkerError) -> None:
    log.warning("schedules of %s cannot be listed: %s", url, error)


@contextmanager
def record_errors(repository: ScheduleRepository, name: str, now: Clock) -> Iterator[None]:
    """Keep an error beside the schedule, for `apf schedule list`, and let the others go on.

    Raises:
        SoftTimeLimitExceeded: the task's time is up; it is noted, too.
    """
    try:
        yield
    except ScheduleLeaseLost as error:
        log.info("%s", error)
    except SoftTimeLimitExceeded:
        problem = (
            "it could not be looked at within APF_SHARD_SOFT_LIMIT_S: raise it, or make a schedule for each prefix"
        )
        _note(repository, name, now, problem)
        raise
    except BrokerError as error:
        _note(repository, name, now, str(error), told=NO_QUEUE)
    except (WorkerError, ApfError) as error:
        _note(repository, name, now, str(error))
    except Exception as error:
        log.exception("schedule %s", name)
        _note(repository, name, now, f"{type(error).__name__}: {error}")


def _note(repository: ScheduleRepository, name: str, now: Clock, problem: str, told: str = "") -> None:
    log.warning("schedule %s is left for the next time: %s", name, problem)
    with suppress(WorkerError):  # the store itself is down
        repository.note(name, Problem(error=told or problem, at=now().isoformat(timespec="seconds")))
