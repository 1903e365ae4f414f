"""Rows for the tables of a rollout's report."""

from prefect_modeldeploy.report import series, words
from prefect_modeldeploy.rollout.plan import CanaryPlan
from prefect_modeldeploy.rollout.record import Actor, RolloutRecord, StepResult

Row = dict[str, str]


def steps_table(record: RolloutRecord) -> list[Row]:
    """One row for each look at the evidence: what both arms experienced, the evidence, the verdict and why."""
    weights = words.weights(record)
    return [
        {
            "Step": f"{_step(record, step)} at {words.share(step.weight)}",
            "Verdict": _verdict(record, step),
            "Canary failed": words.failed(step.canary_failures, step.canary_requests),
            "Stable failed": words.failed(step.stable_failures, step.stable_requests),
            "Harm": words.evidence(series.log_total(step.harm, weights)),
            "Safety": words.evidence(min(step.safe.values(), default=None)),
            "Lasted": words.duration(step.seconds),
            "Why": ". ".join(filter(None, [words.plain(step.reason, 300), words.answers(step)])),
        }
        for step in record.steps
    ]


def evidence_table(record: RolloutRecord) -> list[Row]:
    """One row a metric, with its evidence at the end of every step: harm / safety."""
    names = sorted({name for step in record.steps for name in (*step.harm, *step.safe)})
    return [
        {"Metric": words.metric(name)} | {_column(record, i): _pair(s, name) for i, s in enumerate(record.steps)}
        for name in names
    ]


def facts_table(record: RolloutRecord) -> list[Row]:
    """Who, when, why, what, and compared with what."""
    before = words.stable(record)
    facts = {
        "Model": f"{words.plain(record.model)} ({words.plain(record.provider)}, {words.plain(record.environment)})",
        "Endpoint": words.plain(record.endpoint),
        "New": _named(words.canary(record), record.canary),
        "Compared with": _named(before, record.stable or "") if before else "nothing: no version served before",
        "Started by": _person(record.who),
        "Why": words.plain(record.why) or "no reason was given",
        "Started": words.when(record.started_at),
        "Ended": words.when(record.ended_at) or "not yet",
        "Took": words.duration(record.seconds),
        "Decided by": words.metric(record.decided_by) if record.decided_by else "",
        **_answer(record),
        **_order(record),
        "Rollout": words.plain(record.id),
    }
    return [{"Fact": name, "Value": value} for name, value in facts.items() if value]


def plan_table(record: RolloutRecord) -> list[Row]:
    """What was decided before the start. Only what applies: a promotion without steps has no judge."""
    plan, judge = record.plan, record.plan.judge
    points = round(100 * judge.margin, 6)
    after = {"keep": "keep it", "scale_to_zero": "scale it to zero", "delete": "delete it"}
    rows = {
        "Steps": ", ".join(words.share(step) for step in plan.steps),
        "Golden set": f"{record.golden_set}, sent to both; no traffic moves before the promotion"
        if record.golden_set
        else "",
        "Shadow": f"copies of {words.share(plan.shadow.share)} of the requests, at most "
        f"{words.share(100 * plan.shadow.disagreement)} answered differently"
        if plan.shadow
        else "",
        "Each step lasts at least": words.duration(plan.step_seconds) if plan.steps else "",
        "Undecided": f"{plan.on_undecided.replace('_', ' ')} after {words.duration(plan.deadline_seconds)}",
        "Not judged after the first request": words.duration(plan.warm_up_seconds) if plan.steps else "",
        "Roll back at evidence of harm": f"{1 / judge.alpha:.4g} (a false alarm in at most {100 * judge.alpha:.4g} %)",
        "Promote at evidence of safety": f"{1 / judge.beta:.4g} (wrong in at most {100 * judge.beta:.4g} %)",
        "Tolerated": f"{points:.4g} percentage point{'' if points == 1 else 's'} more failures"
        + (f", {100 * (judge.latency_tolerance - 1):.4g} % more latency" if judge.latency else ""),
        "Requests before a promotion": f"at least {judge.min_requests:,}" if judge.min_requests else "",
        "If the canary fails": after[plan.failed_canary],
    }
    ends = {
        "Bake": f"{words.duration(plan.bake_seconds)} at {words.share(plan.full_weight)}" if plan.bake_seconds else "",
        "The former version": _former(plan, after[plan.former]),
    }
    chosen = rows | ends if record.kind == "canary" and (plan.steps or record.golden_set) else ends
    return [{"Plan": name, "Value": value} for name, value in chosen.items() if value]


def _former(plan: CanaryPlan, what: str) -> str:
    if plan.former == "keep":
        return what
    warm, later = plan.former_warm_seconds, plan.former_delete_after_seconds
    deleted = plan.former == "scale_to_zero" and later is not None
    after = f", {words.duration(warm)} after the promotion" if warm else ""
    return what + after + (f", and delete it {words.duration(later)} later" if deleted else "")


def _person(who: Actor) -> str:
    return words.plain(who.name) + (" (by their own account)" if who.declared else "")


def _answer(record: RolloutRecord) -> Row:
    """What a person said last at a gate."""
    if (said := record.answer) is None:
        return {}
    name = "Answered by" if said.decision in ("roll_back", "extend") else "Approved by"
    what = f"{said.decision.replace('_', ' ')}, before {words.plain(said.gate, 80)}"
    comment = words.plain(said.comment)
    return {name: f"{_person(said.who)}: {what}, {words.when(said.at)}" + (f": {comment}" if comment else "")}


def _order(record: RolloutRecord) -> Row:
    """What the rollout was told last while it ran."""
    if (told := record.told) is None:
        return {}
    why = words.plain(told.why)
    return {"Ordered by": f"{_person(told.who)}: {told.order}, {words.when(told.at)}" + (f": {why}" if why else "")}


def _named(version: str, deployment: str) -> str:
    name = words.plain(deployment)
    return version if version.endswith(name) else f"{version} ({name})"


def _verdict(record: RolloutRecord, step: StepResult) -> str:
    if step.decision == "continue":
        return "go on"
    final = step.step + 1 >= len(record.plan.steps)
    word = "roll back" if step.decision == "roll_back" else "promote" if final else "safe, go on"
    return f"{word} ({words.metric(step.decided_by)})" if step.decided_by else word


def _column(record: RolloutRecord, index: int) -> str:
    step = record.steps[index]
    name = "Golden set" if record.golden_set else f"Step {step.step + 1}"
    name = "Bake" if words.baking(record, step) else name
    again = sum((s.step, s.weight) == (step.step, step.weight) for s in record.steps[:index])
    return f"{name}, look {again + 1}" if again else name


def _step(record: RolloutRecord, step: StepResult) -> str:
    if words.baking(record, step):
        return "bake"
    return "golden set" if record.golden_set else f"{step.step + 1} of {len(record.plan.steps)}"


def _pair(step: StepResult, name: str) -> str:
    return f"{words.evidence(step.harm.get(name))} / {words.evidence(step.safe.get(name))}"
