"""The effects of a promotion, and of a roll-back, where the provider itself moves the traffic."""

import asyncio

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import ModelDeployError, ProviderError, ProviderUnavailable, RateLimited, WaitTimeout
from prefect_modeldeploy.flows._effects import Effects, bring_up, now
from prefect_modeldeploy.flows._once import acall_off_promotion, aroll_back_deployment
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, abort, finish
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._assets import materialised
from prefect_modeldeploy.tasks.deployments import aformer_version


class NativeEffects(Effects):
    """Where the provider itself moves the traffic, no endpoint of ours is involved.

    A provider that can call its promotion off is asked at BAKED, and there is a way back until it has ended. At any
    other, what was once asked for may have happened: that is the hand-over, which goes on until it is known.
    """

    def __init__(self, target: DeploymentTarget) -> None:
        super().__init__(target)
        self._asked: asyncio.Task[Deployment] | None = None

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        return finish(record, Effect.CLAIM, now())

    async def _nothing(self, record: RolloutRecord) -> None:
        """Ours to do only behind a router of ours."""

    _attach = _fill = _detach = _clear = _nothing

    async def _hand_over(self, record: RolloutRecord) -> RolloutRecord:
        try:
            if self._asked is None:
                self._asked = asyncio.create_task(self._by_provider(record))
            # A cancelled run does not hang up on the provider: on its way out it waits for this very answer.
            promoted = await asyncio.shield(self._asked)
        except ModelDeployError as error:
            self._asked = None
            if _may_have_happened(error):
                raise
            return abort(record.model_copy(update={"phase": Phase.BAKED}), str(error), decided_by="error")
        return await self._served(record, promoted)

    async def _served(self, record: RolloutRecord, promoted: Deployment) -> RolloutRecord:
        await bring_up(self._target, promoted.id, record.plan.ready_timeout_seconds)
        return finish(record.model_copy(update={"serving": promoted.id}), Effect.HAND_OVER, now())

    async def _promote(self, record: RolloutRecord) -> RolloutRecord:
        if record.phase is Phase.BAKED:
            record = await self._served(record, await self._by_provider(record))
        materialised(record)
        return finish(record, Effect.PROMOTE, now())

    async def _restore(self, record: RolloutRecord) -> None:
        if not record.promoting or record.stable is None:
            return
        if self._target.credentials.client_class.rolls_back == "to":
            await acall_off_promotion(self._target, record.canary, record.stable)

    async def _retire_canary(self, record: RolloutRecord) -> None:
        if record.promoting:
            self.logger.warning("%s: %s is kept, for it may serve by now", record.endpoint, record.canary)
        else:
            await super()._retire_canary(record)


class NativeSettled(NativeEffects):
    """What the provider may have promoted is made sure of, but not waited for: it is rolled back next."""

    async def _served(self, record: RolloutRecord, promoted: Deployment) -> RolloutRecord:
        return finish(record.model_copy(update={"serving": promoted.id}), Effect.HAND_OVER, now())


class NativeReturn(NativeEffects):
    """The provider's own way back: it knows what served before."""

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        # Written down before anything changes: a way back that is gone twice, after a crash, could lead too far.
        goal = await aformer_version(self._target, record.canary)
        return finish(record.model_copy(update={"goal": goal}), Effect.CLAIM, now())

    async def _wait_ready(self, record: RolloutRecord) -> None:
        """The provider brings the former version up itself."""

    async def _by_provider(self, record: RolloutRecord) -> Deployment:
        return await aroll_back_deployment(self._target, record.canary, record.goal)


def native_effects(target: DeploymentTarget, record: RolloutRecord) -> NativeEffects:
    """What a record without a router of ours is driven with."""
    return NativeReturn(target) if record.turns_away else NativeEffects(target)


def _may_have_happened(error: ModelDeployError) -> bool:
    """Whether a provider that failed so may have done all the same what it was asked for."""
    if isinstance(error, ProviderError):
        return error.effect_unknown or isinstance(error, ProviderUnavailable | RateLimited)
    return isinstance(error, WaitTimeout)
