"""What each effect of the state machine does to the world, by way of tasks. Every one may be done twice."""

from datetime import UTC, datetime
from typing import Literal

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.rollout import Effect, RolloutRecord, abort, finish
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks.deployments import (
    acreate_deployment,
    adelete_deployment,
    aformer_version,
    aget_deployment,
    apredict,
    apromote_deployment,
    aroll_back_deployment,
    ascale_deployment_to_zero,
    astart_deployment,
    astop_deployment,
    awake_deployment,
)
from prefect_modeldeploy.tasks.observing import aobserve_traffic
from prefect_modeldeploy.tasks.preflight import apreflight
from prefect_modeldeploy.tasks.reporting import areport_rollout
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, aget_traffic, aset_arms, aset_traffic, shadow_of
from prefect_modeldeploy.tasks.waiting import await_until_ready


class Approval(BaseModel):
    """Ask a person before the promotion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_seconds: int = Field(3600, gt=0, description="Seconds to wait for the answer.")
    on_timeout: Literal["roll_back", "promote"] = Field("roll_back", description="What silence means.")


class ApprovalAnswer(RunInput):
    """What the person answers."""

    decision: Literal["promote", "roll_back"] = "roll_back"
    comment: str = ""


class Effects:
    """Performs effects on one target."""

    def __init__(self, target: DeploymentTarget, approval: Approval | None = None) -> None:
        self._target, self._approval = target, approval

    async def __call__(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        """Do the effect and return the record after it."""
        perform = getattr(self, f"_{effect.value}")
        after: RolloutRecord | None = await perform(record)
        return finish(record, effect, _now()) if after is None else after

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        claim = await aclaim_endpoint(self._target)
        changes = {"epoch": claim.epoch, "start_cursor": claim.cursor, "cursor": claim.cursor}
        return finish(record.model_copy(update=changes), Effect.CLAIM, _now())

    async def _deploy(self, record: RolloutRecord) -> RolloutRecord | None:
        if record.spec is None:
            return None
        created = await acreate_deployment(self._target, record.spec)
        return finish(record.model_copy(update={"canary": created.id}), Effect.DEPLOY, _now())

    async def _wait_ready(self, record: RolloutRecord) -> None:
        await bring_up(self._target, record.canary, record.plan.ready_timeout_seconds)

    async def _attach(self, record: RolloutRecord) -> None:
        if record.stable is not None:
            await aset_arms(self._target, _arms(record), expected_epoch=record.epoch, shadow=shadow_of(record.plan))
            if self._target.sample is not None:
                await apreflight(self._target)

    async def _shift(self, record: RolloutRecord) -> None:
        weight = record.plan.steps[record.step]
        await aset_traffic(
            self._target, {"stable": round(100 - weight, 2), "canary": weight}, expected_epoch=record.epoch
        )

    async def _observe(self, record: RolloutRecord) -> RolloutRecord:
        return await aobserve_traffic(self._target, record)

    async def _approve(self, record: RolloutRecord) -> RolloutRecord | None:
        if self._approval is None:
            return None
        answer = await _ask(record, self._approval)
        if answer.decision == "promote":
            return None
        reason = f"a person said so: {answer.comment}" if answer.comment else "a person said so, or nobody did"
        return abort(record, reason, decided_by="approval")

    async def _fill(self, record: RolloutRecord) -> None:
        if record.stable is not None:
            await aset_arms(
                self._target, _arms(record, canary_weight=record.plan.full_weight), expected_epoch=record.epoch
            )

    async def _bake(self, record: RolloutRecord) -> RolloutRecord | None:
        if not record.plan.bake_seconds or record.stable is None:
            return None
        return await aobserve_traffic(self._target, record)

    async def _clear(self, record: RolloutRecord) -> None:
        await aset_arms(self._target, _arms(record, canary_weight=100.0), expected_epoch=record.epoch)

    async def _hand_over(self, record: RolloutRecord) -> RolloutRecord:
        promoted = await apromote_deployment(self._target, record.canary)
        await bring_up(self._target, promoted.id, record.plan.ready_timeout_seconds)
        if record.plan.smoke_request is not None:
            await apredict(self._target, promoted.id, record.plan.smoke_request)
        return finish(record.model_copy(update={"serving": promoted.id}), Effect.HAND_OVER, _now())

    async def _promote(self, record: RolloutRecord) -> RolloutRecord:
        arms = {"stable": (record.serving or record.canary, 100.0)}
        await aset_arms(self._target, arms, expected_epoch=record.epoch)
        return finish(record, Effect.PROMOTE, _now())

    async def _retire_former(self, record: RolloutRecord) -> None:
        serving = record.serving or record.canary
        if record.stable is not None and record.stable != serving:  # the provider may have changed it in place
            await _retire(self._target, record.stable, record.plan.former)
        if record.canary != serving:
            await self._retire_canary(record)

    async def _restore(self, record: RolloutRecord) -> None:
        if record.epoch and record.stable is not None and await self._attached(record):
            await aset_arms(self._target, _arms(record), expected_epoch=record.epoch)

    async def _attached(self, record: RolloutRecord) -> bool:
        return any(arm.upstream == record.canary for arm in (await aget_traffic(self._target)).arms)

    async def _detach(self, record: RolloutRecord) -> None:
        if record.epoch and record.stable is not None:
            await aset_arms(self._target, {"stable": (record.stable, 100.0)}, expected_epoch=record.epoch)

    async def _retire_canary(self, record: RolloutRecord) -> None:
        if record.spec is not None:
            await _retire(self._target, record.canary, record.plan.failed_canary)

    async def _end(self, record: RolloutRecord) -> RolloutRecord:
        ended = finish(record, Effect.END, _now())
        try:
            path = await areport_rollout(self._target, ended)
        except Exception:
            # The rollout itself is over and well; a report can be made again from what the gateway kept.
            self._target.credentials.logger.exception("the report could not be written")
            return ended
        return ended.model_copy(update={"report": str(path)})


class NativeEffects(Effects):
    """As above, where the provider itself moves the traffic: no endpoint of ours is involved.

    Until its own promotion has ended, the provider leaves the former version in place; so there is nothing to restore,
    but where a promotion goes on without us, it is to be called off.
    """

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        return finish(record, Effect.CLAIM, _now())

    async def _nothing(self, record: RolloutRecord) -> None:
        """Ours to do only behind a router of ours."""

    _attach = _fill = _detach = _nothing

    async def _promote(self, record: RolloutRecord) -> RolloutRecord:
        return await self._served(record, await apromote_deployment(self._target, record.canary))

    async def _restore(self, record: RolloutRecord) -> None:
        if record.stable is not None and self._target.credentials.client_class.rolls_back == "to":
            await aroll_back_deployment(self._target, record.stable)

    async def _served(self, record: RolloutRecord, serving: Deployment) -> RolloutRecord:
        await bring_up(self._target, serving.id, record.plan.ready_timeout_seconds)
        return finish(record.model_copy(update={"serving": serving.id}), Effect.PROMOTE, _now())


class NativeReturn(NativeEffects):
    """The provider's own way back: it knows what served before."""

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        # Written down before anything changes: a way back that is gone twice, after a crash, could lead too far.
        goal = await aformer_version(self._target, record.canary)
        return finish(record.model_copy(update={"goal": goal}), Effect.CLAIM, _now())

    async def _wait_ready(self, record: RolloutRecord) -> None:
        """The provider brings the former version up itself."""

    async def _promote(self, record: RolloutRecord) -> RolloutRecord:
        return await self._served(record, await aroll_back_deployment(self._target, record.canary, record.goal))


