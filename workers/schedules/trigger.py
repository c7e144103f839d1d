"""Triggers: the moments when a schedule is due, the same wherever and whenever they are computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from celery.schedules import ParseException, crontab_parser
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: A cron line that names no day in so many days names none at all: leap days are up to eight years apart.
SEARCHED_DAYS = 366 * 8

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds(text: str) -> float:
    """Return the seconds of a time span such as 90s, 15m, 6h, 1d or 2w; raises ValueError."""
    match = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if not match or not int(match[1]):
        raise ValueError(f"{text!r} is no time span: write a number and s, m, h, d or w, such as 6h")
    return float(match[1]) * _UNITS[match[2]]


def span(seconds: float) -> str:
    """Return the inverse of `seconds`, in the largest unit that fits."""
    unit = max((u for u in _UNITS if seconds % _UNITS[u] == 0), key=lambda u: _UNITS[u], default="s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


class Trigger(BaseModel):
    """A cron line in a time zone, or every so many seconds from a first moment on: exactly one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Minute, hour, day of the month, month, day of the week, as in crontab(5).
    cron: str | None = None
    #: IANA name.
    timezone: str = "UTC"
    every_s: float | None = Field(default=None, gt=0)
    #: ISO 8601 with its offset: the first moment of `every_s`; none of `cron` comes before it.
    first: str

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone: write it as in Europe/Berlin") from None
        return name

    @model_validator(mode="after")
    def _is_one(self) -> Trigger:
        if (self.cron is None) == (self.every_s is None):
            raise ValueError("give either a cron line or a time span")
        if self.cron is not None and next(_cron(self.cron).days(date(2000, 1, 1), 1), None) is None:
            raise ValueError(f"cron line {self.cron!r} names no day that exists")
        return self

    def latest(self, at: datetime) -> datetime | None:
        """Return the last moment that is not after `at`, in UTC; None before the first."""
        first = datetime.fromisoformat(self.first).astimezone(UTC)
        if at < first:
            return None
        if self.every_s is not None:
            return first + (at - first) // timedelta(seconds=self.every_s) * timedelta(seconds=self.every_s)
        found = next(self._moments(at, -1), None)
        return found if found and found >= first else None

    def following(self, after: datetime) -> datetime:
        """Return the first moment after `after`, in UTC."""
        first = datetime.fromisoformat(self.first).astimezone(UTC)
        if self.every_s is not None:
            every = timedelta(seconds=self.every_s)
            return first if after < first else first + ((after - first) // every + 1) * every
        return next(self._moments(max(after, first - timedelta(microseconds=1)), 1))

    def __str__(self) -> str:
        """For people."""
        if self.every_s is not None:
            return f"every {span(self.every_s)}"
        return f"cron {self.cron}" + ("" if self.timezone == "UTC" else f" {self.timezone}")

    def _moments(self, start: datetime, step: int) -> Iterator[datetime]:
        """Yield the cron line's moments before (with `start` itself) or after `start`, going away from it."""
        cron, zone = _cron(self.cron or ""), ZoneInfo(self.timezone)
        for day in cron.days(start.astimezone(zone).date(), step):
            moments = sorted(cron.moments(day, zone), reverse=step < 0)
            yield from (m for m in moments if (m > start if step > 0 else m <= start))


@dataclass(frozen=True)
class _Cron:
    """A cron line, taken apart. Celery reads its fields; the calendar is done here.

    Celery's own `crontab` asks of a day that it fits both the month's and the week's field, where cron asks for one of
    them, and what it makes of clocks that change depends on the app's zone.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    #: Of the month; of the week, Sunday is 0.
    month_days: frozenset[int]
    week_days: frozenset[int]
    months: frozenset[int]
    #: As crontab(5): where both are restricted, a day that fits one of them will do.
    either_day: bool
    every_hour: bool

    def days(self, start: date, step: int) -> Iterator[date]:
        """Yield the days that fit, from `start` on or back."""
        for offset in range(SEARCHED_DAYS):
            day = start + timedelta(days=step * offset)
            if self._fits(day):
                yield day

    def _fits(self, day: date) -> bool:
        in_month, in_week = day.day in self.month_days, day.isoweekday() % 7 in self.week_days
        fits = in_month or in_week if self.either_day else in_month and in_week
        return fits and day.month in self.months

    def moments(self, day: date, zone: ZoneInfo) -> set[datetime]:
        """Return the day's moments in UTC.

        What clocks that go forward skip comes right after, what they repeat comes once; but a line for every hour means
        the hours that pass, not those that clocks show.
        """
        folds = (0, 1) if self.every_hour else (0,)
        return {
            datetime.combine(day, time(hour, minute, fold=fold), zone).astimezone(UTC)
            for hour in self.hours
            for minute in self.minutes
            for fold in folds
        }


@lru_cache(maxsize=256)
def _cron(text: str) -> _Cron:
    """Raise ValueError where the text is no cron line."""
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"{text!r} is no cron line: write minute, hour, day, month and weekday, such as '0 3 * * *'")
    minute, hour, month_day, month, week_day = fields
    try:
        return _Cron(
            minutes=frozenset(crontab_parser(60).parse(minute)),
            hours=frozenset(crontab_parser(24).parse(hour)),
            month_days=frozenset(crontab_parser(31, 1).parse(month_day)),
            # Sunday is 0 and 7.
            week_days=frozenset(day % 7 for day in crontab_parser(8).parse(week_day)),
            months=frozenset(crontab_parser(12, 1).parse(month)),
            either_day=not month_day.startswith("*") and not week_day.startswith("*"),
            every_hour=hour.startswith("*"),
        )
    except (ParseException, ValueError) as error:
        raise ValueError(f"{text!r} is no cron line: {error}") from error
