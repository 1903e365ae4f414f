"""What each effect of the state machine does to the world, by way of tasks. Every one may be done twice."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import anyio

from prefect_modeldeploy.deployments import Deployment, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.errors import (
    Conflict,
    DeploymentFailed,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    RolloutError,
    UnsupportedOperation,
    WaitTimeout,
)
from prefect_modeldeploy.flows import _gates
from prefect_modeldeploy.flows._approval import ask, suspends
from prefect_modeldeploy.flows._letting_go import retire
from prefect_modeldeploy.flows._once import (
    aclaim_endpoint,
    acreate_deployment,
    apromote_deployment,
    aset_arms,
    aset_traffic,
    astart_deployment,
    awake_deployment,
)
from prefect_modeldeploy.rollout import (
    ON_THE_WAY_BACK,
    Effect,
    Phase,
    RolloutRecord,
    abort,
    answered,
    asks_to_promote,
    finish,
    gate_of,
    held,
    is_slow_way_back,
)
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._assets import materialised
from prefect_modeldeploy.tasks._formers import note_former
from prefect_modeldeploy.tasks.deployments import aget_deployment, apredict
from prefect_modeldeploy.tasks.observing import aobserve_traffic
from prefect_modeldeploy.tasks.preflight import apreflight
from prefect_modeldeploy.tasks.reporting import areport_rollout
from prefect_modeldeploy.tasks.traffic import aget_traffic, current_endpoint, shadow_of
from prefect_modeldeploy.tasks.waiting import await_until_ready
from prefect_modeldeploy.traffic.endpoint import Endpoint
from prefect_modeldeploy.transport import Logger

_asmoke = apredict.with_options(retries=2, retry_delay_seconds=1, retry_condition_fn=lambda *_: True)
"""Even a good model fails now and then."""


class Effects:
    """Performs effects on one target."""

    def __init__(self, target: DeploymentTarget) -> None:
        self._target = target
        self._creation: asyncio.Task[Deployment] | None = None
        self._unsaved: RolloutRecord | None = None
        """The record that names what was, or is being, created, until that is written down."""
        self._unable: set[str] = set()
        """What was seen unable to serve: a provider that does not answer afterwards makes none of it able."""
        self._taken = 0.0
        """The canary's share in percent that stable has got because neither could serve."""

    @property
    def target(self) -> DeploymentTarget:
        """What they work on."""
        return self._target

    @property
    def logger(self) -> Logger:
        """Where they say what happens."""
        return self._target.credentials.logger

    async def let_through(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        """Wait until the effect may be done; as `_gates.passed`."""
        return await _gates.passed(effect, record, self._target)

    async def __call__(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        """Do the effect and return the record after it."""
        if effect is Effect.DEPLOY:
            self._unsaved = record
        elif self._creation is None:
            self._unsaved = None
        after: RolloutRecord | None = await getattr(self, f"_{effect.value}")(record)
        after = finish(record, effect, now()) if after is None else after
        if effect is Effect.DEPLOY:
            self._unsaved = after
        return after

    async def _claim(self, record: RolloutRecord) -> RolloutRecord:
        claim = await aclaim_endpoint(self._target)
        changes = {"epoch": claim.epoch, "start_cursor": claim.cursor, "cursor": claim.cursor}
        return finish(record.model_copy(update=changes), Effect.CLAIM, now())

    async def _deploy(self, record: RolloutRecord) -> RolloutRecord | None:
        if record.spec is None:
            return None
        creation = self._creation or asyncio.create_task(acreate_deployment(self._target, record.spec))
        self._creation = creation
        try:
            # An abort does not hang up on the provider: the way back has to know what was created.
            created = await asyncio.shield(creation)
        except Conflict as error:  # another deployment has the name: on the way back nothing is ours to delete
            return abort(record.model_copy(update={"spec": None}), str(error), decided_by="error")
        finally:
            if creation.done() and not _was_cut_off(creation):
                self._creation = None
        if created.id == record.stable:  # as above; the name did not tell, the provider did
            served = f"{created.id} is what {record.endpoint} serves already"
            return abort(record.model_copy(update={"spec": None}), served, decided_by="error")
        return finish(record.model_copy(update={"canary": created.id}), Effect.DEPLOY, now())

    async def _wait_ready(self, record: RolloutRecord) -> None:
        await bring_up(self._target, record.canary, record.plan.ready_timeout_seconds)

    async def _attach(self, record: RolloutRecord) -> None:
        if record.stable is not None:
            await aset_arms(self._target, _arms(record), expected_epoch=record.epoch, shadow=shadow_of(record.plan))
            if self._target.sample is not None:
                await apreflight(self._target)

    async def _shift(self, record: RolloutRecord) -> None:
        weight = record.plan.steps[record.step]
        await self._able_to_serve(record)
        await aset_traffic(
            self._target, {"stable": round(100 - weight, 2), "canary": weight}, expected_epoch=record.epoch
        )

    async def _observe(self, record: RolloutRecord) -> RolloutRecord:
        return await self._requests_of(record)

    async def _requests_of(self, record: RolloutRecord) -> RolloutRecord:
        await self._as_set(record)
        return await aobserve_traffic(self._target, record)

    async def _as_set(self, record: RolloutRecord) -> None:
        """Set the weights again that somebody has changed, maybe while nobody drove the rollout."""
        if record.stable is None or not self._target.fenced:  # a provider's shares are near the plan's, not at them
            return
        wanted, found = _arms(record, canary_weight=record.weight), await current_endpoint(self._target)
        if found is not None and {arm.name: (arm.upstream, arm.weight) for arm in found.arms} != wanted:
            self.logger.warning("%s: its arms were changed; they are set again", record.endpoint)
            shadow = shadow_of(record.plan) if record.phase is Phase.SHIFTED else None
            await aset_arms(self._target, wanted, expected_epoch=record.epoch, shadow=shadow)

    async def _ask(self, record: RolloutRecord) -> RolloutRecord:
        gate = gate_of(record)
        assert gate is not None, "the machine asks at gates only"
        return await self._by_person(record, gate)

    async def _approve(self, record: RolloutRecord) -> RolloutRecord | None:
        return await self._by_person(record, "promotion") if asks_to_promote(record) else None

    async def _by_person(self, record: RolloutRecord, gate: str) -> RolloutRecord:
        if suspends(gate):  # no process is left that could watch, and no traffic is split yet
            return answered(record, await ask(record, gate), now())
        record, answer = await _gates.watched(record, self._target, ask(record, gate))
        return record if answer is None else answered(record, answer, now())

    async def _fill(self, record: RolloutRecord) -> None:
        await self._able_to_serve(record)
        if record.stable is not None:
            await aset_arms(
                self._target, _arms(record, canary_weight=record.plan.full_weight), expected_epoch=record.epoch
            )

    async def _able_to_serve(self, record: RolloutRecord) -> None:
        """Make sure that the canary still runs before it gets requests: a person may have thought for days."""
        if record.kind == "roll_back":  # it has just been started
            return
        if self._target.splits and not self._target.fenced:  # the provider promotes a copy of it, step by step
            return
        if not (await aget_deployment(self._target, record.canary)).answers_at_once:
            await bring_up(self._target, record.canary, record.plan.ready_timeout_seconds)

    async def _bake(self, record: RolloutRecord) -> RolloutRecord | None:
        if not record.plan.bake_seconds or record.stable is None:
            return None
        return await self._requests_of(record)  # also after a golden set, which is observed otherwise

    async def _clear(self, record: RolloutRecord) -> None:
        await aset_arms(self._target, _arms(record, canary_weight=100.0), expected_epoch=record.epoch)

    async def _hand_over(self, record: RolloutRecord) -> RolloutRecord:
        promoted = await self._by_provider(record)
        await bring_up(self._target, promoted.id, record.plan.ready_timeout_seconds)
        if record.plan.smoke_request is not None:
            try:
                await _asmoke(self._target, promoted.id, record.plan.smoke_request)
            except ProviderError as error:  # whatever its status: this is the model's answer, not the provider's
                raise DeploymentFailed(promoted.id, f"it does not answer the smoke request: {error}") from error
        return finish(record.model_copy(update={"serving": promoted.id}), Effect.HAND_OVER, now())

    async def _by_provider(self, record: RolloutRecord) -> Deployment:
        return await apromote_deployment(self._target, record.canary)

    async def _promote(self, record: RolloutRecord) -> RolloutRecord:
        arms = {"stable": (record.serving or record.canary, 100.0)}
        await aset_arms(self._target, arms, expected_epoch=record.epoch)
        materialised(record)
        return finish(record, Effect.PROMOTE, now())

    async def _retire_former(self, record: RolloutRecord) -> None:
        serving = record.serving or record.canary
        await note_former(record, now())
        warm = record.plan.former_warm_seconds > 0
        if record.stable is not None and record.stable != serving and not warm:  # the provider may change it in place
            await retire(self._target, record.stable, record.plan.former)
        if record.canary != serving:
            await self._retire_canary(record)

    async def _restore(self, record: RolloutRecord) -> RolloutRecord | None:
        if record.epoch and record.stable is None and await self._serves_already(record):
            reason = f"{record.canary} serves already, and nothing served before it: {record.reason}"
            return finish(record.model_copy(update={"reason": reason}), Effect.PROMOTE, now())
        if not (record.epoch and record.stable is not None and await self._attached(record)):
            return None
        if not await self._can(record.stable, at_once=True):
            if not await self._brought_up(record):
                await self._give_back(record, self._taken or await self._taken_by_others(record))
                return held(record, f"{record.stable} cannot serve, so {record.canary} goes on: {record.reason}")
            if await self._can(record.canary):
                await self._back_as_it_scales(record, record.stable)
        seconds = record.plan.roll_back_seconds if is_slow_way_back(record) else 0.0
        for weight in _way_back(await aget_traffic(self._target), seconds):
            await self._put_back(record, _arms(record, canary_weight=weight))
            await anyio.sleep(seconds / _WAY_BACK_STEPS)
        await self._put_back(record, _arms(record))
        return None

    async def _put_back(self, record: RolloutRecord, arms: Mapping[str, tuple[str, float]]) -> None:
        """Move traffic by what the gateway knows: the canary may be gone, or the provider away."""
        await aset_arms(self._target, arms, expected_epoch=record.epoch, renew=False)

    async def _can(self, deployment_id: str, *, at_once: bool = False) -> bool:
        """Whether it can serve, if need be after a wake. No provider that is away is waited for: as it was before."""
        with anyio.move_on_after(_ASK_SECONDS):
            try:
                found = await self._found(deployment_id)
            except ProviderError as error:  # it says nothing about the deployment
                self.logger.warning("%s", error)
            else:
                if found is None or not found.may_receive_traffic:
                    self._unable.add(deployment_id)
                    return False
                self._unable.discard(deployment_id)
                return found.answers_at_once or not at_once
        able = deployment_id not in self._unable
        self.logger.warning(
            "%s: cannot ask whether %s can serve: it is taken %s",
            self._target.endpoint,
            deployment_id,
            "to, as before" if able else "not to, as when it was seen last",
        )
        return able

    async def _found(self, deployment_id: str) -> Deployment | None:
        """Asked once, as no task; None if somebody has deleted it."""
        try:
            async with client_of(self._target, deployment_id) as client:
                return await client.get(deployment_id)
        except NotFound:
            return None

    async def _brought_up(self, record: RolloutRecord) -> bool:
        """Start or wake stable, while the canary still has its share. False: it cannot serve, and the canary can."""
        assert record.stable is not None
        if await self._can(record.canary):
            await self._give_back(record, self._taken)
        elif await self._can(record.stable):
            return True  # the first request wakes it: better than what is there now
        self.logger.warning("%s: %s is not ready; it is started before it gets traffic", record.endpoint, record.stable)
        try:
            await bring_up(self._target, record.stable, record.plan.ready_timeout_seconds)
        except (DeploymentFailed, WaitTimeout, NotFound, Conflict, UnsupportedOperation) as error:
            self.logger.error("%s: %s cannot be brought up: %s", record.endpoint, record.stable, error)
            # Two that cannot serve: then as before the rollout.
            return await self._can(record.stable) or not await self._can(record.canary)
        except ProviderUnavailable:
            if record.canary in self._unable:  # as above, while it is tried again
                self._taken = self._taken or _share_of_canary(await aget_traffic(self._target))
                await self._put_back(record, _arms(record))
            raise
        self._unable.discard(record.stable)
        return True

    async def _give_back(self, record: RolloutRecord, share: float) -> None:
        """The canary can serve again: it gets the share in percent that it had."""
        if share:
            await self._put_back(record, _arms(record, canary_weight=share))
            self._taken = 0.0

    async def _taken_by_others(self, record: RolloutRecord) -> float:
        """What the canary had, or nearly, where a process that is gone has given it all to stable."""
        if record.judged_from is None or _share_of_canary(await aget_traffic(self._target)):
            return 0.0
        return record.plan.steps[record.step] if record.plan.steps else record.plan.full_weight

    async def _back_as_it_scales(self, record: RolloutRecord, stable: str) -> None:
        """Give stable, which has just been started, the share that its ready replicas can take, until all are ready."""
        with anyio.move_on_after(_SCALES_UP_SECONDS):
            while (found := await self._found(stable)) and found.replicas.ready < (found.replicas.desired or 0):
                endpoint = await aget_traffic(self._target)
                left = round(100.0 - 100.0 * found.replicas.ready / (found.replicas.desired or 1), 2)
                if left < _share_of_canary(endpoint):
                    await self._put_back(record, _arms(record, canary_weight=left))
                await anyio.sleep(_LOOK_SECONDS)

    async def _serves_already(self, record: RolloutRecord) -> bool:
        """Whether a first version was in production before it was to turn back: there is nothing to go to."""
        try:
            return await self._attached(record)
        except NotFound:
            return False

    async def _attached(self, record: RolloutRecord) -> bool:
        return any(arm.upstream == record.canary for arm in (await aget_traffic(self._target)).arms)

    async def _detach(self, record: RolloutRecord) -> None:
        if record.epoch and record.stable is not None:
            await self._put_back(record, {"stable": (record.stable, 100.0)})

    async def _retire_canary(self, record: RolloutRecord) -> None:
        for deployment_id in await self._created(record):
            if deployment_id == record.stable:
                self.logger.warning("%s: %s is kept, for it is what served before", record.endpoint, deployment_id)
            else:
                await retire(self._target, deployment_id, record.plan.failed_canary)

    async def _created(self, record: RolloutRecord) -> list[str]:
        """What this rollout has created; the name tells where the answer to the creation was lost.

        A rollout of a spec that was there when it began has a plan that keeps it: then whose it is does not matter.
        """
        if record.spec is None:
            return []
        if record.canary != record.spec.name:
            return [record.canary]
        if self._creation is not None:
            # A creation that was let go of: what comes of it later would stay for ever. A cancelled run that has no
            # time left for the answer leaves its record open here, with the traffic back, to `reconcile_rollouts`.
            await asyncio.gather(asyncio.shield(self._creation), return_exceptions=True)
            if _was_cut_off(self._creation):
                await self._shown(record.spec)
            elif error := self._creation.exception():
                self.logger.warning("%s: %s was not created: %s", record.endpoint, record.canary, error)
                if isinstance(error, Conflict):  # as in `_deploy`: what has the name is not ours
                    return []
            self._creation = None
        return await ids_of(self._target, record.spec)

    async def _shown(self, spec: DeploymentSpec) -> None:
        """Wait until what was being created is to be seen.

        Raises:
            RolloutError: It is not, yet.
        """
        with anyio.move_on_after(_SHOWN_SECONDS):
            while not await ids_of(self._target, spec):  # noqa: ASYNC110 at its provider
                await anyio.sleep(_LOOK_SECONDS)
            return
        raise RolloutError(f"nobody knows whether {spec.name} was created; reconcile-rollouts looks for it again")

    async def disown(self) -> None:
        """Let go of what was created when the rollout was somebody else's already, if it has turned back without it."""
        if (late := self._unsaved) is None or late.spec is None:
            return
        try:
            if await self._has_turned_back(late):
                await self._retire_canary(late)
            else:  # who goes on finds by its name what was created
                self.logger.warning("%s was created late, and is left there", late.canary)
        except Exception as error:  # that somebody else drives it is what its caller has to know
            self.logger.warning("%s was created late, and is left there: %s", late.canary, error)

    async def _has_turned_back(self, record: RolloutRecord) -> bool:
        """Whether somebody else has turned a rollout back, and has let go by now of what they knew of."""
        last = None
        with anyio.move_on_after(_TURNED_BACK_SECONDS):
            while (last := await _journal.latest(record.endpoint)) and last.phase in ON_THE_WAY_BACK:  # noqa: ASYNC110
                await anyio.sleep(_LOOK_SECONDS)
        if last is None or last.id != record.id:
            return False
        return last.phase in (Phase.RETIRED, Phase.ENDED) and last.outcome == "rolled_back"

    async def _end(self, record: RolloutRecord) -> RolloutRecord:
        ended = finish(record, Effect.END, now())
        try:
            path = await areport_rollout(self._target, ended)
        except Exception:
            # The rollout itself is over and well; a report can be made again from what the gateway kept.
            self._target.credentials.logger.exception("the report could not be written")
            return ended
        return ended.model_copy(update={"report": str(path)})


async def bring_up(target: DeploymentTarget, deployment_id: str, timeout_seconds: float) -> Deployment:
    deployment = await aget_deployment(target, deployment_id)
    match deployment.status:
        case DeploymentStatus.SCALED_TO_ZERO:
            await awake_deployment(target, deployment_id)
        case DeploymentStatus.STOPPED:
            await astart_deployment(target, deployment_id)
    [ready] = await await_until_ready(target, deployment_id, timeout_seconds=timeout_seconds)
    return ready


def _was_cut_off(creation: asyncio.Task[Deployment]) -> bool:
    """Whether a creation was ended, as by SIGTERM, before its provider had answered: it may come to something still."""
    return creation.cancelled() or not isinstance(creation.exception(), Exception | None)


async def ids_of(target: DeploymentTarget, spec: DeploymentSpec) -> list[str]:
    """What bears a spec's name now."""
    async with client_of(target) as client:
        found = await client.find(model=spec.model)
    there = [one for one in found if one.status is not DeploymentStatus.DELETED]
    return [one.id for one in there if spec.name in (one.id, one.name)]


_LOOK_SECONDS = 0.5

_SHOWN_SECONDS = 10.0
"""So long a cancelled run looks for what it was creating; it has 25 s."""

_TURNED_BACK_SECONDS = 60.0
"""So long who created something too late waits for the end of the way back."""

_ASK_SECONDS = 2.0
"""So long the way back waits for a provider's answer: its control API may be away while the deployments serve well."""

_SCALES_UP_SECONDS = 15.0
"""So long the canary keeps some requests while the replicas of a stable that was started get ready one by one."""

_WAY_BACK_STEPS = 5


def _way_back(endpoint: Endpoint, seconds: float) -> list[float]:
    """Shares of the canary on a slow way back, but for the last, 0; none if it is to be quick."""
    if not seconds:
        return []
    now = _share_of_canary(endpoint)
    return [round(now * left / _WAY_BACK_STEPS, 2) for left in range(_WAY_BACK_STEPS - 1, 0, -1)]


def _share_of_canary(endpoint: Endpoint) -> float:
    return next((arm.weight for arm in endpoint.arms if arm.name == "canary"), 0.0)


def _arms(record: RolloutRecord, *, canary_weight: float = 0.0) -> dict[str, tuple[str, float]]:
    assert record.stable is not None, "only a rollout with a stable version has two arms"
    return {"stable": (record.stable, round(100.0 - canary_weight, 2)), "canary": (record.canary, canary_weight)}


def now() -> datetime:
    return datetime.now(UTC)