async def bring_up(target: DeploymentTarget, deployment_id: str, timeout_seconds: float) -> Deployment:
    deployment = await aget_deployment(target, deployment_id)
    match deployment.status:
        case DeploymentStatus.SCALED_TO_ZERO:
            await awake_deployment(target, deployment_id)
        case DeploymentStatus.STOPPED:
            await astart_deployment(target, deployment_id)
    [ready] = await await_until_ready(target, deployment_id, timeout_seconds=timeout_seconds)
    return ready


async def _retire(target: DeploymentTarget, deployment_id: str, how: str) -> None:
    match how:
        case "scale_to_zero":
            there = await target.at(deployment_id)
            # No request comes any more that could wake it: where a provider has no such zero, a stop is as good.
            can = there.credentials.can(Capability.SCALE_TO_ZERO)
            await (ascale_deployment_to_zero if can else astop_deployment)(target, deployment_id)
        case "delete":
            await adelete_deployment(target, deployment_id)


async def _ask(record: RolloutRecord, approval: Approval) -> ApprovalAnswer:
    description = f"**{record.endpoint}**: promote `{record.canary}` over `{record.stable}`?\n\n{record.reason}"
    form: type[ApprovalAnswer] = ApprovalAnswer.with_initial_data(description=description)
    try:
        answer = await apause_flow_run(wait_for_input=form, timeout=approval.timeout_seconds, poll_interval=2)
    except FlowPauseTimeout:
        return ApprovalAnswer(decision=approval.on_timeout, comment="nobody answered in time")
    if answer is None:
        raise RolloutError(f"{record.endpoint}: the approval came back without an answer")
    return answer


def _arms(record: RolloutRecord, *, canary_weight: float = 0.0) -> dict[str, tuple[str, float]]:
    assert record.stable is not None, "only a rollout with a stable version has two arms"
    return {"stable": (record.stable, round(100.0 - canary_weight, 2)), "canary": (record.canary, canary_weight)}


def _now() -> datetime:
    return datetime.now(UTC)
