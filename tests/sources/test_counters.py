"""Counters become windows: what is counted, and in which window."""

import math

from prefect_modeldeploy.measurements import Histogram, bucket_of
from prefect_modeldeploy.sources.counters import ArmSeries, Series, counts_of

TARGET = {"job": "models", "instance": "one:80"}


def series(*samples: tuple[float, float], **labels: str) -> Series:
    return Series({**TARGET, **labels}, samples)


def requests(*many: Series, begin: float = 0.0, end: float = 1000.0) -> dict[int, int]:
    counted = counts_of(ArmSeries(many), begin, end, 10.0)
    return {number: counts.requests for number, counts in counted.items()}


def test_a_difference_belongs_to_the_window_of_its_later_sample() -> None:
    assert requests(series((5, 100), (10, 103), (15, 103), (25, 110))) == {0: 3, 2: 7}


def test_windows_with_nothing_new_are_none() -> None:
    assert requests(series((5, 100), (15, 100), (25, 100))) == {}


def test_wherever_a_reader_begins_it_finds_the_same() -> None:
    one = series((5, 100), (15, 104), (25, 110), (35, 111))
    assert requests(one) == {1: 4, 2: 6, 3: 1}
    assert requests(one, begin=20) == {2: 6, 3: 1}
    assert requests(one, end=20) == {1: 4}


def test_a_counter_that_falls_has_begun_at_zero_again() -> None:
    assert requests(series((5, 100), (15, 104), (25, 3), (35, 5))) == {1: 4, 2: 3, 3: 2}


def test_a_server_that_goes_away_takes_nothing_with_it() -> None:
    two = Series({**TARGET, "instance": "two:80"}, [(5, 900), (15, 901)])
    assert requests(series((5, 100), (15, 104), (25, 105)), two) == {1: 5, 2: 1}


def test_the_first_failure_of_a_running_server_counts_although_its_series_is_new() -> None:
    answered = series((5, 100), (15, 104), (25, 110), status="200")
    failed = series((25, 2), status="500")
    counted = counts_of(ArmSeries([answered, failed], [failed]), 0, 1000, 10)[2]
    assert (counted.requests, counted.failures) == (8, 2)


def test_what_a_server_had_counted_before_anybody_looked_does_not_count() -> None:
    assert requests(series((15, 5000), (25, 5001))) == {2: 1}


def test_after_a_long_silence_counting_begins_anew() -> None:
    assert requests(series((5, 100), (400, 9000), (410, 9001))) == {40: 1}


def test_what_is_no_number_is_left_out() -> None:
    assert requests(series((5, 100), (15, math.nan), (25, 103))) == {2: 3}


def test_a_failed_request_is_a_request_whichever_counter_moved_first() -> None:
    arm = ArmSeries([series((5, 10), (15, 10))], [series((5, 1), (15, 2))])
    counted = counts_of(arm, 0, 100, 10)[1]
    assert (counted.requests, counted.failures) == (1, 1)


def test_buckets_become_a_histogram_at_their_upper_edges() -> None:
    buckets = [
        series((5, 10), (15, 16), le="0.1"),
        series((5, 10), (15, 19), le="0.5"),
        series((5, 10), (15, 20), le="+Inf"),
    ]
    arm = ArmSeries([series((5, 10), (15, 20))], buckets=buckets)
    latency = counts_of(arm, 0, 100, 10)[1].latency
    assert latency == {bucket_of(0.1): 6, bucket_of(0.5): 3, bucket_of(1.0): 1}
    assert Histogram(latency).slower_than(0.1) == 4
    assert Histogram(latency).slower_than(0.5) == 1
