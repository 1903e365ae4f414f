"""Model quality, agreement, drift and cost are judged like failures: harm, safety, or nothing yet."""

import math

import numpy as np
import pytest

from prefect_modeldeploy.analysis import (
    Accuracy,
    Agreement,
    Arm,
    Cost,
    Drift,
    Failures,
    Judge,
    JudgeSettings,
    Latency,
    Moments,
    Quality,
    Window,
)
from prefect_modeldeploy.errors import InvalidInput


def judged(metric, arms, count=120, history=(), seed=1):
    """The first verdict on windows whose arms are drawn by `arms(rng)`."""
    judge, rng = Judge(JudgeSettings(metrics=(metric,), history=history)), np.random.default_rng(seed)
    verdict = judge.verdict()
    for number in range(count):
        canary, baseline = arms(rng)
        verdict = judge.observe(Window(f"{number}", canary, baseline, 10.0))
        if verdict.decision != "continue":
            break
    return verdict


def labelled(rng, count, wrong):
    return Arm(count, 0, quality=Quality(labelled=count, correct=count - int(rng.binomial(count, wrong))))


@pytest.mark.parametrize(("wrong", "decision"), [(0.10, "promote"), (0.20, "roll_back")])
def test_accuracy_on_labelled_requests(wrong, decision):
    verdict = judged(Accuracy(), lambda rng: (labelled(rng, 100, wrong), labelled(rng, 400, 0.10)))
    assert verdict.decision == decision
    assert verdict.readings["accuracy"].baseline == pytest.approx(0.1, abs=0.05)


def shadowed(rng, disagree):
    return Arm(100, 0, quality=Quality(compared=50, agreed=50 - int(rng.binomial(50, disagree)))), Arm(400, 0)


@pytest.mark.parametrize(("disagree", "decision"), [(0.02, "promote"), (0.12, "roll_back")])
def test_agreement_on_shadowed_requests(disagree, decision):
    assert judged(Agreement(), lambda rng: shadowed(rng, disagree)).decision == decision


def predicted(rng, count, shift):
    return Arm(count, 0, quality=Quality(values=tuple((shift + rng.standard_normal(count)).tolist())))


@pytest.mark.parametrize("past", [0, 20], ids=["no history", "history"])
@pytest.mark.parametrize(("shift", "decision"), [(0.0, "promote"), (0.6, "roll_back")])
def test_drift_of_the_predicted_numbers(shift, decision, past):
    rng = np.random.default_rng(9)
    history = [predicted(rng, 100, 0.0) for _ in range(past)]
    verdict = judged(Drift(), lambda rng: (predicted(rng, 100, shift), predicted(rng, 200, 0.0)), history=history)
    assert verdict.decision == decision
    assert 0.0 <= verdict.readings["drift"].canary <= 1.0


def test_no_disagreement_at_all_is_no_harm_and_other_numbers_are_not_safe():
    agreed = Judge(JudgeSettings(metrics=(Agreement(),)))
    for number in range(100):
        quality = Quality(compared=50, agreed=50)
        verdict = agreed.observe(Window(f"{number}", Arm(100, 0, quality=quality), Arm(400, 0), 10.0))
    assert verdict.harm["agreement"] < 0.0 < verdict.safe["agreement"]
    rng = np.random.default_rng(5)
    drifted = Judge(JudgeSettings(metrics=(Drift(),), history=[predicted(rng, 500, 0.0)]))
    verdict = drifted.observe(Window("1", predicted(rng, 5000, 0.6), predicted(rng, 5000, 0.0), 10.0))
    assert verdict.safe["drift"] < 0.0 < verdict.harm["drift"]


def costly(rng, count, mean):
    return Arm(count, 0, cost=Moments.from_values((mean * rng.gamma(4.0, 0.25, count)).tolist()))


@pytest.mark.parametrize(("mean", "decision"), [(1.0, "promote"), (1.2, "roll_back")])
def test_cost_of_a_request(mean, decision):
    assert judged(Cost(), lambda rng: (costly(rng, 50, mean), costly(rng, 450, 1.0))).decision == decision


