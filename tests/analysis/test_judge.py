import json
import math
from itertools import pairwise

import numpy as np
import pytest

from prefect_modeldeploy.analysis import Arm, Failures, Histogram, Judge, JudgeSettings, Latency, Verdict, Window
from prefect_modeldeploy.analysis.comparison import Limits
from prefect_modeldeploy.errors import InvalidInput
from tests.analysis.simulation import history, latencies, windows

FAILURES = (Failures(),)


def judge_until_decided(judge: Judge, stream) -> Verdict:
    verdict = judge.verdict()
    for window in stream:
        verdict = judge.observe(window)
        if verdict.decision != "continue":
            break
    return verdict


class TestDecisions:
    @pytest.mark.parametrize("seed", range(5))
    def test_a_canary_that_fails_one_request_in_five_is_out_after_seconds(self, seed):
        judge = Judge(JudgeSettings(history=history(seed)))
        verdict = judge_until_decided(judge, windows(seed, canary=0.2, seconds=1.0))
        assert verdict.decision == "roll_back"
        assert verdict.decided_by == "failures"
        assert verdict.seconds <= 20
        assert verdict.harm_total >= verdict.harm_limit

    @pytest.mark.parametrize("seed", range(5))
    def test_a_good_canary_is_promoted_on_proof(self, seed):
        verdict = judge_until_decided(Judge(JudgeSettings(history=history(seed))), windows(seed, canary=0.01))
        assert verdict.decision == "promote"
        assert all(
            evidence >= verdict.safe_limit for name, evidence in verdict.safe.items() if name in verdict.readings
        )
        assert 60 <= verdict.seconds <= 1200

    def test_no_traffic_is_never_a_verdict(self):
        judge = Judge(JudgeSettings())
        for number in range(500):
            verdict = judge.observe(Window(f"w{number}", Arm(0, 0), Arm(400, 4), 1.0))
            assert verdict.decision == "continue"
        assert verdict.harm == {"failures": pytest.approx(0.0, abs=1e-6), "latency": pytest.approx(0.0, abs=1e-6)}
        assert "no data" in verdict.reason
        assert verdict.forecast_seconds is None

    def test_a_canary_alone_proves_nothing(self):
        judge = Judge(JudgeSettings())
        for number in range(500):
            verdict = judge.observe(Window(f"w{number}", Arm(400, 0), Arm(0, 0), 1.0))
        assert verdict.decision == "continue"

    def test_an_incident_on_both_arms_rolls_nothing_back(self):
        judge = Judge(JudgeSettings(history=history(3), metrics=FAILURES))
        for window in windows(3, canary=0.2, baseline=0.2, count=60):
            assert judge.observe(window).decision != "roll_back"

    def test_rolling_back_is_final_though_the_evidence_may_vanish(self):
        judge = Judge(JudgeSettings(history=history(4), metrics=FAILURES))
        bad = judge_until_decided(judge, windows(4, canary=0.05))
        assert bad.decision == "roll_back"
        for w in windows(5, canary=0.0, count=100):
            verdict = judge.observe(Window(f"good-{w.id}", w.canary, w.baseline, w.seconds))
        assert verdict.harm_total < verdict.harm_limit, "else this shows nothing"
        assert verdict.decision == "roll_back"
        assert verdict.p_harm["failures"] <= bad.p_harm["failures"], "a p-value that holds at every look only falls"

    def test_a_canary_that_was_safe_and_turns_bad_is_not_promoted_any_more(self):
        judge = Judge(JudgeSettings(history=history(4), metrics=FAILURES))
        good = judge_until_decided(judge, windows(4, canary=0.01))
        assert good.decision == "promote"
        for w in windows(5, canary=0.04, count=6):
            verdict = judge.observe(Window(f"worse-{w.id}", w.canary, w.baseline, w.seconds))
        assert verdict.decision != "promote"
        assert verdict.p_safe["failures"] <= good.p_safe["failures"]

    def test_the_margin_of_rare_failures_is_a_doubling(self):
        """At 0.2 % a canary of 0.6 % is within the margin of one point, and must not pass for that."""
        assert [Limits(0.01).capped(rate).margin for rate in (0.5, 0.004, 0.00001)] == [0.01, 0.004, 0.001]
        judge = Judge(JudgeSettings(history=history(7, rate=0.002), metrics=FAILURES))
        stream = windows(7, canary=0.006, baseline=0.002, share=0.5, per_second=10.0)
        assert judge_until_decided(judge, stream).decision == "roll_back"

    def test_a_canary_that_turns_bad_late_is_still_found_soon(self):
        judge = Judge(JudgeSettings(history=history(6), metrics=FAILURES))
        good = list(windows(6, canary=0.01, count=360))
        bad = [Window(f"bad-{w.id}", w.canary, w.baseline, w.seconds) for w in windows(7, canary=0.05, count=60)]
        for window in good:
            judge.observe(window)
        verdict = judge_until_decided_to_roll_back(judge, bad)
        assert verdict.decision == "roll_back"
        assert verdict.seconds - 3600 <= 120

    def test_enough_requests_are_waited_for_and_not_one_more(self):
        def promoted_at(min_requests):
            settings = JudgeSettings(history=history(8), metrics=FAILURES, min_requests=min_requests)
            return judge_until_decided(Judge(settings), windows(8, canary=0.01))

        usual = promoted_at(0)
        assert promoted_at(usual.canary_requests) == usual
        assert promoted_at(usual.canary_requests + 1).windows > usual.windows
        never = promoted_at(100_000)
        assert never.decision == "continue"
        assert "more canary requests" in never.reason
        assert never.forecast_seconds == pytest.approx((100_000 - never.canary_requests) / 5.0, rel=0.1)

    def test_the_deadline_marks_an_undecided_verdict_and_decides_nothing(self):
        settings = JudgeSettings(max_seconds=30.0, metrics=FAILURES)
        verdicts = [Judge(settings).verdict()]
        judge = Judge(settings)
        verdicts += [judge.observe(Window(f"{n}", Arm(1, 0), Arm(9, 0), 10.0)) for n in range(4)]
        assert [v.expired for v in verdicts] == [False, False, False, True, True]
        assert {v.decision for v in verdicts} == {"continue"}

    def test_an_undecided_verdict_forecasts_the_missing_time(self):
        judge = Judge(JudgeSettings(history=history(9), metrics=FAILURES))
        stream = list(windows(9, canary=0.01))
        forecast = [judge.observe(window).forecast_seconds for window in stream[:6]][-1]
        verdict = judge_until_decided(judge, stream[6:])
        assert forecast is not None
        assert (verdict.seconds - 60) / 4 <= forecast <= (verdict.seconds - 60) * 4


