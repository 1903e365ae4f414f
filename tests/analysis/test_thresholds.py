import json

import pytest

from prefect_modeldeploy.analysis import Arm, Histogram, Moments, Phase, Quality, Rule, ThresholdJudge, Window
from prefect_modeldeploy.analysis.thresholds import Counts, assess
from prefect_modeldeploy.errors import InvalidInput


def window(number, failures=0, requests=100, seconds=10.0, **arm):
    return Window(f"{number}", Arm(requests, failures, **arm), Arm(900, 9), seconds)


ERRORS = Rule(name="errors", failure="canary.error_rate > 0.05", failure_limit=2, count=10, interval_seconds=10)


def test_more_failures_than_the_limit_roll_back():
    judge = ThresholdJudge((ERRORS,))
    verdicts = [judge.observe(window(number, failures=10)).decision for number in range(4)]
    assert verdicts == ["continue", "continue", "roll_back", "roll_back"]
    assert judge.verdict().reason == 'rule "errors" is failed: failed (3) > failure_limit (2)'


def test_enough_good_measurements_promote():
    judge = ThresholdJudge((ERRORS,))
    verdicts = [judge.observe(window(number)).decision for number in range(10)]
    assert verdicts == ["continue"] * 9 + ["promote"]


def test_no_data_is_inconclusive_and_decides_nothing():
    judge = ThresholdJudge((ERRORS,))
    for number in range(20):
        verdict = judge.observe(Window(f"{number}", Arm(0, 0), Arm(900, 9), 10.0))
    assert verdict.decision == "continue"
    assert "inconclusive (1) > inconclusive_limit (0)" in verdict.reason


def test_windows_are_added_up_until_the_next_measurement_is_due():
    rule = Rule(name="p99", failure="canary.p99 > 0.5 || canary.requests != 300", count=1, initial_delay_seconds=30)
    judge = ThresholdJudge((rule,))
    for number in range(3):
        slow = Histogram.from_seconds([0.1] * 100)
        verdict = judge.observe(window(number, latency=slow))
    assert verdict.decision == "promote"
    assert verdict.seconds == 30


def test_conditions_know_quality_cost_and_further_queries():
    rule = Rule(
        name="all",
        success="canary.accuracy > 0.8 && canary.disagreement < 0.2 && canary.cost < 3 && gpu_memory < 10 && "
        "baseline.error_rate == 0.01",
    )
    judge = ThresholdJudge((rule,))
    quality = Quality(labelled=10, correct=9, compared=10, agreed=9)
    verdict = judge.observe(window(1, quality=quality, cost=Moments.from_values([2.0])), values={"gpu_memory": [9.0]})
    assert verdict.decision == "promote"


def test_a_dry_run_is_measured_and_decides_nothing():
    dry = Rule(name="dry", failure="true", dry_run=True)
    judge = ThresholdJudge((dry, Rule(name="good", success="true")))
    assert judge.observe(window(1)).decision == "promote"
    assert judge.phases["dry"][0] is Phase.FAILED


def test_a_rule_without_an_end_is_settled_when_the_steps_are_over():
    judge = ThresholdJudge((Rule(name="endless", failure="canary.error_rate > 0.05", interval_seconds=10),))
    verdicts = [judge.observe(window(number)).decision for number in range(50)]
    assert set(verdicts) == {"continue"}
    assert judge.verdict(terminating=True).decision == "promote"


def test_errors_in_a_row_end_a_rule_and_single_ones_do_not():
    rule = Rule(name="r", success="missing > 1", interval_seconds=10, count=5)
    judge = ThresholdJudge((rule,))
    for number in range(4):
        assert judge.phases["r"][0] is not Phase.ERROR
        judge.observe(window(number))
    judge.observe(window(5))
    assert judge.phases["r"][0] is Phase.ERROR
    assert "unknown name" not in judge.verdict().reason
    assert judge.verdict().decision == "continue"


def test_a_wrong_split_stops_the_rules_too():
    judge = ThresholdJudge((ERRORS,), canary_share=0.1)
    verdict = judge.observe(Window("1", Arm(500, 500), Arm(500, 0), 10.0))
    assert not verdict.split_ok
    assert verdict.decision == "continue"


def test_restarts_change_nothing_and_windows_count_once():
    rules = (
        ERRORS,
        Rule(name="slow", failure="canary.p90 > 1.0", interval_seconds=25, count=3, initial_delay_seconds=20),
    )
    straight = resumed = ThresholdJudge(rules)
    for number in range(9):
        next_window = window(number, failures=number % 7, latency=Histogram.from_seconds([0.1 * number + 0.01] * 5))
        expected = straight.observe(next_window)
        if resumed is not straight:
            assert resumed.observe(next_window) == expected
            assert resumed.observe(next_window) == expected
        state = json.dumps(resumed.state())
        assert len(state) < 2000
        resumed = ThresholdJudge.restore(rules, json.loads(state))
    assert resumed.phases == straight.phases
    with pytest.raises(InvalidInput, match="other rules"):
        ThresholdJudge.restore((ERRORS,), json.loads(state))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"failure_limit": -1}, "failure_limit"),
        ({"count": -1}, "count"),
        ({"interval_seconds": -1.0}, "interval_seconds"),
        ({"inconclusive_limit": -2}, "inconclusive_limit"),
    ],
)
def test_rules_that_cannot_work_are_refused(fields, field):
    with pytest.raises(InvalidInput, match=field):
        Rule(name="r", **fields)


def test_a_condition_that_cannot_be_parsed_never_starts():
    with pytest.raises(InvalidInput, match="condition"):
        ThresholdJudge((Rule(name="r", success="1 <"),))


def test_successes_in_a_row_are_interrupted_by_anything_else():
    counts = Counts()
    for phase in (Phase.SUCCESSFUL, Phase.SUCCESSFUL, Phase.INCONCLUSIVE, Phase.SUCCESSFUL):
        counts = counts.add(phase)
    assert (counts.count, counts.consecutive_success) == (4, 1)
    rule = Rule(name="r", consecutive_success_limit=2, inconclusive_limit=1, interval_seconds=1)
    assert assess(rule, counts)[0] is Phase.RUNNING
    assert assess(rule, counts.add(Phase.SUCCESSFUL))[0] is Phase.SUCCESSFUL
