"""Schedules in the object store: Redis may be flushed, and no clock has anything to remember.

    <root>/.apf/schedules/<name>/schedule.json   what was asked; commands write it
                                /last.json       its state; written by the holder of the lease alone
                                /error.json      why it could not be looked at
                                /turn.json       the lease (`workers.schedules.lease`)

The root is that of the destination's open batches (`workers.ledger.open_batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from pydantic import BaseModel

from workers.config.access import EVERYTHING
from workers.config.settings import Settings
from workers.core.records import parse
from workers.errors import LedgerError, NewerRecord, NotFound, StoreGone, WorkerError
from workers.schedules.models import NAME, Problem, Schedule, State
from workers.store import Store, canonical_url, inside, is_bucket, open_store

FOLDER = ".apf/schedules/"

#: Told of a root that cannot be listed.
Complain = Callable[[str, WorkerError], None]


class ScheduleRepository:
    """The schedules of one root. All methods raise StoreError when the store refuses."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> dict[str, bool]:
        """Return the schedules' names, and whether there is an error of each: one listing."""
        files: dict[str, set[str]] = {}
        for info in self.store.list(FOLDER):
            name, _, file = info.key.removeprefix(FOLDER).partition("/")
            files.setdefault(name, set()).add(file)
        there = {name: found for name, found in files.items() if "schedule.json" in found and NAME.fullmatch(name)}
        return {name: "error.json" in found for name, found in there.items()}

    def read(self, name: str) -> Schedule:
        """Raise LedgerError where there is none, or where it does not validate."""
        data = self.read_bytes(name, "schedule.json")
        if data is None:
            raise LedgerError(f"there is no schedule {name!r}: `apf schedule list` shows all")
        return parse(Schedule, data, LedgerError, f"schedule {name}")

    def write(self, schedule: Schedule) -> None:
        self.put(schedule.name, "schedule.json", schedule)

    def state(self, name: str) -> State:
        """Return what became of it; a torn record is as good as none: the next run looks at every photo.

        Raises:
            NewerRecord: a newer version wrote it.
        """
        data = self.read_bytes(name, "last.json")
        try:
            return parse(State, data, LedgerError, f"last.json of schedule {name}") if data else State()
        except NewerRecord:
            raise
        except LedgerError:
            return State()

    def write_state(self, name: str, state: State) -> None:
        self.put(name, "last.json", state)

    def problem(self, name: str) -> Problem | None:
        data = self.read_bytes(name, "error.json")
        with suppress(LedgerError):  # torn
            return parse(Problem, data, LedgerError, "error.json") if data else None
        return None

    def note(self, name: str, problem: Problem) -> None:
        self.put(name, "error.json", problem)

    def forget_problem(self, name: str) -> None:
        self.store.delete(self.key(name, "error.json"))

    def remove(self, name: str) -> None:
        """All of it, the schedule first: what is left without it counts as nothing."""
        for file in ("schedule.json", "last.json", "error.json", "turn.json"):
            self.store.delete(self.key(name, file))

    def key(self, name: str, file: str) -> str:
        """Raise LedgerError where no schedule can have this name."""
        if not NAME.fullmatch(name):
            raise LedgerError(f"{name!r} is no schedule's name: use a-z, 0-9, dots, hyphens and underscores")
        return f"{FOLDER}{name}/{file}"

    def read_bytes(self, name: str, file: str) -> bytes | None:
        try:
            return self.store.get(self.key(name, file)).data
        except StoreGone:
            raise
        except NotFound:
            return None

    def put(self, name: str, file: str, record: BaseModel) -> None:
        data = record.model_dump_json(indent=1).encode()
        self.store.put(self.key(name, file), data, content_type="application/json")


def roots_of_schedules(settings: Settings) -> list[str]:
    """Where schedules may lie.

    Raises:
        LedgerError: no setting says so.
    """
    urls = [settings.ledger_root] if settings.ledger_root else (settings.allowed_urls or "").split()
    found = [url for url in urls if url != EVERYTHING]
    if not found:
        raise LedgerError(
            "nothing says where schedules are kept: set APF_ALLOWED_URLS to buckets and folders (not *), or "
            "APF_LEDGER_URL to one, alike for workers and commands"
        )
    return found


def former_roots(settings: Settings) -> list[str]:
    """Where schedules were kept before APF_LEDGER_URL was set: they are shown, and fire once they are moved."""
    if not settings.ledger_root:
        return []
    own = canonical_url(settings.ledger_root)
    return [url for url in (settings.allowed_urls or "").split() if url != EVERYTHING and canonical_url(url) != own]


def repository_for(destination: str, settings: Settings) -> ScheduleRepository:
    """Where a schedule into this destination lies.

    Raises:
        LedgerError: the settings name no place that would be looked at.
    """
    place, looked = canonical_url(destination), [canonical_url(url) for url in roots_of_schedules(settings)]
    within = looked if settings.ledger_root else [url for url in looked if inside(place, url)]
    if not within:
        raise LedgerError(
            f"{place} lies under none of {', '.join(looked)}, where schedules are kept: add its bucket or folder to "
            "APF_ALLOWED_URLS, or set APF_LEDGER_URL"
        )
    root = max(within, key=len)
    return ScheduleRepository(open_store(root, s3=settings.s3, create=True))


def all_schedules(settings: Settings) -> Iterator[tuple[ScheduleRepository, str]]:
    """Every schedule's place and name, by root; raises as `by_root`."""
    for repository, names in by_root(settings):
        yield from ((repository, name) for name in names)


def by_root(
    settings: Settings, complain: Complain | None = None
) -> Iterator[tuple[ScheduleRepository, dict[str, bool]]]:
    """Each root's schedules, as `ScheduleRepository.names`. Roots that cannot be listed go to `complain`, if given.

    Raises:
        LedgerError: no setting says where schedules lie.
        StoreError: a root cannot be listed, and there is no `complain`.
    """
    former = former_roots(settings)
    for url in dict.fromkeys([*roots_of_schedules(settings), *former]):
        try:
            repository = ScheduleRepository(open_store(url, s3=settings.s3))
            names = repository.names()
        except NotFound as error:
            if not is_bucket(url) or url in former:
                continue  # a folder that is not made yet
            _tell(complain, url, error)
        except WorkerError as error:
            if url not in former:  # a source that may not be listed, or not now
                _tell(complain, url, error)
        else:
            yield repository, names


def _tell(complain: Complain | None, url: str, error: WorkerError) -> None:
    if complain is None:
        raise error
    complain(url, error)


def find_schedule(name: str, settings: Settings) -> ScheduleRepository:
    """Where the schedule of this name lies.

    Raises:
        LedgerError: there is none.
    """
    repository = next((repository for repository, found in all_schedules(settings) if found == name), None)
    if repository is None:
        raise LedgerError(f"there is no schedule {name!r}: `apf schedule list` shows all")
    return repository
