"""What peers' own tests expect, run against our code. The cases are data; `peer_cases.json` names their sources."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from prefect_modeldeploy.analysis import Arm, Condition, Rule, ThresholdJudge, Window
from prefect_modeldeploy.analysis.points import PointsRule, classify, clean, cles, mean_ratio
from prefect_modeldeploy.analysis.thresholds import (
    Counts,
    assess,
    combine,
    due_in,
    measure,
    next_due,
    single_value,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout import (
    Actor,
    CanaryPlan,
    Effect,
    Phase,
    RolloutRecord,
    StepResult,
    abort,
    finish,
    judged,
    next_effect,
    step_over,
)
from prefect_modeldeploy.traffic.endpoint import Endpoint

CASES = json.loads((Path(__file__).parent / "peer_cases.json").read_text())["cases"]

DIFFERENT = {
    "argo-eval-07": "a condition that cannot be parsed is refused when it is written, not an error while measuring",
    "argo-step-03": "a plan is frozen once a rollout has started; an edited plan is a new rollout",
    "argo-step-09": "nothing waits for replicas to match a weight: the gateway's weights hold from the next request on",
    "argo-manual-03": "no pauses within a plan: a person is asked once, after the proof and before full traffic",
    "flagger-phase-03": "there is no second copy that could fail: the deployment that was judged becomes stable itself",
    "flagger-phase-05": "a newer rollout takes the endpoint over and the older one ends; it is not restarted",
    "flagger-phase-07": "no A/B tests that end after so many iterations: the judge says when it has seen enough",
    "flagger-weights-01": "a plan lists its steps; stepWeight/maxWeight (which overshoots to 60 here) is not offered",
    "flagger-check-03": "queries are the metric source's business; a condition sees their numbers only",
}
"""Cases that mean something else here, each with its reason."""

RUN: set[str] = set()


def of(area):
    """Run each case of an area; at the end none may be left over."""
    cases = [case for case in CASES if case["area"] == area and case["id"] not in DIFFERENT]
    assert cases, f"no cases of {area}"
    RUN.update(case["id"] for case in cases)
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def test_every_case_is_run_or_listed_with_its_reason():
    ids = {case["id"] for case in CASES}
    assert ids == RUN | set(DIFFERENT)
    assert not RUN & set(DIFFERENT)
    assert (len(CASES), len(RUN), len(DIFFERENT)) == (81, 72, 9)


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
        assert stands[1][0] == "Failed"
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
        assert before["bad"][0] == "Failed"
        return
    parts = {"only": given} if "metric_a" not in given else {name: given[name] for name in ("metric_a", "metric_b")}
    wait = next_due({name: scheduled(part, given.get("run_started_s_ago", 1e9)) for name, part in parts.items()})
    if action.startswith("take"):
        assert (wait == 0.0) == (action != "take 0 measurements")
    else:
        assert wait == pytest.approx(float(action.split()[-2]))


@of("metric_parse")
def test_a_query_gives_one_number_or_none(case):
    answer, expected = float(re.findall(r'"(.*)"', case["inputs"]["response"])[0]), case["expected"]["result"]
    assert single_value("query", [answer]) == (None if expected == "ErrNoValuesFound" else float(expected))


def test_an_empty_answer_is_no_data_and_two_series_are_refused():
    assert single_value("query", []) is None
    with pytest.raises(InvalidInput, match="several series"):
        single_value("query", [10.0, 20.0])


@of("metric_check")
def test_a_range_is_a_condition(case):
    low, high = case["inputs"]["range"]
    condition = Condition(f"{low} <= value && value <= {high}")
    assert condition({"value": case["inputs"]["value"]}) == case["expected"]["passes"]


T0 = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(steps, **fields):
    """A rollout with these weights, about to begin."""
    plan = CanaryPlan(steps=steps, step_seconds=60.0, **fields.pop("plan", {}))
    return RolloutRecord(
        **{"id": "r", "provider": "local", "model": "m", "endpoint": "m", "who": Actor(name="ada"), "plan": plan},
        **{"stable": "m-1", "canary": "m-2", "started_at": T0, **fields},
    )


def says(decision):
    nothing = dict.fromkeys(("canary_requests", "canary_failures", "stable_requests", "stable_failures"), 0)
    return StepResult(step=0, weight=0.0, seconds=60.0, decision=decision, reason=decision, **nothing)


@of("weight_sequence")
def test_weights_follow_the_plan_to_full_traffic(case):
    record, weights = rollout(tuple(case["inputs"]["stepWeights"])), []
    while (effect := next_effect(record)) is not None:
        if effect in (Effect.CLAIM, Effect.OBSERVE):
            weights.append(100 - record.weight)
        record = judged(record, says("promote"), T0) if effect is Effect.OBSERVE else finish(record, effect, T0)
    assert weights == case["expected"]["primary_weight_after_each_tick"]
    assert (record.weight, record.outcome) == (100.0, "promoted"), case["expected"]["then"]


@of("step_machine")
def test_steps_follow_one_another(case):
    given, expected = case["inputs"], case["expected"]["result"]
    weights = tuple(float(step.split()[1]) for step in given["steps"] if step.startswith("setWeight"))
    if given.get("abort"):
        record = abort(rollout(weights, phase=Phase.SHIFTED, step=given["step_index"]), "abort")
        assert (record.phase, record.weight) == (Phase.ROLLING_BACK, 0.0)
        assert next_effect(record) is Effect.RESTORE, expected
    elif given.get("change"):  # back to stable: the flow roll_back has no steps
        effects, record = [], rollout((), phase=Phase.ATTACHED, kind="roll_back")
        while (effect := next_effect(record)) is not None:
            effects.append(effect)
            record = finish(record, effect, T0)
        assert Effect.FILL in effects
        assert Effect.SHIFT not in effects, expected
    else:  # a weight and the pause after it are one step of ours
        began = T0 - timedelta(seconds=given["pause_started_s_ago"])
        record = rollout(weights, phase=Phase.SHIFTED, started_at=began, step_started_at=began)
        assert not step_over(record, "continue", began + timedelta(seconds=59))
        assert step_over(record, "continue", T0)
        record = judged(record, says("continue"), T0)
        assert (record.phase, record.step) == (Phase.ATTACHED, 1), expected


@of("pause_completed")
def test_a_wait_of_no_seconds_is_over_at_once(case):
    assert case["inputs"] == {"pause": "0s", "started": "now"}
    record = rollout((10.0,), phase=Phase.FULL, step_started_at=T0, plan={"bake_seconds": 0.0})
    assert step_over(record, "continue", T0) is case["expected"]["completed"]


@of("current_set_weight")
def test_the_weight_after_the_last_step_and_after_an_abort(case):
    record = rollout(tuple(case["inputs"]["steps"]), phase=Phase.FULL)
    if case["inputs"]["abort"]:
        record = abort(record.model_copy(update={"phase": Phase.SHIFTED}), "abort")
    assert record.weight == case["expected"]["weight"]


@of("needs_manual_action")
def test_when_a_person_is_asked(case):
    if case["inputs"]["pause_reason"] == "InconclusiveAnalysis":
        plan = {"on_undecided": "hold", "deadline_seconds": 60.0}
        began = T0 - timedelta(seconds=60)
        record = rollout((10.0,), phase=Phase.SHIFTED, started_at=began, step_started_at=began, plan=plan)
        manual = judged(record, says("continue"), T0).outcome == "held"
    else:  # a promotion without steps, as in blue/green
        manual = next_effect(rollout((), phase=Phase.ATTACHED)) is Effect.APPROVE
    assert manual is case["expected"]["manual"]


@of("phase_machine")
def test_too_many_failed_checks_are_a_failure(case):
    given = case["inputs"]
    rule = Rule(name="metric", failure="value > 50", failure_limit=given["threshold"] - 1, interval_seconds=60.0)
    phases = [assess(rule, Counts(count=n, failed=n))[0] for n in (given["failedChecks"] - 1, given["failedChecks"])]
    assert phases == ["Running", case["expected"]["phase"]]


ARMS = {
    "no canaries": [("stable", 100)],
    "v2 25 % + v3 25 %": [("stable", 50), ("v2", 25), ("v3", 25)],
    "0 % (dark launch)": [("stable", 100), ("v2", 0)],
    "canary without name": [("stable", 80), ("", 20)],
    "canary named as stable": [("stable", 80), ("stable", 20)],
    "maxReplicas set on canary": [("stable", 80), ("v2", 20, "maxReplicas")],
    "canary with workerSpec": [("stable", 80), ("v2", 20, "workerSpec")],
}
REFUSED_FOR = {
    "predictor.name is required": "name",
    "conflicts with stable": "a name of its own",
    "must not set maxReplicas": "maxReplicas",
    "must not set workerSpec": "workerSpec",
}


@of("spec_validation")
def test_who_may_answer_at_an_endpoint(case):
    def endpoint():
        arms = ARMS[case["inputs"]["spec"]]
        named = [{"name": name, "upstream": f"m-{n}", "weight": w} for n, (name, w, *_) in enumerate(arms)]
        return Endpoint(name="m", arms=[arm | dict.fromkeys(a[2:], 1) for arm, a in zip(named, arms, strict=True)])

    if case["expected"]["result"] == "ok":
        assert sum(endpoint().weights.values()) == 100
    else:
        with pytest.raises(ValidationError, match=REFUSED_FOR[case["expected"]["result"]]):
            endpoint()


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


def test_sparse_errors_that_kayenta_passes_are_evidence_here():
    """Kayenta #426: errors 0 1 2 1 0 0 against zeros pass there. With the counts behind them they count."""
    from prefect_modeldeploy.analysis import Failures, Judge, JudgeSettings

    errors = [0, 1, 2, 1, 0, 0]
    assert classify(floats(errors), [0.0] * 6, PointsRule()).label == "Pass"
    judge = Judge(JudgeSettings(metrics=(Failures(),), history=[Arm(1000, 0)] * 60))
    for number, failures in enumerate(errors):
        verdict = judge.observe(Window(f"{number}", Arm(100, failures), Arm(900, 0), 60.0))
    assert verdict.decision == "roll_back"
