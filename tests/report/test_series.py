"""From windows to lines: merged where they hold few requests, cut where there is no data, thinned with all peaks."""

import math

import pytest

from prefect_modeldeploy.analysis import Judge
from prefect_modeldeploy.measurements import Arm, Histogram, Window
from prefect_modeldeploy.report import series, words
from prefect_modeldeploy.rollout.judging import settings_of
from prefect_modeldeploy.rollout.timeline import ArmPoint, Point

from .simulated_rollouts import Traffic, promoted, record, windows

NOTHING = ArmPoint(requests=0, failures=0)


def point(at: float, canary: ArmPoint, weight: float = 10.0, seconds: float = 1.0) -> Point:
    return Point(at=at, seconds=seconds, weight=weight, canary=canary, stable=NOTHING)


def some(requests: int, failures: int = 0, p50: float = 0.01, p99: float = 0.02) -> ArmPoint:
    return ArmPoint(requests=requests, failures=failures, p50=p50, p99=p99)


def test_windows_with_few_requests_are_merged_so_that_one_failure_is_no_spike() -> None:
    points = [point(at, some(2, failures=int(at == 7))) for at in range(1, 61)]
    [run] = series.experienced(points, "canary", 60)
    assert max(stretch.rate for stretch in run) <= 5.0
    assert sum(stretch.requests for stretch in run) == 120
    assert sum(stretch.hits for stretch in run) == 1


def test_busy_windows_stay_as_they_are() -> None:
    points = [point(at, some(1000, failures=at)) for at in range(1, 61)]
    [run] = series.experienced(points, "canary", 60)
    assert [stretch.hits for stretch in run] == list(range(1, 61))


def test_a_stretch_never_crosses_the_boundary_of_a_step() -> None:
    points = [point(at, some(1), weight=5.0 if at <= 10 else 25.0) for at in range(1, 21)]
    [run] = series.experienced(points, "canary", 20)
    assert [(s.start, s.end, s.weight, s.requests) for s in run] == [(0, 10, 5.0, 10), (10, 20, 25.0, 10)]


def test_the_rest_of_a_step_joins_the_stretch_before_it() -> None:
    [run] = series.experienced([point(at, some(1)) for at in range(1, 46)], "canary", 45)
    assert [stretch.requests for stretch in run] == [20, 25]


def test_a_long_silence_is_a_gap_and_a_short_one_is_chance() -> None:
    quiet = [point(at, NOTHING if 30 < at <= 50 else some(5)) for at in range(1, 101)]
    assert [(run[0].start, run[-1].end) for run in series.experienced(quiet, "canary", 100)] == [(0, 30), (50, 100)]
    sparse = [point(at, some(1) if at % 7 == 0 else NOTHING) for at in range(1, 101)]
    assert len(series.experienced(sparse, "canary", 100)) == 1


def test_no_requests_at_all_are_no_line() -> None:
    assert series.experienced([point(1, NOTHING)], "canary", 10) == []


def test_a_gap_breaks_the_staircase() -> None:
    quiet = [point(at, NOTHING if 30 < at <= 50 else some(50)) for at in range(1, 101)]
    xs, ys = series.staircase(series.experienced(quiet, "canary", 100), lambda stretch: stretch.rate)
    assert [x for x, y in zip(xs, ys, strict=True) if math.isnan(y)] == [50.0]


@pytest.mark.parametrize("mean", [0.5, 3, 20, 150])
def test_the_p99_of_many_small_windows_is_not_taken_for_too_low(mean: float) -> None:
    """The true p99 of the simulated latencies is 12 ms * exp(0.5 * 2.326) = 38.4 ms."""
    plan = record().plan.model_copy(update={"steps": (50.0,), "step_seconds": 1500.0})
    points = windows(plan, Traffic(per_second=2 * mean, canary_errors=0.0, stable_errors=0.0))
    stretches = [s for run in series.experienced(points, "canary", 1500) for s in run]
    total = sum(s.requests for s in stretches)
    assert sum((s.p99 or 0) * s.requests for s in stretches) / total == pytest.approx(0.0384, rel=0.15)
    assert sum((s.p50 or 0) * s.requests for s in stretches) / total == pytest.approx(0.012, rel=0.1)


