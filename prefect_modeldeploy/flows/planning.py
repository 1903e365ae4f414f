"""Dry run: what a canary rollout would do and how long it would take, at the traffic of now. It changes nothing."""

import time
from collections.abc import Awaitable
from typing import TypeVar

import anyio.to_thread
from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentId, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.errors import InvalidInput, ModelDeployError, RolloutInProgress
from prefect_modeldeploy.flows import _ownership, _start
from prefect_modeldeploy.flows._effects import ids_of
from prefect_modeldeploy.flows.canary import DEFAULT_PLAN
from prefect_modeldeploy.measurements import Histogram
from prefect_modeldeploy.report import preview_markdown
from prefect_modeldeploy.rollout import CanaryPlan, Phase, RolloutRecord
from prefect_modeldeploy.rollout.forecast import Usual, forecasts
from prefect_modeldeploy.rollout.judging import fewest_examples
from prefect_modeldeploy.rollout.preview import (
    ASSUMPTIONS,
    Change,
    Refusal,
    RolloutPreview,
    Traffic,
    cost_of,
    steps_of,
)
from prefect_modeldeploy.sources.golden import GoldenSet
from prefect_modeldeploy.target import BlockName, DeploymentTarget, client_of, router_of
from prefect_modeldeploy.tasks._sources import source_of
from prefect_modeldeploy.tasks.observing import HISTORY_SECONDS
from prefect_modeldeploy.tasks.traffic import current_endpoint
from prefect_modeldeploy.traffic.windows import EndpointWindow

T = TypeVar("T")

_ASLEEP = {DeploymentStatus.SCALED_TO_ZERO: "wake", DeploymentStatus.STOPPED: "start"}


@flow(name="plan-rollout", flow_run_name=_start.run_name)
async def plan_rollout(
    target: DeploymentTarget | BlockName,
    candidate: DeploymentId | DeploymentSpec,
    plan: CanaryPlan = DEFAULT_PLAN,
) -> RolloutPreview:
    """Say what `canary_rollout` would do with the same arguments: steps, times, cost, changes. Changes nothing.

    How long the judge needs is forecast at the traffic of the last half hour, for a canary that is as good and for some
    that are worse. A rollout that would not begin is no error here: the preview says why.

    Args:
        target: What would be changed: a Deployment Target block, or the name of a saved one.
        candidate: Id of a deployment, or a spec of one that would be created.
        plan: Steps, times and how sure to be.

    Returns:
        The preview; the artifact has the key `plan-<provider>-<endpoint>`.

    Raises:
        InvalidInput: There is no such target.
    """
    target = await DeploymentTarget.resolve(target)
    preview = await _look(target, candidate, plan)
    key = f"plan-{preview.provider}-{preview.endpoint}".replace("_", "-").replace(".", "-").lower()
    await acreate_markdown_artifact(preview_markdown(preview), key=key, description=f"Dry run of {preview.candidate}")
    return preview


class _Refusals(list[Refusal]):
    """Why the rollout would not begin, as the flow itself would say it."""

    async def of(self, check: Awaitable[T]) -> T | None:
        try:
            return await check
        except ModelDeployError as error:
            self.add(error)
            return None

    def add(self, error: ModelDeployError) -> None:
        refusal = Refusal(error=type(error).__name__, message=str(error))
        if refusal not in self:
            self.append(refusal)


async def _look(target: DeploymentTarget, candidate: str | DeploymentSpec, plan: CanaryPlan) -> RolloutPreview:
    refusals, name, notes = _Refusals(), _start._id_of(candidate), list(ASSUMPTIONS)
    last = await refusals.of(_ownership.latest(target))
    holder = last if last is not None and last.phase is not Phase.ENDED else None
    if holder is not None and holder.candidate == name:
        plan = holder.plan  # the flow would go on with it
    if plan.golden_set is not None and (note := await refusals.of(_enough_examples(plan))):
        notes.append(note)
    if plan.promote == "native":
        await refusals.of(_can_promote(target))
    endpoint = await refusals.of(current_endpoint(target))
    stable = await refusals.of(_start._stable_of(target, endpoint)) if endpoint else None
    if endpoint is None and not refusals:
        refusals.add(InvalidInput("target.endpoint", target.endpoint, "serves nothing yet: use promote_to_production"))
    record = await refusals.of(_start.new_record(target, candidate, plan, stable, kind="canary"))
    await refusals.of(_start._check_shares(target, plan))
    if holder is not None and holder.candidate != name:
        refusals.add(RolloutInProgress(f"{target.endpoint} has an open rollout of {holder.candidate}"))
    there = await refusals.of(_deployment(target, candidate))
    if there is not None and isinstance(candidate, DeploymentSpec):
        notes.append(
            f"{there.id} was made from this very spec; if not, the rollout turns back before any traffic moves."
        )
    usual = await refusals.of(_usual(target, record)) if endpoint else None
    stepped = plan.golden_set is None
    played = await anyio.to_thread.run_sync(forecasts, plan, usual) if usual and stepped else ()
    return RolloutPreview(
        provider=target.credentials.client_class.provider,
        model=target.model,
        endpoint=target.endpoint,
        candidate=name,
        stable=stable.id if stable else None,
        open_rollout=_held_by(holder) if holder else None,
        refusals=tuple(refusals),
        traffic=Traffic.of(usual) if usual else None,
        steps=steps_of(plan, usual) if stepped else (),
        bake_seconds=plan.bake_seconds,
        deadline_seconds=plan.deadline_seconds,
        forecasts=played,
        changes=_changes(plan, candidate, there, stable, holder, _lets_go(target)),
        cost=cost_of(played, _extra_replicas(candidate, there), target.price_per_replica_hour),
        assumptions=tuple(notes),
    )