def judge_until_decided_to_roll_back(judge: Judge, stream) -> Verdict:
    verdict = judge.verdict()
    for window in stream:
        verdict = judge.observe(window)
        if verdict.decision == "roll_back":
            break
    return verdict


class TestLatency:
    def stream(self, seed, slower, count=60, per_second=50):
        rng = np.random.default_rng(seed)
        for number in range(count):
            n_c, n_b = per_second, per_second * 9
            yield Window(
                f"w{number}",
                Arm(n_c, 0, latencies(rng, n_c, slower)),
                Arm(n_b, 0, latencies(rng, n_b)),
                10.0,
            )

    def past(self, seed):
        rng = np.random.default_rng(seed)
        return [Arm(500, 0, latencies(rng, 500)) for _ in range(60)]

    def test_a_quarter_slower_is_found(self):
        settings = JudgeSettings(history=self.past(1), metrics=(Latency(),))
        verdict = judge_until_decided(Judge(settings), self.stream(1, 1.25))
        assert verdict.decision == "roll_back"
        assert verdict.decided_by == "latency"
        assert verdict.seconds <= 120

    def test_thresholds_come_from_windows_that_are_not_judged_when_there_is_no_history(self):
        judge = Judge(JudgeSettings(metrics=(Latency(),)))
        first = next(self.stream(2, 3.0))
        verdict = judge.observe(first)
        assert verdict.harm["latency"] == pytest.approx(0.0, abs=1e-6)
        verdict = judge_until_decided(judge, list(self.stream(2, 3.0))[1:])
        assert verdict.decision == "roll_back"

    @pytest.mark.parametrize(("factor", "decision"), [(1.0, "roll_back"), (1.5, "promote")])
    def test_slowness_up_to_the_factor_is_tolerated(self, factor, decision):
        settings = JudgeSettings(history=self.past(3), metrics=(Latency(factor=factor),))
        assert judge_until_decided(Judge(settings), self.stream(3, 1.25, count=200)).decision == decision

    def test_what_is_as_fast_as_the_threshold_is_not_slower(self):
        """All take the same time, which is the threshold: nothing is slower, on either arm."""
        same = Histogram.from_seconds([0.2] * 100)
        judge = Judge(JudgeSettings(metrics=(Latency(thresholds=(0.2,)),)))
        verdict = judge.observe(Window("1", Arm(100, 0, same), Arm(100, 0, same), 10.0))
        assert verdict.readings["latency"] == (0.0, 0.0)

    def test_every_threshold_must_be_safe_before_the_promotion(self):
        """The median is as before, and three times as many are slower than the p99: not worse is proven of one only."""
        usual, tail = {500: 50, 520: 49, 600: 1}, {500: 50, 520: 47, 600: 3}
        judge = Judge(JudgeSettings(history=[Arm(100, 0, Histogram(usual))] * 60, metrics=(Latency(),)))
        for number in range(8):
            arms = Arm(100, 0, Histogram(tail)), Arm(900, 0, Histogram({at: 9 * n for at, n in usual.items()}))
            verdict = judge.observe(Window(f"{number}", *arms, 10.0))
            assert verdict.decision != "promote"
        assert verdict.safe["latency"] < 0.0

    def test_few_slow_answers_in_a_short_history_do_not_shrink_the_margin_below_the_quantile(self):
        """One percent is slower than the p99 by definition, also where a history of 100 requests shows none."""
        history = [Arm(100, 0, Histogram({500: 100}))]
        judge = Judge(JudgeSettings(history=history, metrics=(Latency(quantiles=(0.99,)),)))
        for number in range(20):
            arms = Arm(100, 0, Histogram({500: 100})), Arm(900, 0, Histogram({500: 900}))
            verdict = judge.observe(Window(f"{number}", *arms, 1.0))
            if verdict.decision == "promote":
                break
        assert verdict.decision == "promote"
        assert verdict.canary_requests <= 1000, "a margin of 0.1 % would take thousands"

    def test_a_promotion_waits_for_latency_that_was_asked_for_and_never_measured(self):
        settings = JudgeSettings(history=history(1), metrics=(Failures(), Latency()))
        verdict = judge_until_decided(Judge(settings), windows(1, canary=0.01, count=200))
        assert verdict.decision == "continue"
        assert verdict.reason.startswith("latency: no data")


