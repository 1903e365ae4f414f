"""Nothing overflows, nothing underflows into evidence, and the state stays small, whatever comes in."""

import json
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
from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.memory import Memory
from prefect_modeldeploy.analysis.portfolio import round_down
from tests.analysis.simulation import latencies

FAILURES = (Failures(),)
HUGE = 2**33

EIGHT = (
    Failures(), Latency(), Accuracy(), Agreement(), Drift(), Cost(),
    Failures(name="failures-strict", margin=0.005), Accuracy(name="accuracy-strict", margin=0.005),
)  # fmt: skip


def full_arm(rng, requests, scale=1):
    return Arm(
        requests * scale,
        int(rng.binomial(requests, 0.01)) * scale,
        latencies(rng, requests),
        Quality(requests * scale, requests * scale - 5 * scale, 40 * scale, 39 * scale, tuple(rng.standard_normal(50))),
        Moments.from_values(rng.gamma(4.0, 0.25, requests)),
    )


def every_number(verdict):
    numbers = [verdict.harm_total, verdict.split_evidence, *verdict.p_harm.values(), *verdict.p_safe.values()]
    return [*numbers, *verdict.harm.values(), *verdict.safe.values()]


class TestExtremes:
    def test_counts_beyond_32_bits(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        for number in range(3):
            window = Window(f"{number}", Arm(HUGE, HUGE // 100), Arm(9 * HUGE, 9 * HUGE // 100), 1.0, share=0.1)
            verdict = judge.observe(window)
        assert all(map(math.isfinite, every_number(verdict)))
        assert verdict.decision == "promote"
        assert Judge.restore(judge.settings, judge.state()).verdict() == verdict

    def test_everything_fails_on_the_canary(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        verdict = judge.observe(Window("1", Arm(20, 20), Arm(180, 0), 1.0))
        assert verdict.decision == "roll_back"
        assert all(map(math.isfinite, every_number(verdict)))

    def test_everything_fails_on_both_arms_and_nothing_is_promoted(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        for number in range(100):
            verdict = judge.observe(Window(f"{number}", Arm(50, 50), Arm(450, 450), 1.0))
            assert verdict.decision == "continue"
        assert all(map(math.isfinite, every_number(verdict)))

    def test_a_baseline_without_a_failure_for_a_day_still_needs_more_than_one_failure(self):
        judge = Judge(JudgeSettings(metrics=FAILURES, history=[Arm(500, 0)] * 8640))
        assert judge.observe(Window("1", Arm(50, 1), Arm(450, 0), 10.0)).decision == "continue"
        decisions = [judge.observe(Window(f"{n}", Arm(50, 1), Arm(450, 0), 10.0)).decision for n in range(2, 8)]
        assert decisions[-1] == "roll_back"

    def test_nothing_ever_fails_and_the_canary_is_promoted(self):
        judge = Judge(JudgeSettings(metrics=FAILURES, history=[Arm(500, 0)] * 200))
        decisions = [judge.observe(Window(f"{n}", Arm(100, 0), Arm(900, 0), 1.0)).decision for n in range(600)]
        assert decisions[0] == "continue"
        assert decisions[-1] == "promote"

    @pytest.mark.parametrize("arms", [(Arm(0, 0), Arm(100, 1)), (Arm(100, 1), Arm(0, 0)), (Arm(0, 0), Arm(0, 0))])
    def test_zero_traffic_on_an_arm_changes_no_evidence(self, arms):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        before = judge.verdict()
        after = judge.observe(Window("1", *arms, 1.0))
        assert (after.harm, after.safe, after.decision) == (before.harm, before.safe, "continue")

    def test_hours_of_good_behaviour_do_not_use_up_the_evidence_floor(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        for number in range(4000):
            verdict = judge.observe(Window(f"{number}", Arm(100, 1), Arm(900, 9), 1.0))
        assert -10.0 < verdict.harm["failures"] < math.log(20.0)

    def test_windows_of_no_length_are_counted(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        for number in range(50):
            verdict = judge.observe(Window(f"{number}", Arm(100, 20), Arm(900, 9), 0.0))
        assert verdict.decision == "roll_back"
        assert verdict.forecast_seconds is None


class TestState:
    @pytest.mark.parametrize("scale", [1, 10**7], ids=["ordinary", "beyond 32 bits"])
    @pytest.mark.parametrize("past", [0, 40], ids=["no history", "history"])
    def test_eight_metrics_fit_into_two_kilobytes(self, past, scale):
        rng = np.random.default_rng(1)
        history = [full_arm(rng, 500, scale) for _ in range(past)]
        settings = JudgeSettings(metrics=EIGHT, history=history)
        judge, resumed = Judge(settings), Judge(settings)
        for number in range(80):
            window = Window(f"rollout/{number}", full_arm(rng, 60, scale), full_arm(rng, 400, scale), 1.0)
            assert judge.observe(window) == resumed.observe(window)
            state = json.dumps(judge.state())
            assert len(state) < 2000
            resumed = Judge.restore(settings, json.loads(state))

    def test_a_state_is_cut_off_nowhere_without_being_noticed(self):
        writer = Writer()
        writer.counts((0, 127, 128, HUGE))
        writer.singles((1.5, -2.25))
        writer.double(math.pi)
        reader = Reader(writer.text())
        assert reader.counts(4) == [0, 127, 128, HUGE]
        assert reader.singles(2) == [1.5, -2.25]
        assert reader.double() == math.pi
        assert reader.done
        with pytest.raises(ValueError, match="truncated"):
            reader.double()

    def test_ids_are_remembered_as_long_as_promised(self):
        memory = Memory()
        assert all(memory.add(f"w{number}") for number in range(200))
        memory = Memory(memory.text)
        assert not any(memory.add(f"w{number}") for number in range(136, 200))
        assert memory.add("w135")

    def test_rounding_never_makes_evidence(self):
        logs = [1.0, -1.0, 3.0000001, -745.123456789, 1e-12, 0.0, 88.7654321]
        assert all(rounded <= log for rounded, log in zip(round_down(logs), logs, strict=True))
