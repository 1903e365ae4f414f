"""The state machine, as a specification: which effects follow one another, and where each outcome leads."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.rollout import (
    Actor,
    Answer,
    Approval,
    CanaryPlan,
    Effect,
    Order,
    Phase,
    RolloutRecord,
    StepResult,
    Told,
    abort,
    answered,
    by_swap,
    expired,
    finish,
    in_flight,
    is_slow_way_back,
    judged,
    next_effect,
    obeyed,
    reopened,
    step_over,
    waited,
    waiting,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = DeploymentSpec(name="fraud-2", model="fraud", version="2")


def record(**changes: Any) -> RolloutRecord:
    plan = changes.pop("plan", CanaryPlan(steps=(10, 50), step_seconds=60, deadline_seconds=600))
    base = RolloutRecord(
        id="r1",
        provider="local",
        model="fraud",
        endpoint="fraud",
        who=Actor(name="ada"),
        plan=plan,
        spec=SPEC,
        stable="fraud-1",
        canary="fraud-2",
        started_at=T0,
    )
    return base.model_copy(update=changes)


def result(decision: str) -> StepResult:
    return StepResult.model_validate(
        {
            "step": 0,
            "weight": 10,
            "seconds": 60,
            "canary_requests": 100,
            "canary_failures": 1,
            "stable_requests": 900,
            "stable_failures": 9,
            "decision": decision,
            "reason": f"says {decision}",
            "decided_by": "failures",
        }
    )


def run(state: RolloutRecord, decisions: list[str], now: datetime = T0) -> tuple[list[str], RolloutRecord]:
    """Drive the machine to its end, the judge saying `decisions` in turn; returns the effects."""
    effects: list[str] = []
    while (effect := next_effect(state)) is not None:
        effects.append(effect.value)
        assert len(effects) < 50
        if effect is Effect.OBSERVE or (effect is Effect.BAKE and state.plan.bake_seconds):
            state = judged(state, result(decisions.pop(0)), now)
        else:
            state = finish(state, effect, now)
    return effects, state


START = ["claim", "deploy", "wait_ready", "attach"]
BACK = ["restore", "detach", "retire_canary", "end"]
PROMOTION = ["approve", "fill", "bake", "promote", "retire_former", "end"]


def test_a_good_release_goes_through_all_steps_and_is_promoted() -> None:
    effects, end = run(record(), ["continue", "promote"])
    assert effects == [*START, "shift", "observe", "shift", "observe", *PROMOTION]
    assert (end.outcome, end.decided_by, end.phase) == ("promoted", "failures", Phase.ENDED)
    assert end.ended_at is not None


@pytest.mark.parametrize("before", [[], ["continue"]])
def test_harm_in_any_step_turns_it_back(before: list[str]) -> None:
    effects, end = run(record(), [*before, "roll_back"])
    assert effects == [*START, *["shift", "observe"] * (len(before) + 1), *BACK]
    assert (end.outcome, end.reason) == ("rolled_back", "says roll_back")


def test_proof_in_an_early_step_does_not_skip_the_others() -> None:
    effects, _ = run(record(), ["promote", "promote"])
    assert effects.count("shift") == 2


def test_a_promotion_without_steps_goes_straight_to_full_traffic() -> None:
    effects, end = run(record(plan=CanaryPlan(steps=())), [])
    assert effects == [*START, *PROMOTION]
    assert end.outcome == "promoted"


def test_harm_during_the_bake_still_turns_it_back() -> None:
    plan = CanaryPlan(steps=(), bake_seconds=60)
    effects, end = run(record(plan=plan), ["roll_back"])
    assert effects == [*START, "approve", "fill", "bake", *BACK]
    assert end.outcome == "rolled_back"


def test_a_quiet_bake_needs_no_proof() -> None:
    _, end = run(record(plan=CanaryPlan(steps=(), bake_seconds=60)), ["continue"])
    assert end.outcome == "promoted"


@pytest.mark.parametrize(("policy", "outcome"), [("roll_back", "rolled_back"), ("hold", "held")])
def test_undecided_at_the_deadline_ends_as_planned(policy: str, outcome: str) -> None:
    plan = CanaryPlan(steps=(10,), step_seconds=60, deadline_seconds=600, on_undecided=policy)  # type: ignore[arg-type]
    effects, end = run(record(plan=plan), ["continue"], T0 + timedelta(seconds=600))
    assert end.outcome == outcome
    assert "undecided after 600 s" in end.reason
    assert ("restore" in effects) is (policy == "roll_back")


def test_the_deadline_passing_in_an_early_step_is_not_a_promotion() -> None:
    _, end = run(record(), ["continue"], T0 + timedelta(seconds=601))
    assert end.outcome == "rolled_back"


@pytest.mark.parametrize("phase", list(Phase))
def test_abort_wins_before_the_promotion_and_changes_nothing_after_it(phase: Phase) -> None:
    state = record(phase=phase)
    aborted = abort(state, "red button")
    if in_flight(state):
        assert (aborted.phase, aborted.outcome, aborted.reason) == (Phase.ROLLING_BACK, "rolled_back", "red button")
    else:
        assert aborted is state
    late = {Phase.CLEARED, Phase.HANDED_OVER, Phase.PROMOTED}
    late |= {Phase.ROLLING_BACK, Phase.RESTORED, Phase.DETACHED, Phase.RETIRED, Phase.ENDED}
    assert in_flight(state) is (phase not in late)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_leads_to_the_end(phase: Phase) -> None:
    _, end = run(record(phase=phase), ["promote"] * 3)
    assert end.phase is Phase.ENDED


def test_stable_keeps_all_requests_until_the_first_shift_and_gets_them_back() -> None:
    state, weights = record(), []
    while (effect := next_effect(state)) is not None:
        weights.append(state.weight)
        state = judged(state, result("roll_back"), T0) if effect is Effect.OBSERVE else finish(state, effect, T0)
    assert weights == [0, 0, 0, 0, 0, 10, 0, 0, 0, 0]
    assert state.weight == 0


@pytest.mark.parametrize(
    ("decision", "step", "elapsed", "over"),
    [
        ("roll_back", 0, 1, True),
        ("continue", 0, 59, False),
        ("continue", 0, 60, True),
        ("promote", 0, 59, False),
        ("promote", 1, 59, False),
        ("promote", 1, 60, True),
        ("continue", 1, 300, False),
        ("continue", 1, 600, True),
    ],
)
def test_when_a_step_ends(decision: str, step: int, elapsed: int, over: bool) -> None:
    state = record(phase=Phase.SHIFTED, step=step, step_started_at=T0)
    assert step_over(state, decision, T0 + timedelta(seconds=elapsed)) is over


def test_the_record_survives_being_saved_and_is_small() -> None:
    state = record(why="x" * 200, judge_state={"evidence": "y" * 2000}, phase=Phase.SHIFTED, step=1, step_started_at=T0)
    saved = state.saved()
    assert RolloutRecord.model_validate_json(saved) == state
    assert len(saved) < 5000


@pytest.mark.parametrize("letter", ["x", "ж"])
def test_long_words_are_shortened_by_the_room_that_they_take(letter: str) -> None:
    """Prefect measures JSON, where a letter that is not ASCII takes six characters."""
    bare, wordy = record(), record(why=letter * 5000, reason=letter * 5000)
    room = len(json.dumps(wordy.saved())) - len(json.dumps(bare.saved()))
    assert 1000 < room < 1300


def test_a_record_of_a_newer_version_is_still_read() -> None:
    saved = record().model_dump(mode="json") | {"field_of_the_future": 1}
    assert RolloutRecord.model_validate(saved) == record()


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"steps": [50, 10]}, "steps"),
        ({"steps": [0]}, "steps"),
        ({"steps": [101]}, "steps"),
        ({"golden_set": "golden.jsonl", "shadow": {"share": 1}}, "shadow"),
        ({"steps": [0.001]}, "steps"),
        ({"steps": [1, 2], "step_seconds": 60, "deadline_seconds": 100}, "deadline_seconds"),
        ({"hold_back": 60}, "hold_back"),
        ({"step": [1]}, "step"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_by_the_name_of_the_field(plan: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        CanaryPlan.model_validate(plan)


NATIVE = CanaryPlan(steps=(50,), step_seconds=60, bake_seconds=60, promote="native")


def test_the_providers_own_promotion_gets_its_traffic_from_the_canary_alone() -> None:
    effects, end = run(record(plan=NATIVE), ["promote", "continue"])
    assert effects[effects.index("bake") :] == ["bake", "clear", "hand_over", "promote", "retire_former", "end"]
    assert end.outcome == "promoted"


def test_harm_before_the_provider_promotes_still_turns_it_back() -> None:
    effects, end = run(record(plan=NATIVE), ["promote", "roll_back"])
    assert "clear" not in effects
    assert end.outcome == "rolled_back"


@pytest.mark.parametrize("phase", [Phase.CLEARED, Phase.HANDED_OVER])
def test_while_the_provider_promotes_nothing_is_turned_back_and_the_canary_serves(phase: Phase) -> None:
    busy = record(plan=NATIVE, phase=phase)
    assert busy.weight == 100.0
    assert not in_flight(busy)
    assert abort(busy, "cancelled") is busy


@pytest.mark.parametrize("phase", [Phase.CLEARED, Phase.HANDED_OVER])
def test_a_promotion_that_the_provider_does_not_get_done_is_settled_by_a_swap(phase: Phase) -> None:
    stuck = record(plan=NATIVE, phase=phase, serving="copy" if phase is Phase.HANDED_OVER else None)
    settled = by_swap(stuck)
    assert not in_flight(settled), "what served before may be changed by now: nothing turns back to it"
    effects, end = run(settled, [])
    assert effects == ["promote", "retire_former", "end"]
    assert (end.outcome, end.serving, end.plan.former) == ("promoted", None, "keep")


def test_only_what_is_being_handed_over_is_settled_by_a_swap() -> None:
    assert by_swap(before := record(plan=NATIVE, phase=Phase.BAKED)) is before


def test_days_before_an_answer_are_not_counted_against_the_deadline() -> None:
    asked = record(phase=Phase.READY, approval=Approval(before=("traffic",)))
    later = T0 + timedelta(days=2)
    answer = Answer(gate="traffic", decision="promote", who=Actor(name="ada"), at=later)
    gone_on = answered(asked, answer, later)
    assert not expired(gone_on, later + timedelta(seconds=599))
    assert expired(gone_on, later + timedelta(seconds=600))


def test_waiting_is_not_counted_against_the_deadline_whoever_ends_it() -> None:
    begun = waiting(record(phase=Phase.ATTACHED, step=1), T0 + timedelta(seconds=500))
    weekend = T0 + timedelta(days=2)
    assert not expired(begun, weekend)
    assert waiting(begun, weekend) == begun, "another process goes on with the same waiting"
    gone_on = waited(begun, weekend)
    assert not expired(gone_on, weekend + timedelta(seconds=99))
    assert expired(gone_on, weekend + timedelta(seconds=100))
    again = waited(waiting(gone_on, weekend), weekend + timedelta(days=1))
    assert not expired(again, weekend + timedelta(days=1, seconds=99))
    assert again.plan == begun.plan, "the plan stays as it was planned"


def test_what_was_held_without_steps_has_a_phase_and_a_weight() -> None:
    held_one = record(phase=Phase.ENDED, outcome="held", plan=CanaryPlan(steps=()))
    again = reopened(held_one)
    assert in_flight(again)
    assert again.weight == 0


def test_however_much_people_write_the_record_can_be_saved() -> None:
    answer = Answer(gate="step 2", decision="roll_back", comment="c" * 9000, who=Actor(name="ada"), at=T0)
    order = Told(order="abort", why="o" * 9000, who=Actor(name="mira"), at=T0)
    wordy = record(phase=Phase.SHIFTED, why="w" * 9000, answer=answer)
    turned = obeyed(wordy, order, "it began so " + "r" * 9000 + " and ended so", decided_by="event")
    assert len(turned.saved()) < 4000
    again = RolloutRecord.model_validate_json(turned.saved())
    assert again.told is not None
    assert again.told.who == order.who
    assert again.reason.startswith("it began so")
    assert again.reason.endswith("and ended so")


@pytest.mark.parametrize("order", get_args(Order))
def test_whose_an_order_was_is_kept_if_it_is_obeyed(order: Order) -> None:
    told, running = Told(order=order, who=Actor(name="mira"), at=T0), record(phase=Phase.SHIFTED)
    assert obeyed(running, told, "by mira", decided_by="event").told == told
    assert obeyed(late := record(phase=Phase.PROMOTED), told, "by mira", decided_by="event") is late


def test_a_slow_way_back_is_hurried_by_who_has_no_time() -> None:
    plan = CanaryPlan(steps=(10, 50), roll_back_seconds=300)
    slow = abort(record(phase=Phase.SHIFTED, plan=plan), "it fails more", decided_by="failures")
    assert is_slow_way_back(slow)
    assert abort(slow, "a gate said no", decided_by="webhook") is slow
    hurried = abort(slow, "stop", decided_by="event")
    assert (hurried.phase, hurried.outcome, hurried.reason) == (Phase.ROLLING_BACK, "rolled_back", "stop")
    assert not is_slow_way_back(hurried)
    assert abort(hurried, "stop!", decided_by="person") is hurried
