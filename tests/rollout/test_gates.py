"""Gates, as a specification: where a person is asked, and where each answer leads."""

from datetime import timedelta

import pytest

from prefect_modeldeploy.flows._effects import _way_back
from prefect_modeldeploy.rollout import (
    Actor,
    Answer,
    Approval,
    CanaryPlan,
    Effect,
    Phase,
    RolloutRecord,
    answered,
    asks_to_promote,
    expired,
    gate_of,
    in_full,
    judged,
    next_effect,
    passed_over,
)
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.rollout.test_machine import T0, record, result

EVERYWHERE = Approval(before=("traffic", "step", "promotion"))


def says(decision: str, state: RolloutRecord, seconds: float = 10) -> RolloutRecord:
    gate = gate_of(state) or "promotion"
    at = T0 + timedelta(seconds=seconds)
    answer = Answer(gate=gate, decision=decision, comment="why not", who=Actor(name="ada"), at=at)
    return answered(state, answer, at)


def test_nobody_is_asked_unless_the_rollout_wants_it() -> None:
    for phase in (Phase.READY, Phase.ATTACHED, Phase.JUDGED):
        assert gate_of(record(phase=phase, step=1)) is None
    assert not asks_to_promote(record(phase=Phase.JUDGED))
    assert asks_to_promote(record(phase=Phase.JUDGED, approval=EVERYWHERE))


def test_traffic_moves_after_a_yes_and_only_then() -> None:
    ready = record(phase=Phase.READY, approval=EVERYWHERE)
    assert (gate_of(ready), next_effect(ready)) == ("traffic", Effect.ASK)
    assert next_effect(says("promote", ready)) is Effect.ATTACH
    assert next_effect(says("extend", ready)) is Effect.ASK  # there is nothing to watch yet: asked again
    skipped = says("skip", ready)
    assert (next_effect(skipped), skipped.step) == (Effect.ATTACH, 1)
    refused = says("roll_back", ready)
    assert (refused.phase, refused.decided_by, refused.reason) == (
        Phase.ROLLING_BACK,
        "approval",
        "ada said so: why not",
    )


def test_the_first_step_needs_no_second_yes_and_each_further_one_does() -> None:
    assert next_effect(record(phase=Phase.ATTACHED, step=0, approval=EVERYWHERE)) is Effect.SHIFT
    second = record(phase=Phase.ATTACHED, step=1, approval=EVERYWHERE)
    assert (gate_of(second), next_effect(second)) == ("step 2", Effect.ASK)
    assert next_effect(says("promote", second)) is Effect.SHIFT


def test_extend_watches_the_step_once_more_and_asks_again() -> None:
    second = record(phase=Phase.ATTACHED, step=1, approval=EVERYWHERE)
    extended = says("extend", second)
    assert (extended.phase, extended.step, extended.weight) == (Phase.SHIFTED, 0, 10)
    assert extended.step_started_at == T0 + timedelta(seconds=10)
    again = judged(extended, result("continue"), T0 + timedelta(seconds=70))
    assert (again.step, gate_of(again)) == (1, "step 2")


def test_extend_after_the_deadline_gives_the_time_that_it_says() -> None:
    late = record(phase=Phase.JUDGED, step=1, approval=EVERYWHERE)
    extended = says("extend", late, seconds=1000)
    assert not expired(extended, T0 + timedelta(seconds=1050))
    assert expired(extended, T0 + timedelta(seconds=1061))


@pytest.mark.parametrize(("decision", "phase"), [("skip", Phase.APPROVED), ("promote_fully", Phase.APPROVED)])
def test_skipping_the_last_step_promotes(decision: str, phase: Phase) -> None:
    assert says(decision, record(phase=Phase.ATTACHED, step=1, approval=EVERYWHERE)).phase is phase


def test_skip_before_the_promotion_leaves_the_bake_out() -> None:
    plan = CanaryPlan(steps=(10, 50), bake_seconds=60)
    asked = record(phase=Phase.JUDGED, approval=EVERYWHERE, plan=plan)
    assert says("promote", asked).plan.bake_seconds == 60
    assert (says("skip", asked).phase, says("skip", asked).plan.bake_seconds) == (Phase.APPROVED, 0)


def test_undecided_at_the_deadline_a_person_can_be_asked() -> None:
    plan = CanaryPlan(steps=(10,), deadline_seconds=60, on_undecided="ask")
    shifted = record(phase=Phase.SHIFTED, plan=plan, step_started_at=T0)
    asked = judged(shifted, result("continue"), T0 + timedelta(seconds=61))
    assert (asked.phase, next_effect(asked), asks_to_promote(asked)) == (Phase.JUDGED, Effect.APPROVE, True)
    assert "undecided after 60 s" in asked.reason
    assert says("promote", asked).phase is Phase.APPROVED


def test_undecided_at_the_deadline_it_can_be_extended_once() -> None:
    plan = CanaryPlan(steps=(10,), deadline_seconds=60, on_undecided="extend")
    shifted = record(phase=Phase.SHIFTED, plan=plan, step_started_at=T0)
    longer = judged(shifted, result("continue"), T0 + timedelta(seconds=61))
    assert (longer.phase, longer.extended_seconds) == (Phase.SHIFTED, 60)
    ended = judged(longer, result("continue"), T0 + timedelta(seconds=121))
    assert (ended.outcome, ended.decided_by) == ("rolled_back", "deadline")


def test_orders_apply_where_they_mean_something() -> None:
    shifted = record(phase=Phase.SHIFTED)
    assert (passed_over(shifted, "go").phase, passed_over(shifted, "go").step) == (Phase.ATTACHED, 1)
    assert in_full(shifted, "go").phase is Phase.APPROVED
    for phase in (Phase.PLANNED, Phase.DEPLOYED, Phase.FULL, Phase.PROMOTED, Phase.ROLLING_BACK):
        assert in_full(record(phase=phase), "go") == record(phase=phase)
        assert passed_over(record(phase=phase), "go") == record(phase=phase)


def test_a_slow_way_back_goes_down_in_even_steps() -> None:
    arms = (EndpointArm(name="stable", upstream="a", weight=50), EndpointArm(name="canary", upstream="b", weight=50))
    endpoint = Endpoint(name="prod", arms=arms)
    assert _way_back(endpoint, 30) == [40.0, 30.0, 20.0, 10.0]
    assert _way_back(endpoint, 0) == []


def test_a_promotion_without_steps_is_asked_for_once() -> None:
    attached = record(phase=Phase.ATTACHED, approval=Approval(), plan=CanaryPlan(steps=()))
    assert next_effect(attached) is Effect.APPROVE
    assert next_effect(says("promote", attached)) is Effect.FILL
