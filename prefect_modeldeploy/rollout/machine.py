"""The state machine of a rollout: what comes next, and what an effect's outcome leads to.

Pure: a record goes in, the name of an effect or a new record comes out. Whoever drives it saves the record after every
effect, which is before the next: the phase says which effect may have been begun. A run that was killed does that one
again, and doing an effect twice changes nothing.

    PLANNED -claim-> CLAIMED -deploy-> DEPLOYED -wait_ready-> READY -attach-> ATTACHED
        -shift-> SHIFTED -observe-> (next step: ATTACHED) ... JUDGED -approve-> APPROVED
        -fill-> FULL -bake-> BAKED -promote-> PROMOTED -retire_former-> RETIRED -end-> ENDED

    gates that a person has to open come in between, at READY (traffic) and ATTACHED (step):
        READY -ask-> READY -attach-> ...; the one at JUDGED (promotion) is open unless somebody is to be asked

    without steps: ATTACHED -approve-> ...; with a golden set: ATTACHED -observe-> JUDGED -approve-> ...

    where the plan wants the provider's own promotion (the provider may change the stable deployment itself, so that
    there is no way back from then on: a failure leaves all the traffic on the canary, and `by_swap` settles for that):
        BAKED -clear-> CLEARED -hand_over-> HANDED_OVER -promote-> PROMOTED

    from anywhere before CLEARED or PROMOTED:
        ROLLING_BACK -restore-> RESTORED -detach-> DETACHED -retire_canary-> RETIRED -end-> ENDED
"""

from datetime import datetime, timedelta
from enum import StrEnum

from prefect_modeldeploy.rollout.record import Answer, Phase, RolloutRecord, StepResult, Told


class Effect(StrEnum):
    """Something that a rollout does to the world. What exactly follows from the record."""

    CLAIM = "claim"
    """Take the endpoint over, so that older rollouts can no longer change it."""
    DEPLOY = "deploy"
    """Create the canary."""
    WAIT_READY = "wait_ready"
    """Wait until the canary can take traffic."""
    ATTACH = "attach"
    """Put the canary behind the endpoint, with no traffic."""
    SHIFT = "shift"
    """Give the canary the step's share."""
    OBSERVE = "observe"
    """Judge until the step is over."""
    ASK = "ask"
    """Ask a person before traffic moves, or moves on."""
    APPROVE = "approve"
    """Ask a person before the promotion, if the rollout wants that."""
    FILL = "fill"
    """Give the canary all the requests, or nearly all while it bakes; stable stays attached."""
    BAKE = "bake"
    """Watch for a while longer."""
    CLEAR = "clear"
    """Take all requests off the former version: the canary gets them while the provider promotes."""
    HAND_OVER = "hand_over"
    """Let the provider promote the canary, and wait until what serves then is ready and answers."""
    PROMOTE = "promote"
    """Make the canary, or what the provider promoted, the stable arm."""
    RETIRE_FORMER = "retire_former"
    """Let go of the former version, as the plan says."""
    RESTORE = "restore"
    """Give stable all the requests."""
    DETACH = "detach"
    """Take the canary from behind the endpoint."""
    RETIRE_CANARY = "retire_canary"
    """Let go of the canary, as the plan says, if this rollout created it."""
    END = "end"
    """Say that it is over."""


_FORWARD = {
    Phase.PLANNED: Effect.CLAIM,
    Phase.CLAIMED: Effect.DEPLOY,
    Phase.DEPLOYED: Effect.WAIT_READY,
    Phase.READY: Effect.ATTACH,
    Phase.ATTACHED: Effect.SHIFT,
    Phase.SHIFTED: Effect.OBSERVE,
    Phase.JUDGED: Effect.APPROVE,
    Phase.APPROVED: Effect.FILL,
    Phase.FULL: Effect.BAKE,
    Phase.BAKED: Effect.PROMOTE,
    Phase.CLEARED: Effect.HAND_OVER,
    Phase.HANDED_OVER: Effect.PROMOTE,
    Phase.PROMOTED: Effect.RETIRE_FORMER,
    Phase.ROLLING_BACK: Effect.RESTORE,
    Phase.RESTORED: Effect.DETACH,
    Phase.DETACHED: Effect.RETIRE_CANARY,
    Phase.RETIRED: Effect.END,
}