class TestOnceOnly:
    def test_a_window_delivered_twice_counts_once(self):
        once, twice = Judge(JudgeSettings()), Judge(JudgeSettings())
        for window in windows(1, canary=0.02, count=30):
            once.observe(window)
            first = twice.observe(window)
            assert twice.observe(window) == first
        assert once.state() == twice.state()

    def test_a_retried_task_may_repeat_the_last_64_windows(self):
        judge, stream = Judge(JudgeSettings()), list(windows(2, canary=0.01, count=200))
        for window in stream:
            judge.observe(window)
        before = judge.state()
        for window in stream[-64:]:
            judge.observe(window)
        assert judge.state() == before


class TestState:
    def test_a_restart_after_every_window_changes_no_bit(self):
        settings = JudgeSettings(history=history(1), metrics=(Failures(), Latency()))
        straight, resumed = Judge(settings), Judge(settings)
        rng = np.random.default_rng(1)
        for number, w in enumerate(windows(1, canary=0.015, count=120)):
            window = Window(
                w.id,
                Arm(w.canary.requests, w.canary.failures, latencies(rng, w.canary.requests)),
                Arm(w.baseline.requests, w.baseline.failures, latencies(rng, w.baseline.requests)),
                w.seconds,
                share=0.1 if number < 60 else 0.2,
            )
            expected = straight.observe(window)
            assert resumed.observe(window) == expected
            resumed = Judge.restore(settings, json.loads(json.dumps(resumed.state())))
        assert straight.state() == resumed.state()

    def test_the_history_is_not_needed_to_go_on(self):
        settings = JudgeSettings(history=history(2))
        judge, stream = Judge(settings), list(windows(2, canary=0.012, count=40))
        for window in stream[:20]:
            judge.observe(window)
        resumed = Judge.restore(JudgeSettings(), judge.state())
        for window in stream[20:]:
            assert judge.observe(window) == resumed.observe(window)

    def test_other_rules_or_damage_are_refused(self):
        state = Judge(JudgeSettings()).state()
        with pytest.raises(InvalidInput, match="other settings"):
            Judge.restore(JudgeSettings(alpha=0.01), state)
        with pytest.raises(InvalidInput, match="schema"):
            Judge.restore(JudgeSettings(), {**state, "schema": 99})
        for damaged in (state["judge"][:10], state["judge"] + "00000"):
            with pytest.raises(InvalidInput, match="damaged"):
                Judge.restore(JudgeSettings(), {**state, "judge": damaged})

    def test_a_verdict_is_json(self):
        judge = Judge(JudgeSettings(history=history(1)))
        verdict = [judge.observe(window) for window in windows(1, canary=0.01, count=10)][-1]
        saved = json.loads(json.dumps(verdict.to_dict()))
        assert saved["decision"] == verdict.decision
        assert saved["readings"]["failures"] == list(verdict.readings["failures"])


