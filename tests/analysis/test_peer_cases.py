"""What peers' own tests expect, run against our code. The cases are data; `peer_cases.json` names their sources."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from prefect_modeldeploy.analysis import Arm, Condition, Rule, ThresholdJudge, Window
from prefect_modeldeploy.analysis.points import PointsRule, classify, clean, cles, mean_ratio
from prefect_modeldeploy.analysis.thresholds import (
    Counts,
    Phase,
    assess,
    combine,
    due_in,
    measure,
    next_due,
    single_value,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout.plan import CanaryPlan

CASES = json.loads((Path(__file__).parent / "peer_cases.json").read_text())["cases"]

DIFFERENT = {
    "argo-eval-07": "a condition that cannot be parsed is refused when it is written, not an error while measuring",
    "argo-step-01": "steps end by evidence and step_seconds, there are no pause steps: see tests/rollout",
    "argo-step-03": "a plan is frozen once a rollout has started; an edited plan is a new rollout",
    "argo-step-05": "going back to stable is the flow roll_back, at once and without steps",
    "argo-step-07": "aborting is the state machine's ROLLING_BACK: see tests/rollout",
    "argo-step-09": "weights are set at the gateway, not approximated by replicas",
    "argo-pause-01": "no pause steps; step_seconds must be positive, so that every step is observed",
    "flagger-weights-01": "a plan lists its steps; stepWeight/maxWeight (which overshoots to 60 here) is not offered",
    "flagger-prom-03": "NaN is no data, not an error: undecided instead of a failed check",
    "flagger-check-03": "queries are the metric source's business; a condition sees their numbers only",
    **{
        f"kserve-valid-{number:02}": reason
        for number, reason in {
            1: "there is no rollout without a canary",
            3: "one canary at a time",
            5: "a step of 0 % would never end; the dark launch is the phase ATTACHED, with its smoke test",
            7: "an arm's name is fixed: stable or canary",
            9: "as above: the names cannot collide",
            11: "replicas are the deployment's own settings, not the canary's",
            13: "there are no workers",
        }.items()
    },
}


def of(area):
    cases = [case for case in CASES if case["area"] == area and case["id"] not in DIFFERENT]
    assert cases, f"no cases of {area}"
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


RULE_FIELDS = {
    "failureLimit": "failure_limit",
    "inconclusiveLimit": "inconclusive_limit",
    "consecutiveErrorLimit": "consecutive_error_limit",
    "consecutiveSuccessLimit": "consecutive_success_limit",
    "count": "count",
}
COUNT_FIELDS = {
    "consecutiveSuccess": "consecutive_success",
    "consecutiveError": "consecutive_error",
    **{name: name for name in ("successful", "failed", "inconclusive", "count", "error")},
}


def rule_of(metric):
    interval = 60.0 if "interval" in metric else 0.0
    fields = {ours: metric[theirs] for theirs, ours in RULE_FIELDS.items() if theirs in metric}
    return Rule(name="metric", interval_seconds=interval, **fields)


@of("metric_phase")
def test_counters_mean_what_they_mean_in_argo(case):
    counts = Counts(**{COUNT_FIELDS[name]: n for name, n in case["inputs"]["counts"].items() if name in COUNT_FIELDS})
    rule = rule_of(case["inputs"]["metric"])
    assert assess(rule, counts)[0] == case["expected"]["phase"]
    if case["expected"].get("phase_if_terminating"):
        assert assess(rule, counts, terminating=True)[0] == case["expected"]["phase_if_terminating"]


def rule_and_counts(name, description):
    if "failed 1" in description:
        return Rule(name=name), Counts(count=1, failed=1)
    if "inconclusive 1" in description:
        return Rule(name=name, interval_seconds=60), Counts(count=1, inconclusive=1)
    if description == "Running":
        return Rule(name=name, interval_seconds=60), Counts(count=1, successful=1)
    return Rule(name=name), Counts(count=1, successful=1)


@of("analysis_run_phase")
def test_rules_combine_as_metrics_do_in_argo(case):
    dry = case["inputs"].get("dry_run", [])
    rules = [rule_and_counts(name, text) for name, text in case["inputs"]["metrics"] if name not in dry]
    stands = [assess(rule, counts, terminating=case["inputs"].get("terminating", False)) for rule, counts in rules]
    expected = case["expected"]["phase"]
    assert combine([phase for phase, _ in stands]) == expected.split(";")[0].split(" ")[0]
    if "flips to Failed" in expected:
        assert stands[1][0] is Phase.FAILED
    if "message" in expected:
        assert "failed (1) >" in stands[1][1]


@of("condition_evaluation")
def test_two_conditions_make_a_measurement_as_in_argo(case):
    given = case["inputs"]

    def condition(text):
        return Condition(text) if text else None

    phase, _ = measure(condition(given["successCondition"]), condition(given["failureCondition"]), {})
    assert phase == case["expected"]["measurement_phase"]


def test_a_condition_that_cannot_be_parsed_is_refused_before_the_start():
    with pytest.raises(InvalidInput, match="condition"):
        Condition("<invalid>")


def scheduled(given, started):
    rule = Rule(
        name="r",
        interval_seconds=given.get("interval_s", 0.0),
        initial_delay_seconds=given.get("initial_delay_s", 0.0),
    )
    last = given.get("last_measured_s_ago", given.get("last_finished_s_ago"))
    counts = Counts() if last is None else Counts(count=1, successful=1)
    return due_in(rule, counts, started=started, last=last)


@of("measurement_schedule")
def test_measurements_are_due_when_they_are_in_argo(case):
    given, action = case["inputs"], case["expected"]["action"]
    if given.get("one_already") == "Failed":
        rules = (Rule(name="bad", failure="true"), Rule(name="other", success="true", count=5, interval_seconds=1))
        judge = ThresholdJudge(rules)
        judge.observe(Window("1", Arm(1, 0), Arm(1, 0), 1.0))
        before = judge.phases
        judge.observe(Window("2", Arm(1, 0), Arm(1, 0), 1.0))
        assert before == judge.phases
        assert before["bad"][0] is Phase.FAILED
        return
    parts = {"only": given} if "metric_a" not in given else {name: given[name] for name in ("metric_a", "metric_b")}
    wait = next_due({name: scheduled(part, given.get("run_started_s_ago", 1e9)) for name, part in parts.items()})
    if action.startswith("take"):
        assert (wait == 0.0) == (action != "take 0 measurements")
    else:
        assert wait == pytest.approx(float(action.split()[-2]))


@of("metric_parse")
def test_a_query_gives_one_number(case):
    assert single_value("query", [100.0]) == float(case["expected"]["result"])


def test_an_empty_answer_or_nan_is_no_data_and_two_series_are_refused():
    assert single_value("query", []) is None
    assert single_value("query", [math.nan]) is None
    with pytest.raises(InvalidInput, match="several series"):
        single_value("query", [10.0, 20.0])


@of("metric_check")
def test_a_range_is_a_condition(case):
    low, high = case["inputs"]["range"]
    condition = Condition(f"{low} <= value && value <= {high}")
    assert condition({"value": case["inputs"]["value"]}) == case["expected"]["passes"]


@of("weight_sequence")
def test_step_weights_are_a_plan(case):
    plan = CanaryPlan(steps=tuple(case["inputs"]["stepWeights"]))
    assert [100, *(100 - step for step in plan.steps)] == case["expected"]["primary_weight_after_each_tick"]


def floats(values):
    return [float(value) for value in values]


@of("metric_classification")
def test_points_are_classified_as_by_kayenta(case):
    given, expected = case["inputs"], case["expected"]
    rule = PointsRule(
        classifier=given["classifier"],
        direction=given["direction"],
        nan_strategy=given["nan_strategy"],
        critical=given["critical"],
        tolerance=given.get("tolerance", 0.25),
        confidence=given.get("confidence", 0.98),
        effect_size={"meanRatio": "mean_ratio", "cles": "cles"}[given.get("effect_size_measure", "meanRatio")],
        effect_bounds=tuple(given.get("effect_size_thresholds", (1.0, 1.0))),
        critical_bounds=tuple(given.get("critical_thresholds", (1.0, 1.0))),
    )
    found = classify(floats(given["experiment"]), floats(given["control"]), rule)
    assert found.label == expected.get("classification", found.label)
    assert found.critical == expected.get("critical", found.critical)
    if expected.get("deviation") == "NaN":
        assert math.isnan(found.deviation)
    if expected.get("reason_present"):
        assert found.reason


@of("effect_size")
def test_effects_are_as_large_as_for_kayenta(case):
    given, expected = case["inputs"], case["expected"]
    measure_effect = {"mean_ratio": mean_ratio, "cles": cles}[given["measure"]]
    found = measure_effect(np.array(given["experiment"]), np.array(given["control"]))
    assert found == pytest.approx(float(expected["value"]), abs=expected["abs_tol"], nan_ok=True)


@of("nan_handling")
def test_points_without_a_number_are_dropped_or_zero(case):
    assert clean(floats(case["inputs"]["data"]), case["inputs"]["strategy"]).tolist() == case["expected"]["data"]


def test_every_case_is_run_or_listed_with_a_reason():
    run = {
        "metric_phase", "analysis_run_phase", "condition_evaluation", "measurement_schedule", "metric_parse",
        "metric_check", "weight_sequence", "metric_classification", "effect_size", "nan_handling",
    }  # fmt: skip
    ids = {case["id"] for case in CASES}
    assert set(DIFFERENT) <= ids
    assert {case["id"] for case in CASES if case["area"] not in run} <= set(DIFFERENT)


def test_sparse_errors_that_kayenta_passes_are_evidence_here():
    """Kayenta #426: errors 0 1 2 1 0 0 against zeros pass there. With the counts behind them they count."""
    from prefect_modeldeploy.analysis import Failures, Judge, JudgeSettings

    errors = [0, 1, 2, 1, 0, 0]
    assert classify(floats(errors), [0.0] * 6, PointsRule()).label == "Pass"
    judge = Judge(JudgeSettings(metrics=(Failures(),), history=[Arm(1000, 0)] * 60))
    for number, failures in enumerate(errors):
        verdict = judge.observe(Window(f"{number}", Arm(100, failures), Arm(900, 0), 60.0))
    assert verdict.decision == "roll_back"
