"""A snapshot of the queues: messages by queue, and shards that are delivered and not acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from workers.core.records import ShardJob


@dataclass(frozen=True)
class QueueSnapshot:
    """The messages that the broker holds."""

    #: Messages by queue; what is missing is empty.
    queued: Mapping[str, int]
    #: Shards that were given to workers and are not acknowledged, a dead worker's among them.
    taken: Sequence[ShardJob]
    #: Reads what the messages of these queues say, which costs as much as there are.
    jobs: Callable[[Iterable[str]], Iterable[ShardJob]] = field(default=lambda queues: (), compare=False)
