"""An engine that is cheap and deterministic, for tests of everything around the filter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from apf.errors import CorruptPhoto
from apf.photo import Header
from apf.runtime.stage_clock import StageClock
from workers.broker.queue_state import QueueSnapshot
from workers.core.records import ShardJob
from workers.execution.engine import Cost, cost_of


@dataclass(frozen=True)
class FakePhoto:
    data: bytes


@dataclass(frozen=True)
class FakeProtected:
    photo: FakePhoto
    outcome: str
    faces: tuple[int, ...]


@dataclass
class FakeEngine:
    """Photos are text: `corrupt`, `poison` (fails in the filter), `empty` (no face), anything else has two faces."""

    pixels: int = 1000
    lanes: int = 1
    decode_s: float = 0.0
    batches: list[int] = field(default_factory=list)
    decoded_at_once: int = 0
    _alive: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def estimate_cost(self, data: bytes) -> Cost:
        if data.startswith(b"corrupt"):
            raise CorruptPhoto("the picture ends too early: save it again")
        return cost_of(Header(format="JPEG", width=self.pixels, height=1))

    def decode(self, data: bytes) -> Any:
        with self._lock:
            self._alive += 1
            self.decoded_at_once = max(self.decoded_at_once, self._alive)
        time.sleep(self.decode_s)
        return FakePhoto(data)

    def protect(self, photos: Sequence[Any], clock: StageClock) -> list[Any]:
        self.batches.append(len(photos))
        if any(photo.data.startswith(b"poison") for photo in photos):
            raise RuntimeError("the filter broke")
        with clock.stage("gradient"):
            return [self._protected(photo) for photo in photos]

    def _protected(self, photo: FakePhoto) -> FakeProtected:
        faces = () if photo.data.startswith(b"empty") else (1, 2)
        return FakeProtected(photo, "protected" if faces else "no_face", faces)

    def encode(self, protected: Any) -> bytes:
        with self._lock:
            self._alive -= 1
        return b"protected:" + bytes(protected.photo.data)


@dataclass
class FakeBroker:
    """A queue that holds what it is said to hold. Without `callback` and `plan` it is as an embedded one: the caller
    plans.
    """

    send: Callable[[ShardJob], object] = lambda job: None
    state: QueueSnapshot = field(default_factory=lambda: QueueSnapshot(queued={}, taken=()))
    callback: Callable[[str], object] | None = None
    plan: Callable[[str], object] | None = None

    @property
    def embedded(self) -> bool:
        return self.callback is None and self.plan is None

    def queue_state(self) -> QueueSnapshot:
        return self.state

    def choose_queue(self, lane: str, tenant: str) -> str:
        return ""

    def keep_row(self, batch: object) -> None:
        """It has no rows."""
