"""In which order queues are asked, and who waits in which."""

from __future__ import annotations

from collections import Counter

import pytest
from kombu.utils.scheduling import cycle_by_name

from workers.broker.queues import COLUMNS, ROWS, FairQueueOrder, all_queues, chosen, expanded, lane_queues


def served(waiting: dict[str, int], count: int) -> list[str]:
    """The queues that a worker takes its next messages from, as BRPOP does: the first that is not empty."""
    cycle = FairQueueOrder(all_queues())
    left, order = dict(waiting), []
    for _ in range(count):
        queue = next((name for name in cycle.consume(len(all_queues())) if left.get(name)), None)
        if queue is None:
            break
        left[queue] -= 1
        order.append(queue)
        cycle.rotate(queue)
    return order


def test_kombu_finds_the_cycle_by_its_name() -> None:
    assert isinstance(cycle_by_name("workers.broker.queues:FairQueueOrder")(), FairQueueOrder)


def test_every_queue_is_asked_once() -> None:
    cycle = FairQueueOrder(all_queues())
    assert sorted(cycle.consume(None)) == sorted(all_queues())
    assert len(set(all_queues())) == len(all_queues()) == 2 + ROWS * (1 + COLUMNS)
    assert cycle.consume(3) == cycle.consume(None)[:3]


def test_an_upload_overtakes_bulk_work_that_waits() -> None:
    assert served({"bulk.04.1": 9, "bulk": 9, "interactive.07": 1, "interactive": 1}, 3)[:2] == [
        "interactive",
        "interactive.07",
    ]


def test_tenants_get_equal_shares_whatever_their_batches() -> None:
    """One tenant with four long batches, one with one: half of the turns each, and the four share theirs alike."""
    waiting = {f"bulk.02.{column}": 100 for column in range(4)} | {"bulk.09.0": 100}
    turns = Counter(served(waiting, 80))
    assert turns.pop("bulk.09.0") == 40
    assert set(turns.values()) == {10}


def test_no_batch_waits_for_another_ones_end() -> None:
    """A short batch behind a long one of its own tenant."""
    order = served({"bulk.02.0": 1000, "bulk.02.1": 3}, 10)
    assert [turn for turn, queue in enumerate(order) if queue == "bulk.02.1"] == [0, 2, 4] or [
        turn for turn, queue in enumerate(order) if queue == "bulk.02.1"
    ] == [1, 3, 5]


def test_queues_that_come_and_go_keep_the_others_turns() -> None:
    cycle = FairQueueOrder(["bulk.00.0", "bulk.01.0", "bulk.02.0"])
    cycle.rotate("bulk.00.0")
    cycle.update(["bulk.00.0", "bulk.02.0", "bulk.03.0"])
    assert cycle.consume(9) == ["bulk.02.0", "bulk.00.0", "bulk.03.0"]
    cycle.rotate("one that nobody knows")
    assert cycle.consume(9) == ["bulk.02.0", "bulk.00.0", "bulk.03.0"]


def test_a_tenant_gets_a_row_of_its_own_while_there_is_one() -> None:
    occupants: dict[int, str] = {}
    lengths: dict[str, int] = {}
    for tenant in range(ROWS):
        row, queue, is_own = chosen("bulk", f"t{tenant}", occupants, lengths)
        assert is_own and row not in occupants
        occupants[row], lengths[queue] = f"t{tenant}", 5
    least = lane_queues("bulk")[7]
    lengths |= {queue: 1 for queue in least if lengths.get(queue)}
    assert chosen("bulk", "one too many", occupants, lengths)[::2] == (7, False), "shared, where least waits"
    idle = next(row for row in occupants if occupants[row] == "t3")
    for queue in lane_queues("bulk")[idle]:
        lengths[queue] = 0
    assert chosen("bulk", "one too many", occupants, lengths)[0] == idle, "its tenant has nothing that waits"
    assert chosen("bulk", "t5", occupants, lengths)[0] == next(r for r in occupants if occupants[r] == "t5")


def test_a_batch_goes_where_least_waits() -> None:
    row, queue, _ = chosen("bulk", "t", {}, {})
    waiting = dict.fromkeys(lane_queues("bulk")[row], 9) | {lane_queues("bulk")[row][2]: 4}
    assert chosen("bulk", "t", {row: "t"}, waiting) == (row, lane_queues("bulk")[row][2], True)
    assert queue in lane_queues("bulk")[row]


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        (["interactive"], all_queues(["interactive"])),
        (["bulk", "interactive"], [*all_queues(["bulk"]), *all_queues(["interactive"])]),
        (["bulk.03.1", "other"], ["bulk.03.1", "other"]),
    ],
)
def test_a_lane_stands_for_its_queues(named: list[str], meant: list[str]) -> None:
    assert expanded(named) == meant