class TestSplit:
    def test_a_router_that_sends_half_instead_of_a_tenth_is_accused_and_nothing_is_judged(self):
        judge = Judge(JudgeSettings(canary_share=0.1, metrics=FAILURES))
        verdict = judge.observe(Window("1", Arm(250, 125), Arm(250, 0), 10.0))
        assert not verdict.split_ok
        assert verdict.decision == "continue"
        assert verdict.harm == {"failures": pytest.approx(0.0, abs=1e-6)}
        assert "10.00%" in verdict.reason
        assert "50.00%" in verdict.reason

    def test_the_window_knows_the_share_better_than_the_settings(self):
        judge = Judge(JudgeSettings(canary_share=0.1))
        assert judge.observe(Window("1", Arm(250, 2), Arm(250, 2), 10.0, share=0.5)).split_ok

    def test_steps_of_a_ramp_are_no_alarm(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        number = 0
        for share in (0.01, 0.05, 0.25, 0.5, 0.75):
            for window in windows(number, 0.01, share=share, count=30):
                number += 1
                assert judge.observe(Window(f"{number}", window.canary, window.baseline, 10.0, share)).split_ok

    def test_a_router_that_goes_wrong_in_the_last_step_is_accused(self):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        shares = [(0.01, 0.01), (0.05, 0.05), (0.25, 0.25), (0.5, 0.4)]
        number = 0
        for asked, sent in shares:
            for window in windows(number, 0.01, share=sent, count=30):
                number += 1
                verdict = judge.observe(Window(f"{number}", window.canary, window.baseline, 10.0, asked))
        assert not verdict.split_ok

    @pytest.mark.parametrize(("canary", "ok"), [(960, True), (930, False)])
    def test_five_percent_of_the_share_are_tolerated_however_long_they_last(self, canary, ok):
        judge = Judge(JudgeSettings(metrics=FAILURES))
        for number in range(200):
            verdict = judge.observe(Window(f"{number}", Arm(canary, 9), Arm(10_000 - canary, 90), 10.0, share=0.1))
        assert verdict.split_ok is ok

    def test_an_alarm_needs_a_thousand_to_one_over_all_steps_together(self):
        """In each step the router is a little wrong, too little for an alarm in that step alone."""
        judge, evidence = Judge(JudgeSettings(metrics=FAILURES)), [0.0]
        for number, share in enumerate((0.1, 0.2, 0.3, 0.4)):
            n_c = round(1000 * share * 0.78)
            verdict = judge.observe(Window(f"{number}", Arm(n_c, 0), Arm(1000 - n_c, 0), 10.0, share=share))
            evidence.append(verdict.split_evidence)
        gains = [after - before for before, after in pairwise(evidence)]
        assert max(gains) < math.log(1000.0) <= evidence[-1]
        assert not verdict.split_ok

    def late(self, in_flight_seconds, late_seconds, answered=1.0, failing=0.0):
        """Windows of requests that ended in them; the canary answers, or fails, so many seconds later than stable."""
        judge = Judge(JudgeSettings(metrics=FAILURES, in_flight_seconds=in_flight_seconds))
        for second in range(120):
            ended = int(5 * answered) if second >= late_seconds else 0
            yield judge.observe(Window(f"{second}", Arm(ended, int(ended * failing)), Arm(45, 0), 1.0, share=0.1))

    def test_a_slow_canary_is_not_taken_for_a_wrong_router(self):
        assert all(verdict.split_ok for verdict in self.late(60.0, late_seconds=30))
        assert not all(verdict.split_ok for verdict in self.late(0.0, late_seconds=30)), "nobody said it may take long"

    def test_a_canary_that_hangs_is_rolled_back_at_its_first_timeouts(self):
        verdicts = list(self.late(60.0, late_seconds=60, failing=1.0))
        assert {verdict.decision for verdict in verdicts[:60]} == {"continue"}
        assert verdicts[65].decision == "roll_back"

    def test_what_requests_under_way_cannot_explain_is_held_against_the_router(self):
        assert not list(self.late(20.0, late_seconds=0, answered=0.5))[-1].split_ok
        judge = Judge(JudgeSettings(metrics=FAILURES, in_flight_seconds=300.0))
        verdict = judge.observe(Window("1", Arm(250, 2), Arm(250, 2), 10.0, share=0.1))
        assert not verdict.split_ok, "a canary that gets too much is seen at once"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("in_flight_seconds", -1.0),
        ("alpha", 0.0),
        ("beta", 1.0),
        ("margin", -0.1),
        ("min_requests", -1),
        ("canary_share", 10.0),
        ("metrics", ()),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(field, value):
    with pytest.raises(InvalidInput, match=field):
        JudgeSettings(**{field: value})


def test_metrics_need_names_of_their_own():
    with pytest.raises(InvalidInput, match="name of its own"):
        JudgeSettings(metrics=(Failures(), Failures()))