_DONE = {
    Effect.CLAIM: Phase.CLAIMED,
    Effect.DEPLOY: Phase.DEPLOYED,
    Effect.WAIT_READY: Phase.READY,
    Effect.ATTACH: Phase.ATTACHED,
    Effect.SHIFT: Phase.SHIFTED,
    Effect.APPROVE: Phase.APPROVED,
    Effect.FILL: Phase.FULL,
    Effect.BAKE: Phase.BAKED,
    Effect.CLEAR: Phase.CLEARED,
    Effect.HAND_OVER: Phase.HANDED_OVER,
    Effect.PROMOTE: Phase.PROMOTED,
    Effect.RETIRE_FORMER: Phase.RETIRED,
    Effect.RESTORE: Phase.RESTORED,
    Effect.DETACH: Phase.DETACHED,
    Effect.RETIRE_CANARY: Phase.RETIRED,
    Effect.END: Phase.ENDED,
}

_HANDING_OVER = frozenset({Phase.CLEARED, Phase.HANDED_OVER})

ON_THE_WAY_BACK = frozenset({Phase.ROLLING_BACK, Phase.RESTORED, Phase.DETACHED})

_TOO_LATE_TO_ABORT = _HANDING_OVER | ON_THE_WAY_BACK | {Phase.PROMOTED, Phase.RETIRED, Phase.ENDED}

AT_ONCE = frozenset({"cancellation", "red button", "event", "health check", "person"})
"""Who decided that has no time for a slow way back, or a canary that must not get any more requests."""


def next_effect(record: RolloutRecord) -> Effect | None:
    """What to do next; None when the rollout has ended."""
    if record.phase is Phase.ENDED:
        return None
    effect = _FORWARD[record.phase]
    if gate_of(record) is not None:
        return Effect.ASK
    if effect is Effect.SHIFT and not record.plan.steps:
        return Effect.OBSERVE if record.golden_set else Effect.APPROVE
    if record.phase is Phase.BAKED and record.plan.promote == "native":
        return Effect.CLEAR
    return effect


def gate_of(record: RolloutRecord) -> str | None:
    """The gate that a person has to open next, `traffic` or `step 2`; None if there is none here."""
    before = record.approval.before if record.approval else ()
    gate = None
    if record.phase is Phase.READY and "traffic" in before:
        gate = "traffic"
    if record.phase is Phase.ATTACHED and record.step > 0 and "step" in before:
        gate = f"step {record.step + 1}"
    return gate if gate != record.passed else None


def asks_to_promote(record: RolloutRecord) -> bool:
    """Whether a person decides about the promotion."""
    return record.undecided or (record.approval is not None and "promotion" in record.approval.before)


def answered(record: RolloutRecord, answer: Answer, now: datetime) -> RolloutRecord:
    """The record after a person has answered at a gate.

    `promote` goes on: moves the traffic, takes the next step, promotes. `promote_fully` leaves all further steps out,
    `skip` the next one, or the bake. `extend` observes for one step's time more and asks again.
    """
    record = record.model_copy(update={"answer": answer, "passed": answer.gate, "undecided": False})
    if answer.gate == "traffic":  # it may have waited for days; what has a deadline begins now
        record = record.model_copy(update={"held_seconds": (now - record.started_at).total_seconds()})
    reason = f"{answer.who.name} said so" + (f": {answer.comment}" if answer.comment else "")
    match answer.decision:
        case "roll_back":
            return abort(record, reason, decided_by="approval")
        case "extend":
            return _extended(record, now)
        case "promote_fully" if record.phase is not Phase.READY:
            return in_full(record, reason, decided_by="approval")
        case "skip" if record.phase is Phase.JUDGED:
            plan = record.plan.model_copy(update={"bake_seconds": 0.0})
            return record.model_copy(update={"phase": Phase.APPROVED, "plan": plan})
        case "skip":
            return passed_over(record, reason, decided_by="approval")
    return record.model_copy(update={"phase": Phase.APPROVED}) if answer.gate == "promotion" else record


