import pytest

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Arm, Histogram, Moments, Quality, Window


def test_arms_add_up_with_everything_they_know():
    one = Arm(10, 1, Histogram.from_seconds([0.1] * 10), Quality(5, 4, 3, 2, (1.0,)), Moments.from_values([1.0, 2.0]))
    other = Arm(20, 2, None, Quality(1, 1, 1, 1, (2.0,)))
    both = one + other
    assert (both.requests, both.failures) == (30, 3)
    assert both.latency == one.latency
    assert both.quality == Quality(6, 5, 4, 3, (1.0, 2.0))
    assert both.cost == one.cost
    assert Arm(1, 0) + Arm(1, 0) == Arm(2, 0)


def test_moments_keep_mean_and_squares():
    moments = Moments.from_values([1.0, 2.0, 3.0])
    assert (moments.count, moments.mean, moments.squares) == (3, 2.0, 14.0)
    assert Moments().mean is None
    assert moments + Moments() == moments


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Arm(-1, 0), "requests"),
        (lambda: Arm(1, 2), "failures"),
        (lambda: Quality(labelled=1, correct=2), "correct"),
        (lambda: Quality(compared=1, agreed=-1), "agreed"),
        (lambda: Moments(-1), "count"),
        (lambda: Moments(1, float("nan"), 1.0), "squares"),
        (lambda: Window("", Arm(0, 0), Arm(0, 0), 1.0), "id"),
        (lambda: Window("w", Arm(0, 0), Arm(0, 0), -1.0), "seconds"),
        (lambda: Window("w", Arm(0, 0), Arm(0, 0), 1.0, share=10), "share"),
    ],
)
def test_impossible_measurements_are_refused_by_name(make, field):
    with pytest.raises(InvalidInput, match=f"^{field}="):
        make()


def test_a_histogram_knows_its_quantiles_to_two_percent():
    histogram = Histogram.from_seconds([n / 1000 for n in range(1, 1001)])
    assert histogram.count == 1000
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert histogram.quantile(0.99) == pytest.approx(0.99, rel=0.02)
    assert histogram.slower_than(0.9) == pytest.approx(100, abs=18)
    assert Histogram().quantile(0.5) is None
    assert (histogram + histogram).count == 2000
