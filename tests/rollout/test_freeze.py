"""Freeze windows, as a specification: what people write, and until when it holds, on days with 23 and 25 hours too."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_modeldeploy.rollout.freeze import FreezeWindow, frozen_until

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = (
    FreezeWindow(weekdays=("fri",), start=time(16), time_zone="Europe/Berlin"),
    FreezeWindow(weekdays=("sat", "sun"), time_zone="Europe/Berlin"),
    FreezeWindow(weekdays=("mon",), end=time(8), time_zone="Europe/Berlin"),
)
MINUTE = timedelta(minutes=1)


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-06-12 15:59", None),
        ("2026-06-12 16:00", "2026-06-15 08:00"),
        ("2026-06-14 12:00", "2026-06-15 08:00"),
        ("2026-06-15 07:59", "2026-06-15 08:00"),
        ("2026-06-15 08:00", None),
        ("2026-03-28 12:00", "2026-03-30 08:00"),  # the clocks go forward on the 29th
        ("2026-10-24 12:00", "2026-10-26 08:00"),  # and back on the 25th
    ],
)
def test_windows_that_follow_one_another_are_one(now: str, until: str | None) -> None:
    assert frozen_until(WEEKEND, berlin(now)) == (berlin(until) if until else None)


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = FreezeWindow(weekdays=("fri",), start=time(22), end=time(6))
    assert night.until(datetime(2026, 6, 13, 5, 59, tzinfo=UTC)) == datetime(2026, 6, 13, 6, tzinfo=UTC)
    assert night.until(datetime(2026, 6, 12, 5, tzinfo=UTC)) is None
    assert night.until(datetime(2026, 6, 13, 23, tzinfo=UTC)) is None


def test_dates_hold_on_all_their_days() -> None:
    holidays = FreezeWindow(first_day=date(2026, 12, 20), last_day=date(2027, 1, 3))
    assert frozen_until([holidays], datetime(2026, 12, 20, tzinfo=UTC)) == datetime(2027, 1, 4, tzinfo=UTC)
    assert frozen_until([holidays], datetime(2026, 12, 19, 23, 59, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        # On 25 October 2026, 02:30 comes twice in Berlin: at 00:30 and at 01:30 UTC.
        (time(2, 30), time(4), "2026-10-25T00:30Z", "2026-10-25T03:00Z"),
        (time(1), time(2, 30), "2026-10-24T23:00Z", "2026-10-25T01:30Z"),
        # On 29 March 2026 it does not come: the clocks show 03:00 after 01:59, at 01:00 UTC.
        (time(2, 30), time(4), "2026-03-29T00:30Z", "2026-03-29T02:00Z"),
        (time(1), time(2, 30), "2026-03-29T00:00Z", "2026-03-29T01:30Z"),
    ],
)
def test_where_the_clock_is_in_doubt_the_window_is_the_longer_one(
    start: time, end: time, first: str, last: str
) -> None:
    window = FreezeWindow(start=start, end=end, time_zone="Europe/Berlin")
    begin, over = datetime.fromisoformat(first), datetime.fromisoformat(last)
    assert window.until(begin - MINUTE) is None
    assert window.until(begin) == window.until(over - MINUTE) == over
    assert window.until(over) is None


def test_a_freeze_without_an_end_says_so_by_a_date_far_away() -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    until = frozen_until([FreezeWindow()], now)
    assert until is not None
    assert until - now > timedelta(days=300)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"time_zone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"weekdays": ["someday"]}, "weekdays"),
        ({"start": "16:00+02:00"}, "offset"),
        ({"first_day": "2026-02-01", "last_day": "2026-01-01"}, "last_day"),
        ({"begin": "16:00"}, "begin"),
    ],
)
def test_what_makes_no_window_is_refused_by_name(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        FreezeWindow.model_validate(wrong)


times = st.times().map(lambda at: at.replace(microsecond=0))
windows = st.builds(
    FreezeWindow,
    weekdays=st.lists(st.sampled_from(("mon", "tue", "wed", "thu", "fri", "sat", "sun")), max_size=3).map(tuple),
    start=times,
    end=times,
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")),
)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@settings(deadline=None, max_examples=50)
@given(st.lists(windows, min_size=1, max_size=3), moments)
def test_the_end_is_the_first_moment_that_is_free(some: list[FreezeWindow], now: datetime) -> None:
    until = frozen_until(some, now)
    if until is None:
        assert all(window.until(now) is None for window in some)
        return
    assert until > now
    for part in range(20):
        assert any(window.until(now + (until - now) * part / 20) for window in some)
    if until - now < timedelta(days=300):
        assert frozen_until(some, until) is None


@settings(deadline=None)
@given(windows, moments)
def test_far_from_a_change_of_the_clock_it_is_what_the_clock_on_the_wall_says(
    window: FreezeWindow, now: datetime
) -> None:
    zone = ZoneInfo(window.time_zone)
    shown = now.astimezone(zone)
    offsets = {(now + timedelta(days=days)).astimezone(zone).utcoffset() for days in (-2, -1, 0, 1, 2)}
    if len(offsets) > 1:
        return
    at, days = shown.time(), ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    today, yesterday = days[shown.weekday()], days[shown.weekday() - 1]

    def on(day: str) -> bool:
        return not window.weekdays or day in window.weekdays

    if window.start < window.end:
        frozen = on(today) and window.start <= at < window.end
    else:
        frozen = (on(today) and at >= window.start) or (on(yesterday) and at < window.end)
    assert (window.until(now) is not None) == frozen