def _extended(record: RolloutRecord, now: datetime) -> RolloutRecord:
    changes: dict[str, object] = {"passed": ""}
    if record.plan.steps and record.phase is not Phase.READY:  # at READY there is nothing to observe: asked again
        step = record.step if record.phase is Phase.JUDGED else record.step - 1
        late = max(0.0, _used_seconds(record, now) - record.plan.deadline_seconds)
        changes |= {"phase": Phase.SHIFTED, "step": step, "step_started_at": now}
        changes["extended_seconds"] = max(record.extended_seconds, late) + record.plan.step_seconds
    return record.model_copy(update=changes)


def passed_over(record: RolloutRecord, reason: str, *, decided_by: str = "person") -> RolloutRecord:
    """Leave the step out that comes next, or the rest of the one in progress."""
    if record.phase not in (Phase.READY, Phase.ATTACHED, Phase.SHIFTED):
        return record
    if record.step + 1 < len(record.plan.steps):
        phase = Phase.READY if record.phase is Phase.READY else Phase.ATTACHED
        return record.model_copy(update={"step": record.step + 1, "phase": phase})
    return in_full(record, reason, decided_by=decided_by)


def in_full(record: RolloutRecord, reason: str, *, decided_by: str = "person") -> RolloutRecord:
    """Leave all further steps out: a person promotes on their own responsibility. The bake is still watched."""
    if record.phase not in (Phase.ATTACHED, Phase.SHIFTED, Phase.JUDGED):
        return record
    return record.model_copy(update={"phase": Phase.APPROVED, "reason": reason, "decided_by": decided_by})


def obeyed(record: RolloutRecord, told: Told, reason: str, *, decided_by: str) -> RolloutRecord:
    """The record after an order; the same one if there is nothing to be done any more."""
    match told.order:
        case "abort":
            after = abort(record, reason, decided_by=decided_by)
        case "skip":
            after = passed_over(record, reason, decided_by=decided_by)
        case "promote-fully":
            after = in_full(record, reason, decided_by=decided_by)
    return record if after is record else after.model_copy(update={"told": told})


def finish(record: RolloutRecord, effect: Effect, now: datetime) -> RolloutRecord:
    """The record to save after an effect that has no outcome of its own."""
    changes: dict[str, object] = {"phase": _DONE[effect]}
    if effect in (Effect.SHIFT, Effect.FILL):
        changes["step_started_at"] = now
        changes["judged_from"] = record.judged_from or now + timedelta(seconds=record.plan.warm_up_seconds)
    if effect is Effect.BAKE:
        changes["promoting"] = True
    if effect is Effect.PROMOTE:
        changes["outcome"] = "promoted"
    if effect is Effect.END:
        changes["ended_at"] = now
    return record.model_copy(update=changes)


def judged(record: RolloutRecord, result: StepResult, now: datetime) -> RolloutRecord:
    """The record after a step, or a bake, was observed to its end."""
    baking = record.phase is Phase.FULL
    record = record.model_copy(update={"steps": (*record.steps, result)})
    if result.decision == "roll_back":
        return abort(record, result.reason, decided_by=result.decided_by)
    if baking:
        return record.model_copy(update={"phase": Phase.BAKED})
    if record.step + 1 < len(record.plan.steps) and not expired(record, now):
        return record.model_copy(update={"phase": Phase.ATTACHED, "step": record.step + 1})
    if result.decision == "promote":
        changes = {"phase": Phase.JUDGED, "reason": result.reason, "decided_by": result.decided_by}
        return record.model_copy(update=changes)
    late = expired(record, now)
    seconds = record.plan.deadline_seconds + record.extended_seconds
    undecided = f"undecided after {f'{seconds:g} s' if late else 'all examples'}: {result.reason}"
    match record.plan.on_undecided:
        case "hold":
            return held(record, undecided)
        case "ask":
            return record.model_copy(update={"phase": Phase.JUDGED, "reason": undecided, "undecided": True})
        case "extend" if late and not record.extended_seconds:
            return record.model_copy(update={"extended_seconds": record.plan.deadline_seconds})
    return abort(record, undecided, decided_by="deadline" if late else result.decided_by)


