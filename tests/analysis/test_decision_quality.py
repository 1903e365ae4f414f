"""A small, seeded run of the benchmark: the goals hold, with the slack that so few rollouts need."""

import pytest

from tests.benchmarks.decision_quality import SAME, THREE_WAYS, WORSE, rolled_back, run


def of(scenarios, name):
    return next(scenario for scenario in scenarios if scenario.name == name)


@pytest.mark.parametrize(
    "name",
    [
        "A 50 rps, 10 %: same",
        pytest.param("D both arms 8 % for 5 min", marks=pytest.mark.slow),
        pytest.param("D bursts, CV 2", marks=pytest.mark.slow),
        "D ramp 1/5/25/50 %",
    ],
)
def test_a_release_that_is_no_worse_is_hardly_ever_rolled_back(name):
    share, _ = rolled_back(run(of(SAME, name), 24))
    assert share <= 0.1


@pytest.mark.parametrize(
    ("name", "minutes"),
    [
        ("A canary 20 %", 10 / 60),
        ("A canary 5 %", 45 / 60),
        ("A canary 2 %", 6.0),
        ("B 2 rps, canary 20 %", 2.5),
        ("L 25 % slower", 1.0),
        ("L 10 % slower", 4.0),
    ],
)
def test_a_bad_release_is_out_in_time(name, minutes):
    share, median = rolled_back(run(of(WORSE, name), 30))
    assert share == 1.0
    assert median <= minutes


def test_a_good_release_is_promoted_and_one_at_the_margin_is_not():
    good = run(of(THREE_WAYS, "A 50 rps, 10 %: same"), 15)
    bad = run(of(THREE_WAYS, "A canary 2 %"), 40)
    assert sum(outcome.first == "promote" for outcome in good) >= 13
    assert sum(outcome.first == "promote" for outcome in bad) <= 5
