"""Who is left alone, and for how long, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.callbacks import throttle
from workers.webhooks.ssrf import site


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(throttle, "time", clock)
    throttle.forget()
    yield clock
    throttle.forget()


def rest_s(*names: str) -> float:
    return throttle.rest_s("acme", names)


def test_one_that_hangs_rests_for_a_minute(clock: Clock) -> None:
    """Under each of its names, for its tenant alone; a quick answer meanwhile is no excuse."""
    throttle.note("acme", ["a.example", "192.0.2.1"], 10, answered=False)
    throttle.note("acme", ["a.example"], 0.1, answered=True)
    assert (rest_s("a.example"), rest_s("b.example", "192.0.2.1"), rest_s("b.example")) == (60, 60, 0)
    assert throttle.rest_s("globex", ["a.example"]) == 0
    clock.now += 60
    assert rest_s("a.example") == 0


def test_a_quick_refusal_costs_nothing(clock: Clock) -> None:
    throttle.note("acme", ["a.example"], 0.5, answered=False)
    assert rest_s("a.example") == 0


def test_slow_answers_use_up_a_budget_that_comes_back(clock: Clock) -> None:
    """One or two are forgiven, a habit is not; quick answers in between do not refill it."""
    for _ in range(2):
        throttle.note("acme", ["a.example"], 2.5, answered=True)
    assert rest_s("a.example") == 0
    throttle.note("acme", ["a.example"], 1.9, answered=True)
    throttle.note("acme", ["a.example"], 2.5, answered=True)
    assert rest_s("a.example") == pytest.approx(15)
    clock.now += 15
    assert rest_s("a.example") == pytest.approx(0)


def test_a_minute_has_half_a_minute_for_callbacks(clock: Clock) -> None:
    """Over an hour of as many as there is leave for, each of five seconds."""
    spent = 0.0
    until = clock.now + 3600
    while clock.now < until:
        throttle.note("acme", [], 5, answered=True)
        spent += 5
        clock.now += 5 + throttle.busy_s()
    assert 1750 < spent < 1850


def test_ever_new_names_fill_no_memory(clock: Clock) -> None:
    """The oldest are forgotten."""
    for number in range(throttle.MOST + 10):
        throttle.note("acme", [f"{number}.example"], 10, answered=False)
    assert len(throttle._receivers) == throttle.MOST
    assert (rest_s("0.example"), rest_s(f"{throttle.MOST}.example")) == (0, 60)


@pytest.mark.parametrize(
    ("address", "known_by"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::c000:201", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_addresses_of_one_owner_are_one(address: str, known_by: str) -> None:
    assert site(address) == known_by