@pytest.mark.slow
def test_the_same_cost_is_hardly_ever_harm():
    verdicts = [
        judged(Cost(margin=0.001), lambda rng: (costly(rng, 20, 1.0), costly(rng, 180, 1.0)), seed=seed)
        for seed in range(100)
    ]
    assert sum(verdict.decision == "roll_back" for verdict in verdicts) <= 8


def test_the_same_distribution_is_hardly_ever_drift():
    def arms(rng):
        return predicted(rng, 50, 0.0), predicted(rng, 50, 0.0)

    verdicts = [judged(Drift(tolerated=0.01, margin=0.011), arms, seed=seed, count=40) for seed in range(40)]
    assert sum(verdict.decision == "roll_back" for verdict in verdicts) <= 4


def test_bursts_of_cost_in_the_history_slow_the_evidence_down():
    rng = np.random.default_rng(3)
    calm = [costly(rng, 500, 1.0) for _ in range(60)]
    bursty = [costly(rng, 500, mean) for mean in rng.gamma(4.0, 0.25, 60)]

    def arms(rng):
        return costly(rng, 50, 1.3), costly(rng, 450, 1.0)

    assert judged(Cost(), arms, history=bursty).seconds > judged(Cost(), arms, history=calm).seconds


def test_all_metrics_must_be_safe_and_one_alone_can_roll_back():
    metrics = (Failures(), Accuracy())

    def arms(rng, wrong):
        return labelled(rng, 100, wrong), labelled(rng, 900, 0.05)

    rng = np.random.default_rng(1)
    judge = Judge(JudgeSettings(metrics=metrics))
    for number in range(60):
        verdict = judge.observe(Window(f"{number}", *arms(rng, 0.2), 10.0))
        if verdict.decision != "continue":
            break
    assert verdict.decision == "roll_back"
    assert verdict.decided_by == "accuracy"


def test_a_critical_metric_has_an_alarm_of_its_own():
    """Eight idle metrics in the average delay an alarm by ln 9; a part of alpha for this one alone does not."""
    idle = tuple(Accuracy(name=f"idle-{number}", required=False) for number in range(8))

    def seconds_until_rolled_back(metrics):
        judge, rng = Judge(JudgeSettings(metrics=metrics)), np.random.default_rng(4)
        for number in range(200):
            arms = Arm(100, int(rng.binomial(100, 0.04))), Arm(900, int(rng.binomial(900, 0.01)))
            verdict = judge.observe(Window(f"{number}", *arms, 1.0))
            if verdict.decision == "roll_back":
                assert verdict.decided_by == "critical"
                return verdict.seconds
        raise AssertionError("never rolled back")

    together = seconds_until_rolled_back((Failures(name="critical", weight=1.0), *idle))
    alone = seconds_until_rolled_back((Failures(name="critical", alpha=0.04), *idle))
    assert alone < together


def test_a_part_of_alpha_buys_no_more_than_itself():
    judge = Judge(JudgeSettings(metrics=(Failures(name="critical", alpha=0.001), Accuracy(required=False))))
    evidence = 0.0
    for number in range(100):
        verdict = judge.observe(Window(f"{number}", Arm(100, 3), Arm(900, 9), 1.0))
        if verdict.decision == "roll_back":
            break
        evidence = verdict.harm["critical"]
    assert verdict.decision == "roll_back"
    assert evidence > math.log(20.0), "the whole alpha would have been enough before"
    assert verdict.harm["critical"] >= math.log(1000.0) > evidence


def test_more_alpha_than_there_is_cannot_be_given_away():
    with pytest.raises(InvalidInput, match="own parts"):
        JudgeSettings(metrics=(Failures(alpha=0.06), Accuracy()))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Agreement(tolerated=0.0), "agreement.tolerated"),
        (lambda: Drift(tolerated=0.0), "drift.tolerated"),
        (lambda: Accuracy(weight=0.0), "accuracy.weight"),
        (lambda: Failures(margin=1.5), "failures.margin"),
        (lambda: Failures(alpha=0.0), "failures.alpha"),
        (lambda: Latency(factor=0.5), "latency.factor"),
        (lambda: Latency(quantiles=(99.0,)), "latency.quantiles"),
        (lambda: Latency(thresholds=(-1.0,)), "latency.thresholds"),
    ],
)
def test_metrics_that_cannot_work_are_refused_by_name(make, field):
    with pytest.raises(InvalidInput, match=field):
        make()
