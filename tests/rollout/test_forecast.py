"""The forecast of a rollout: its own judge, played at the traffic of now."""

import statistics

import pytest

from prefect_modeldeploy.analysis import Judge
from prefect_modeldeploy.measurements import Histogram
from prefect_modeldeploy.rollout import CanaryPlan, JudgePlan
from prefect_modeldeploy.rollout.forecast import Forecast, Usual, forecasts
from prefect_modeldeploy.rollout.judging import settings_of
from prefect_modeldeploy.rollout.preview import Cost, cost_of, steps_of
from tests.analysis.simulation import history, windows

FAILURES = JudgePlan(latency=False)


def usual(per_second: float = 50.0, rate: float = 0.01, *, latency: bool = False) -> Usual:
    """Half an hour of even traffic."""
    requests = round(per_second * 1800)
    measured = Histogram({600: requests * 9 // 10, 650: requests - requests * 9 // 10}) if latency else None
    return Usual(requests, round(requests * rate), 1800.0, measured, history(1, rate, requests=max(1, requests // 180)))


def by_kind(plan: CanaryPlan, traffic: Usual) -> dict[str, Forecast]:
    return {each.canary: each for each in forecasts(plan, traffic)}


def test_a_good_canary_is_promoted_and_a_broken_one_rolled_back_the_sooner_the_worse_it_is() -> None:
    good, *worse = forecasts(CanaryPlan(judge=FAILURES), usual())
    assert good.outcome == "promoted"
    assert good.seconds >= 3 * 60
    assert {each.outcome for each in worse} == {"rolled_back"}
    assert [each.seconds for each in worse] == sorted((each.seconds for each in worse), reverse=True)


def test_more_traffic_needs_less_time() -> None:
    broken = [
        by_kind(CanaryPlan(judge=FAILURES), usual(rate))["20 points more of its requests fail"] for rate in (2, 50)
    ]
    assert broken[0].seconds > 3 * broken[1].seconds


def test_what_the_traffic_cannot_show_in_time_is_undecided_at_the_deadline() -> None:
    plan = CanaryPlan(deadline_seconds=600, judge=FAILURES)
    good = by_kind(plan, usual(per_second=0.5))["as good as stable"]
    assert good.outcome == "undecided"
    assert good.seconds == pytest.approx(600, rel=0.03)


@pytest.mark.parametrize("on_undecided", ["hold", "roll_back"])
def test_undecided_is_undecided_whatever_the_plan_makes_of_it(on_undecided: str) -> None:
    plan = CanaryPlan.model_validate({"deadline_seconds": 300, "judge": FAILURES, "on_undecided": on_undecided})
    assert by_kind(plan, usual(per_second=0.5))["as good as stable"].outcome == "undecided"


def test_a_promotion_takes_its_steps_and_its_bake() -> None:
    plan = CanaryPlan(steps=(10, 50), step_seconds=100, bake_seconds=300, judge=FAILURES)
    good = by_kind(plan, usual(per_second=500))["as good as stable"]
    assert good.seconds == pytest.approx(500, rel=0.05)
    assert good.weight == 95


def test_slowness_is_tried_where_latency_is_judged_and_known() -> None:
    slow = by_kind(CanaryPlan(), usual(latency=True))["takes 1.5 times as long"]
    assert slow.outcome == "rolled_back"
    for plan, traffic in ((CanaryPlan(judge=FAILURES), usual(latency=True)), (CanaryPlan(), usual())):
        assert "takes 1.5 times as long" not in by_kind(plan, traffic)


def test_the_same_traffic_gives_the_same_forecast() -> None:
    assert forecasts(CanaryPlan(), usual(latency=True)) == forecasts(CanaryPlan(), usual(latency=True))


def test_a_rate_that_cannot_rise_so_far_is_not_tried() -> None:
    assert set(by_kind(CanaryPlan(judge=FAILURES), usual(rate=0.97))) == {
        "as good as stable",
        "1 points more of its requests fail",
    }


@pytest.mark.parametrize(
    ("kind", "canary", "decision"),
    [
        ("as good as stable", 0.01, "promote"),
        ("5 points more of its requests fail", 0.06, "roll_back"),
        ("20 points more of its requests fail", 0.21, "roll_back"),
    ],
)
def test_the_times_are_about_the_medians_of_rollouts_with_chance_in_them(
    kind: str, canary: float, decision: str
) -> None:
    plan = CanaryPlan(steps=(10,), step_seconds=1, warm_up_seconds=0, judge=FAILURES)
    seconds = by_kind(plan, usual())[kind].seconds
    medians = statistics.median(_time_to(decision, seed, canary) for seed in range(41))
    assert seconds == pytest.approx(medians, rel=0.5)


def _time_to(decision: str, seed: int, canary: float) -> float:
    judge = Judge(settings_of(FAILURES, history(1)))
    for number, window in enumerate(windows(seed, canary, seconds=5.0, count=720), 1):
        if judge.observe(window).decision == decision:
            return 5.0 * number
    return 3600.0


def test_steps_and_cost_follow_from_traffic_and_time() -> None:
    plan = CanaryPlan(steps=(10, 50), step_seconds=60, judge=FAILURES)
    traffic = usual(per_second=10)
    assert [step.canary_requests for step in steps_of(plan, traffic)] == [60, 300]
    assert [step.canary_requests for step in steps_of(plan, None)] == [None, None]
    good = [Forecast(canary="good", outcome="promoted", seconds=1800, weight=100, canary_requests=1)]
    assert cost_of([], 1, 3.0) is None
    assert cost_of(good, 2, 3.0) == Cost(replica_hours=1.0, money=3.0)
    assert cost_of(good, 2, None) == Cost(replica_hours=1.0, money=None)
