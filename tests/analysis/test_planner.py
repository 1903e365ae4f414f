import math
import statistics

import pytest

from prefect_modeldeploy.analysis import Failures, Judge, JudgeSettings, plan_step
from prefect_modeldeploy.errors import InvalidInput
from tests.analysis.simulation import history, windows


def seconds_until(decision, canary, seed):
    judge = Judge(JudgeSettings(history=history(seed), metrics=(Failures(),)))
    for window in windows(seed, canary):
        if judge.observe(window).decision == decision:
            return judge.verdict().seconds
    return float("inf")


def test_the_plan_says_about_what_happens():
    plan = plan_step(requests_per_second=50, canary_share=0.1, baseline_rate=0.01, regression=2.0)
    found = statistics.median(seconds_until("roll_back", 0.02, seed) for seed in range(15))
    proven = statistics.median(seconds_until("promote", 0.01, seed) for seed in range(15))
    assert plan.seconds_to_roll_back / 2 <= found <= plan.seconds_to_roll_back * 2
    assert plan.seconds_to_promote / 2 <= proven <= plan.seconds_to_promote * 2


def test_a_short_step_is_known_to_be_too_short_before_the_start():
    plan = plan_step(requests_per_second=2, canary_share=0.1, baseline_rate=0.01)
    assert not plan.enough(300)
    assert plan_step(requests_per_second=500, canary_share=0.1, baseline_rate=0.01).enough(300)


def test_bursts_and_smaller_regressions_take_longer():
    plain = plan_step(requests_per_second=50, canary_share=0.1, baseline_rate=0.01)
    bursty = plan_step(requests_per_second=50, canary_share=0.1, baseline_rate=0.01, excess_dispersion=10)
    small = plan_step(requests_per_second=50, canary_share=0.1, baseline_rate=0.01, regression=1.2)
    assert bursty.seconds_to_roll_back == pytest.approx(plain.seconds_to_roll_back * 2.8)
    assert small.seconds_to_roll_back > plain.seconds_to_roll_back * 10


def test_a_metric_that_shares_alpha_with_others_takes_longer():
    alone, half = (
        plan_step(requests_per_second=50, canary_share=0.1, baseline_rate=0.01, weight=weight) for weight in (1.0, 0.5)
    )
    longer = math.log(6.0 * 20.0 * 2.0) / math.log(6.0 * 20.0)
    assert half.seconds_to_roll_back == pytest.approx(alone.seconds_to_roll_back * longer)
    assert half.seconds_to_promote == alone.seconds_to_promote


@pytest.mark.parametrize(
    ("field", "value"),
    [("requests_per_second", 0), ("canary_share", 1.0), ("baseline_rate", 0.0), ("regression", 1.0)],
)
def test_a_plan_without_sense_is_refused_by_name(field, value):
    good = {"requests_per_second": 50, "canary_share": 0.1, "baseline_rate": 0.01}
    with pytest.raises(InvalidInput, match=field):
        plan_step(**{**good, field: value})