async def _enough_examples(plan: CanaryPlan) -> str:
    golden = GoldenSet.read(plan.golden_set or ())
    needed = fewest_examples(plan.judge, len(golden.examples))
    if needed is None:
        raise InvalidInput(
            "plan.golden_set", golden.digest, "too few to prove anything, even if all are answered right"
        )
    return (
        f"A golden set of {golden.digest} is asked; {needed} right answers would prove it, if stable's are right too."
    )


async def _can_promote(target: DeploymentTarget) -> None:
    _start.demand(target, Capability.PROMOTE, "use promote='swap'")


async def _deployment(target: DeploymentTarget, candidate: str | DeploymentSpec) -> Deployment | None:
    """The candidate as it is; None: the rollout would create it."""
    if isinstance(candidate, DeploymentSpec):
        ids = await ids_of(target, candidate)
        return await _deployment(target, ids[0]) if ids else None
    async with client_of(target, candidate) as client:
        return await client.get(candidate)


def _held_by(record: RolloutRecord) -> str:
    why = f": {record.why}" if record.why else ""
    began = f"{record.started_at:%Y-%m-%d %H:%M} UTC by {record.who.name}{why}"
    return f"{record.candidate}, at {record.phase}, started {began}"


async def _usual(target: DeploymentTarget, record: RolloutRecord | None) -> Usual | None:
    """What the endpoint experienced in the last half hour, or since its first request in it."""
    now = time.time()
    async with router_of(target) as (router, _), source_of(target, router, record) as source:
        windows = [window for window in await source.history(now - HISTORY_SECONDS) if window.arms]
    return usual_of(windows, now)


def usual_of(windows: list[EndpointWindow], now: float) -> Usual | None:
    """Rates from an endpoint's windows, up to now; None without a request."""
    arms = [arm.to_arm() for window in windows for arm in window.arms.values()]
    requests = sum(arm.requests for arm in arms)
    if not requests:
        return None
    stable = [window.arms["stable"].to_arm() for window in windows if "stable" in window.arms]
    stable = [arm for arm in stable if arm.requests] or arms
    latency = sum((arm.latency for arm in stable if arm.latency), Histogram())
    failed, asked = sum(arm.failures for arm in stable), sum(arm.requests for arm in stable)
    return Usual(
        requests=requests,
        failures=round(requests * failed / asked) if asked else 0,
        seconds=max(1.0, now - min(window.start for window in windows)),
        latency=latency,
        history=stable,
    )


def _lets_go(target: DeploymentTarget) -> bool:
    return target.credentials.can(Capability.SCALE_TO_ZERO)


def _changes(
    plan: CanaryPlan,
    candidate: str | DeploymentSpec,
    there: Deployment | None,
    stable: Deployment | None,
    holder: RolloutRecord | None,
    to_zero: bool,
) -> tuple[Change, ...]:
    zero = "scale_to_zero" if to_zero else "stop"
    changes = list[Change]()

    def add(what: str, deployment: str, when: str) -> None:
        word = zero if what == "scale_to_zero" else what
        changes.append(Change.model_validate({"what": word, "deployment": deployment, "when": when}))

    name = _start._id_of(candidate)
    if isinstance(candidate, DeploymentSpec) and there is None:
        add("create", name, "at the start")
    elif there is not None and there.status in _ASLEEP:
        add(_ASLEEP[there.status], name, "at the start")
    if plan.promote == "native":
        add("promote", name, "after the promotion")
    if stable is not None:
        add(plan.former, stable.id, "after the promotion")
    created = isinstance(candidate, DeploymentSpec) and there is None
    if holder is not None and holder.candidate == name:
        created = holder.spec is not None
    add(plan.failed_canary if created else "keep", name, "after a roll-back")
    return tuple(changes)


def _extra_replicas(candidate: str | DeploymentSpec, there: Deployment | None) -> int:
    """Replicas that would run only for the rollout; those of a deployment that runs anyway are none."""
    if there is not None and there.status not in _ASLEEP:
        return 0
    scaling = there.autoscaling if there else candidate.autoscaling if isinstance(candidate, DeploymentSpec) else None
    return max(1, scaling.min_replicas or 0) if scaling else 1
