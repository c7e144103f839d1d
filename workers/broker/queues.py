"""Queues of lanes and tenants, and the fair order in which a worker polls them.

    interactive          tasks about batches, and shards of producers that know no lanes; always asked first
    interactive.RR       uploads, a row for each tenant
    bulk                 shards of producers that know no lanes
    bulk.RR.C            all other work, a row for each tenant, a column for each of its batches

Within a lane rows take turns, and within a row its columns: a tenant's share does not grow with its batches, nor a
batch's with its photos. Where more tenants have work waiting than there are rows, some share one, and its turns; so do
a tenant's batches where more wait than there are columns, and its uploads.

However many uploads wait, bulk work gets its share of the worker's time (`workers.broker.fairness`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from workers.broker.fairness import BulkCredit
from workers.core.records import BULK, INTERACTIVE, Batch, Lane

ROWS, COLUMNS = 16, 4
#: A hash in Redis for each lane, under the prefix: the tenant of each row, as `occupant` names it.
TENANTS = "apf-tenants"


def occupant(tenant: str) -> str:
    """Return a tenant's name in Redis."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]


def lane_queues(lane: Lane) -> list[list[str]]:
    """Return the lane's queues by row, without the one that is not a tenant's."""
    if lane == INTERACTIVE:
        return [[f"{INTERACTIVE}.{row:02}"] for row in range(ROWS)]
    return [[f"{BULK}.{row:02}.{column}" for column in range(COLUMNS)] for row in range(ROWS)]


def all_queues(lanes: Iterable[Lane] = (INTERACTIVE, BULK)) -> list[str]:
    """Every queue of these lanes."""
    return [name for lane in lanes for name in (lane, *(queue for row in lane_queues(lane) for queue in row))]


def queue_of(batch: Batch) -> str:
    """Return the queue of the batch's shards: the one that was chosen for it, or by the hashes of its tenant and its
    id.
    """
    if batch.queue:
        return batch.queue
    row = lane_queues(batch.lane)[number(batch.tenant) % ROWS]
    return row[number(batch.id) % len(row)]


def chosen(lane: Lane, tenant: str, occupants: Mapping[int, str], lengths: Mapping[str, int]) -> tuple[int, str, bool]:
    """Return the tenant's own row, where there is one, else the emptiest; in it the emptiest queue; whether it is its
    own.

    Args:
        occupants: the tenant that was last given each row.
        lengths: messages in each of the lane's queues; what is missing is empty.
    """
    rows = lane_queues(lane)
    first = number(tenant) % ROWS
    order = [(first + step) % ROWS for step in range(ROWS)]

    def waiting(row: int) -> int:
        return sum(lengths.get(queue, 0) for queue in rows[row])

    mine = [row for row in order if occupants.get(row) == tenant]
    own = [*mine, *(row for row in order if row not in occupants or not waiting(row))]
    row = own[0] if own else min(order, key=waiting)
    return row, min(rows[row], key=lambda queue: lengths.get(queue, 0)), bool(own)


def number(text: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


class FairQueueOrder:
    """The order in which a worker asks its queues, as Kombu's `queue_order_strategy` wants it."""

    #: Bulk work's, and the queues of what the worker has in hand: set where a worker starts, as Kombu gives nothing.
    share: ClassVar[float] = 0.25
    in_hand: ClassVar[Callable[[], Sequence[str]]] = staticmethod(lambda: ())
    #: Turns that a row gets before the next one has its own, by lane and row, where they are not one.
    weights: ClassVar[Mapping[tuple[str, str], int]] = {}

    def __init__(self, queues: Iterable[str] | None = None) -> None:
        #: Queues by lane and row; rows and their columns stand in the order of their turns.
        self._lanes: dict[str, dict[str, list[str]]] = {}
        #: Turns that rows have had since the others had theirs.
        self._had: dict[tuple[str, str], int] = {}
        self._owed = BulkCredit(self.share)
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        """Set the queues that are polled from now on; those that were asked before keep their turns."""
        wanted = set(queues)
        known = [queue for rows in self._lanes.values() for row in rows.values() for queue in row]
        kept = [queue for queue in known if queue in wanted]
        self._lanes = {INTERACTIVE: {}, BULK: {}}
        for queue in [*kept, *sorted(wanted - set(known))]:
            lane, _, rest = queue.partition(".")
            self._lanes.setdefault(lane, {}).setdefault(rest.partition(".")[0], []).append(queue)

    def consume(self, n: int | None) -> list[str]:
        """Return the first n queues to ask; None for all."""
        lanes = [[queue for row in rows.values() for queue in row] for rows in self._lanes.values()]
        self._owed.tick(FairQueueOrder.in_hand())
        if self._owed.is_turn:
            lanes = [*lanes[1:], *lanes[:1]]
        return [queue for lane in lanes for queue in lane][:n]

    def rotate(self, last_used: str) -> str:
        """Note that a message came from this queue: its column has had its turn, and its row one of its turns."""
        lane, _, rest = last_used.partition(".")
        self._owed.tick([*FairQueueOrder.in_hand(), last_used], begins=last_used)
        rows = self._lanes.get(lane, {})
        row = rest.partition(".")[0]
        if row and last_used in rows.get(row, ()):
            rows[row].remove(last_used)
            rows[row].append(last_used)
            had = self._had.pop((lane, row), 0) + 1
            if had < FairQueueOrder.weights.get((lane, row), 1):
                self._had[lane, row] = had
            else:
                rows[row] = rows.pop(row)
        return last_used


def expanded(names: Sequence[str]) -> list[str]:
    """Return a worker's queues by name, with a lane's name standing for all of its queues."""
    found = (all_queues([lane]) if (lane := _lane(name)) else [name] for name in names)
    return [queue for queues in found for queue in queues]


def _lane(name: str) -> Lane | None:
    match name:
        case "interactive" | "bulk":
            return name
        case _:
            return None
