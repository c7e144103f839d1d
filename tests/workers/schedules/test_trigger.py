"""When a schedule is due: on the calendar, across changes of the clocks, and from any moment on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.schedules.trigger import Trigger, seconds, span

LONG_AGO = "2000-01-01T00:00:00+00:00"


def cron(line: str, zone: str = "UTC", first: str = LONG_AGO) -> Trigger:
    return Trigger(cron=line, timezone=zone, first=first)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def between(trigger: Trigger, start: str, end: str) -> list[str]:
    """The trigger's moments after `start` up to `end`, in UTC."""
    found, moment = [], trigger.following(at(start))
    while moment <= at(end):
        found.append(f"{moment:%Y-%m-%dT%H:%M}")
        moment = trigger.following(moment)
    return found


@pytest.mark.parametrize(
    ("line", "moments"),
    [
        ("0 3 * * *", ["2026-05-01T03:00", "2026-05-02T03:00", "2026-05-03T03:00", "2026-05-04T03:00"]),
        ("30 */12 * * *", [f"2026-05-0{day}T{hour}:30" for day in (1, 2, 3, 4) for hour in ("00", "12")]),
        ("0 0 * * mon", ["2026-05-04T00:00"]),
        ("0 0 * * 0", ["2026-05-03T00:00"]),
        ("0 0 * * 7", ["2026-05-03T00:00"]),
        ("0 0 * * 1-7", [f"2026-05-0{day}T00:00" for day in (1, 2, 3, 4)]),
        ("0 0 * * 6-7", ["2026-05-02T00:00", "2026-05-03T00:00"]),
        ("0 0 * * sat-mon", ["2026-05-02T00:00", "2026-05-03T00:00", "2026-05-04T00:00"]),
        ("0 0 * * */2", ["2026-05-02T00:00", "2026-05-03T00:00"]),
        ("0 0 2 may *", ["2026-05-02T00:00"]),
        ("5 4 2 * *", ["2026-05-02T04:05"]),
        # Either day will do where both are named, as in crontab(5).
        ("5 4 2 * 1", ["2026-05-02T04:05", "2026-05-04T04:05"]),
        ("0 0 1 6 *", []),
    ],
)  # fmt: skip
def test_cron_lines_name_the_moments_that_cron_does(line: str, moments: list[str]) -> None:
    """The first four days of May 2026, of which the first is a Friday."""
    assert between(cron(line), "2026-04-30T23:59", "2026-05-04T23:59") == moments


def test_a_time_that_clocks_skip_comes_right_after_and_once() -> None:
    """Berlin, 29 March 2026: 02:00 is followed by 03:00, so 02:30 is run at 03:30 summer time."""
    nightly = cron("30 2 * * *", "Europe/Berlin")
    assert between(nightly, "2026-03-28T00:00", "2026-03-30T12:00") == [
        "2026-03-28T01:30",
        "2026-03-29T01:30",
        "2026-03-30T00:30",
    ]


def test_a_time_that_clocks_repeat_comes_once() -> None:
    """Berlin, 25 October 2026: 02:30 is shown twice."""
    nightly = cron("30 2 * * *", "Europe/Berlin")
    assert between(nightly, "2026-10-24T12:00", "2026-10-26T12:00") == ["2026-10-25T00:30", "2026-10-26T01:30"]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_line_for_every_hour_runs_every_hour_that_passes(day: str) -> None:
    """On both days that clocks change, 24 hours have 24 runs."""
    hourly = cron("0 * * * *", "Europe/Berlin")
    moments = between(hourly, f"{day}T00:00", f"{day}T23:00")
    assert moments == [f"{day}T{hour:02}:00" for hour in range(1, 24)]


@given(
    line=st.sampled_from(["*/20 * * * *", "30 2 * * *", "0 3 * * 1-5", "15 1,2,3 * * *", "0 12 29 2 *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    minutes=st.integers(0, 3 * 366 * 24 * 60),
)
def test_looking_back_and_ahead_agree(line: str, zone: str, minutes: int) -> None:
    """No moment lies between the last one and the next one, and both are found from either side."""
    trigger, now = cron(line, zone), at("2026-01-01T00:00") + timedelta(minutes=minutes)
    before, after = trigger.latest(now), trigger.following(now)
    assert before is not None
    assert before <= now < after
    assert trigger.following(before) == after
    assert trigger.latest(after) == after
    assert trigger.latest(after - timedelta(microseconds=1)) == before


def test_nothing_is_due_before_the_first_moment() -> None:
    """What was due before a schedule was made is not caught up."""
    trigger = cron("0 3 * * *", first="2026-05-01T12:00:00+00:00")
    assert trigger.latest(at("2026-05-01T11:00")) is None
    assert trigger.latest(at("2026-05-02T02:59")) is None
    assert trigger.latest(at("2026-05-02T03:00")) == at("2026-05-02T03:00")
    assert trigger.following(at("2020-01-01T00:00")) == at("2026-05-02T03:00")


def test_a_span_counts_from_its_first_moment() -> None:
    """Whoever looks, however late, finds the same moments."""
    trigger = Trigger(every_s=6 * 3600, first="2026-05-01T01:00:00+02:00")
    assert trigger.latest(at("2026-04-30T22:59")) is None
    assert trigger.latest(at("2026-04-30T23:00")) == at("2026-04-30T23:00")
    assert trigger.latest(at("2026-05-03T04:59")) == at("2026-05-02T23:00")
    assert trigger.following(at("2026-05-03T05:00")) == at("2026-05-03T11:00")
    assert trigger.following(at("2026-01-01T00:00")) == at("2026-04-30T23:00")


@pytest.mark.parametrize(
    ("fields", "cure"),
    [
        ({"cron": "0 3 * *"}, "write minute, hour, day, month and weekday"),
        ({"cron": "61 3 * * *"}, "'61 3 \\* \\* \\*' is no cron line"),
        ({"cron": "0 3 * * nosuchday"}, "is no cron line"),
        ({"cron": "0 3 * * 8"}, "is no cron line"),
        ({"cron": "0 3 30 2 *"}, "names no day that exists"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Base"}, "'Mars/Base' is no time zone: write it as in Europe/Berlin"),
        ({"cron": "0 3 * * *", "every_s": 60}, "either a cron line or a time span"),
        ({}, "either a cron line or a time span"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cure(fields: dict[str, object], cure: str) -> None:
    with pytest.raises(ValidationError, match=cure):
        Trigger.model_validate({"first": LONG_AGO, **fields})


def test_spans_are_read_and_written() -> None:
    assert [span(seconds(text)) for text in ("90s", "15m", "6h", "1d", "2w", "120s")] == [
        "90s",
        "15m",
        "6h",
        "1d",
        "2w",
        "2m",
    ]
    for text in ("6", "h", "0h", "-1h", "1.5h", ""):
        with pytest.raises(ValueError, match="such as 6h"):
            seconds(text)