def abort(record: RolloutRecord, reason: str, *, decided_by: str | None = None) -> RolloutRecord:
    """Turn the rollout back. After the promotion there is no way back but a new rollout: nothing changes then.

    One that is on a slow way back already is hurried by whoever has no time for that.
    """
    if is_slow_way_back(record) and decided_by in AT_ONCE:
        return record.model_copy(update={"reason": reason, "decided_by": decided_by})
    if record.phase in _TOO_LATE_TO_ABORT:
        return record
    return record.model_copy(
        update={
            "phase": Phase.ROLLING_BACK,
            "outcome": "rolled_back",
            "reason": reason,
            "decided_by": decided_by,
        }
    )


def is_slow_way_back(record: RolloutRecord) -> bool:
    """Whether the canary keeps some of its requests for a while, as the plan wants."""
    slow = record.plan.roll_back_seconds > 0 and record.decided_by not in AT_ONCE
    return record.phase is Phase.ROLLING_BACK and slow


def held(record: RolloutRecord, reason: str) -> RolloutRecord:
    """End the rollout as it stands: a person decides."""
    return record.model_copy(update={"phase": Phase.RETIRED, "outcome": "held", "reason": reason})


def by_swap(record: RolloutRecord) -> RolloutRecord:
    """A rollout whose provider does not get its own promotion done: the canary, which serves, is promoted by a swap.

    It is handed over to itself: there is no way back from there either, and nothing holds it.
    """
    if record.phase not in _HANDING_OVER:
        return record
    plan = record.plan.model_copy(update={"promote": "swap", "former": "keep"})
    return record.model_copy(update={"phase": Phase.HANDED_OVER, "plan": plan, "serving": None})


def reopened(record: RolloutRecord) -> RolloutRecord:
    """A rollout that was held, as it was before: a person goes on with it."""
    changes = {"phase": Phase.SHIFTED if record.plan.steps else Phase.JUDGED, "outcome": None, "ended_at": None}
    return record.model_copy(update=changes) if record.outcome == "held" else record


def in_flight(record: RolloutRecord) -> bool:
    """Whether the rollout has begun and can still be turned back."""
    return record.phase not in _TOO_LATE_TO_ABORT


def expired(record: RolloutRecord, now: datetime) -> bool:
    """Whether the deadline has passed."""
    return _used_seconds(record, now) >= record.plan.deadline_seconds + record.extended_seconds


def _used_seconds(record: RolloutRecord, now: datetime) -> float:
    """How much of its time the rollout has used: waiting does not count."""
    return ((record.held_since or now) - record.started_at).total_seconds() - record.held_seconds


def waiting(record: RolloutRecord, now: datetime) -> RolloutRecord:
    """The record of a rollout that waits for somebody from now on, or goes on waiting after a crash."""
    return record if record.held_since else record.model_copy(update={"held_since": now})


def waited(record: RolloutRecord, now: datetime) -> RolloutRecord:
    """The record of one whose waiting is over."""
    if record.held_since is None:
        return record
    seconds = record.held_seconds + (now - record.held_since).total_seconds()
    return record.model_copy(update={"held_since": None, "held_seconds": seconds})


def step_over(record: RolloutRecord, decision: str, now: datetime, measured_until: datetime | None = None) -> bool:
    """Whether the step in progress ends, given what the judge says now.

    A step ends at once on harm; else not before its time has passed and been measured, up to `measured_until` (None:
    up to now). The last one waits for proof, until the deadline.
    """
    assert record.step_started_at is not None, "a step is observed after its shift"
    seconds = record.plan.bake_seconds if record.phase is Phase.FULL else record.plan.step_seconds
    if decision == "roll_back":
        return True
    if expired(record, now):  # a bake still gets its time, but does not wait for measurements that do not come
        return record.phase is not Phase.FULL or (now - record.step_started_at).total_seconds() >= seconds
    if (min(now, measured_until or now) - record.step_started_at).total_seconds() < seconds:
        return False
    if record.phase is Phase.FULL:
        return True
    last = record.step + 1 == len(record.plan.steps)
    return decision == "promote" or not last
