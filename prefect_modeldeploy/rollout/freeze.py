"""Freeze windows: times in which no rollout moves traffic forward. Pure: the time is an argument.

A window is what people say: weekdays, a time of the day, dates, in a time zone. Where a clock is put back or forward, a
time of the day that comes twice, or not at all, is read so that the window is the longer one.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

_WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_LOOK_AHEAD = 366 * _DAY


def _known(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:
        raise ValueError(f"{name!r} is no time zone; use a name such as Europe/Berlin, or UTC") from error
    return name


class FreezeWindow(BaseModel):
    """A stretch of the day on some days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weekdays: tuple[Weekday, ...] = Field((), description="Days on which it begins. None named: on every day.")
    start: time = Field(time(0), description="Time of the day when it begins, such as 16:00.")
    end: time = Field(
        time(0), description="Time of the day when it ends; on the next day, if that is not later than the start."
    )
    first_day: date | None = Field(None, description="The first day on which it can begin. None: any.")
    last_day: date | None = Field(None, description="The last day on which it can begin, included. None: any.")
    time_zone: Annotated[str, AfterValidator(_known)] = Field(
        "UTC", description="Time zone of these days and times, such as Europe/Berlin."
    )

    @model_validator(mode="after")
    def _sensible(self) -> "FreezeWindow":
        if self.start.tzinfo or self.end.tzinfo:
            raise ValueError("start and end are times of the day in time_zone: leave the offset out")
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise ValueError(f"last_day={self.last_day} must not be before first_day={self.first_day}")
        return self

    def until(self, now: datetime) -> datetime | None:
        """When the window ends that `now` is in, in UTC; None if it is in none."""
        today = now.astimezone(ZoneInfo(self.time_zone)).date()
        for day in (today - _DAY, today, today + _DAY):
            if self._begins_on(day):
                begin = min(self._moments(day, self.start))
                end = max(self._moments(day if self.end > self.start else day + _DAY, self.end))
                if begin <= now < end:
                    return end
        return None

    def _begins_on(self, day: date) -> bool:
        return (
            (not self.weekdays or _WEEKDAYS[day.weekday()] in self.weekdays)
            and (self.first_day is None or day >= self.first_day)
            and (self.last_day is None or day <= self.last_day)
        )

    def _moments(self, day: date, at: time) -> tuple[datetime, datetime]:
        """When the clocks of the zone show a time: twice the same, but for the hour that they are put by."""
        shown = datetime.combine(day, at, ZoneInfo(self.time_zone))
        return shown.replace(fold=0).astimezone(UTC), shown.replace(fold=1).astimezone(UTC)


def frozen_until(windows: Iterable[FreezeWindow], now: datetime) -> datetime | None:
    """When it will be allowed again, in UTC; None if it is allowed now.

    Windows that follow one another without a gap are one. Where there is no end, the answer is about a year from now.
    """
    windows, free = tuple(windows), now.astimezone(UTC)
    while free < now + _LOOK_AHEAD:
        ends = [end for window in windows if (end := window.until(free)) is not None]
        if not ends:
            break
        free = max(ends)
    return free if free != now else None