def test_thinning_keeps_ends_and_peaks() -> None:
    xs = [float(i) for i in range(10_000)]
    ys = [math.sin(x / 50) for x in xs]
    ys[4321], ys[8765] = 99.0, -99.0
    few_xs, few_ys = series.thinned(xs, ys, 200)
    assert len(few_xs) <= 204
    assert few_xs == sorted(few_xs)
    assert (few_xs[0], few_xs[-1]) == (0.0, 9999.0)
    assert {99.0, -99.0} <= set(few_ys)


def test_thinning_leaves_gaps_open() -> None:
    ys = [math.nan if 4000 <= i < 6000 else 1.0 for i in range(10_000)]
    xs, few = series.thinned([float(i) for i in range(10_000)], ys, 100)
    assert any(math.isnan(y) and 4000 <= x < 6000 for x, y in zip(xs, few, strict=True))


def test_weights_are_level_between_changes_and_break_where_nobody_looked() -> None:
    points = [point(at, NOTHING, weight=5.0 if at <= 10 else 25.0) for at in [*range(1, 21), *range(80, 91)]]
    xs, ys = series.weights(points)
    drawn = [(x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(y)]
    assert drawn == [(0, 5), (10, 5), (10, 25), (20, 25), (79, 25), (90, 25)]
    assert len(xs) == len(drawn) + 1


def test_shares_that_are_not_exact_make_no_boundaries() -> None:
    points = series.in_order(point(at, NOTHING, weight=100 * 0.07) for at in range(1, 9))
    assert points[0].weight == 7.0
    assert series.boundaries([*points, point(9, NOTHING, weight=7.0)]) == []


def test_the_verdict_of_a_promotion_falls_before_the_bake_and_a_roll_back_during_it() -> None:
    rollout, points = promoted()
    plan = rollout.plan.model_copy(update={"bake_seconds": 30.0})
    bake = [p.model_copy(update={"at": points[-1].at + 1 + i, "weight": 95.0}) for i, p in enumerate(points[:30])]
    watched = rollout.steps[-1].model_copy(update={"weight": 95.0, "decision": "continue"})
    baked = rollout.model_copy(update={"plan": plan, "steps": (*rollout.steps, watched)})
    assert series.verdict_at(baked, [*points, *bake]) == points[-1].at
    undone = baked.model_copy(update={"outcome": "rolled_back"})
    assert series.verdict_at(undone, [*points, *bake]) == bake[-1].at
    asked = rollout.steps[-1].model_copy(update={"at": 60.0})
    assert series.verdict_at(baked.model_copy(update={"steps": (asked, watched)}), points) == 60.0, "then a person was"
    late = watched.model_copy(update={"at": 900.0})
    silent = undone.model_copy(update={"decided_by": "deadline", "steps": (late,)})
    assert series.verdict_at(silent, points) == 900.0, "nobody called for a while before"


def test_the_average_of_evidence_is_weighted_like_the_judges_and_never_overflows() -> None:
    assert series.log_total({"a": math.log(4), "b": math.log(8)}, {"a": 3.0, "b": 1.0}) == pytest.approx(math.log(5))
    assert series.log_total({"a": 5000.0, "unknown": 0.0}, {"a": 1.0}) == pytest.approx(5000.0 - math.log(2))
    assert series.log_total({"a": math.inf, "b": 0.0}, {}) == math.inf
    assert series.log_total({"a": -math.inf}, {}) == -math.inf
    assert series.log_total({"a": math.nan}, {}) is None
    assert series.log_total({}, {}) is None


def test_the_average_is_what_the_judge_decides_by() -> None:
    """The same windows through the real judge: its total is the line that the plot draws."""
    rollout, points = promoted()
    judge = Judge(settings_of(rollout.plan.judge))
    for index, p in enumerate(points):
        latency = Histogram.from_seconds([0.01 + 0.001 * (i % 9) for i in range(p.canary.requests)])
        window = Window(
            str(index),
            Arm(p.canary.requests, p.canary.failures, latency),
            Arm(p.stable.requests, p.stable.failures),
            1.0,
        )
        verdict = judge.observe(window)
        assert series.log_total(verdict.harm, words.weights(rollout)) == pytest.approx(verdict.harm_total)
    assert len(verdict.harm) == 2
    assert verdict.harm_total != 0.0
