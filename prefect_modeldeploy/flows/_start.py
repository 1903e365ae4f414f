"""How a rollout begins: the record is made, or an open one is found again."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, cast
from uuid import uuid4

from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentSpec
from prefect_modeldeploy.errors import (
    InvalidInput,
    RolloutError,
    RolloutInProgress,
    RolloutsHalted,
    StaleEpoch,
    UnsupportedOperation,
)
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._approval import may_ask, was_answered
from prefect_modeldeploy.flows._driver import drive
from prefect_modeldeploy.flows._effects import Effects, ids_of
from prefect_modeldeploy.flows._gates import may_begin
from prefect_modeldeploy.rollout import Approval, CanaryPlan, Phase, RolloutRecord, Told, in_flight, obeyed
from prefect_modeldeploy.target import DeploymentTarget, router_of
from prefect_modeldeploy.tasks import _audit, _journal, _red_button
from prefect_modeldeploy.tasks._identity import who_started
from prefect_modeldeploy.tasks.deployments import aget_deployment
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, current_endpoint
from prefect_modeldeploy.traffic.endpoint import Endpoint
from prefect_modeldeploy.traffic.router import SteppedRouter

_APPROVED = frozenset({Phase.APPROVED, Phase.FULL, Phase.BAKED})
"""Nobody is asked any more."""

Kind = Literal["canary", "promotion", "roll_back"]


def run_name() -> str:
    """Name of a flow run, for the UI: what is done to what."""
    target, candidate = (flow_run.parameters.get(key) for key in ("target", "candidate"))
    where = target.endpoint if isinstance(target, DeploymentTarget) else target
    what = _id_of(candidate) if isinstance(candidate, str | DeploymentSpec) else None
    return f"{where}-{what}" if what else f"{where}"


async def run_rollout(
    target: DeploymentTarget | str,
    candidate: str | DeploymentSpec,
    plan: CanaryPlan,
    *,
    kind: Kind,
    approval: Approval | None = None,
    note: str = "",
) -> RolloutRecord:
    """Roll `candidate` out by `plan`, or go on with the open rollout of the same candidate."""
    target = await DeploymentTarget.resolve(target)
    if plan.promote == "native":
        demand(target, Capability.PROMOTE, "use promote='swap'")

    async def make() -> RolloutRecord:
        endpoint = await current_endpoint(target)
        if endpoint is None and kind != "promotion":
            raise InvalidInput(
                "target.endpoint",
                target.endpoint,
                "serves nothing yet, so there is nothing to compare with: "
                "put the first version there with promote_to_production",
            )
        stable = await _stable_of(target, endpoint) if endpoint else None
        record = await new_record(target, candidate, plan, stable, kind=kind, approval=approval, note=note)
        await _check_shares(target, plan)
        return record

    return await driven(await begin(target, _id_of(candidate), make), Effects(target))


async def driven(record: RolloutRecord, effects: Effects) -> RolloutRecord:
    """Drive a rollout; returns what a flow returns."""
    try:
        return await driven_to_its_end(record, effects)
    except StaleEpoch as error:
        return surrendered(error)


async def driven_to_its_end(record: RolloutRecord, effects: Effects) -> RolloutRecord:
    """Drive a rollout; returns what a flow returns.

    Raises:
        StaleEpoch: Another run has taken it over.
    """
    ended = await drive(record, effects)
    if ended.decided_by == "cancellation" != record.decided_by:  # of this run, and Prefect takes no other end of it
        return cast(RolloutRecord, Cancelled(message=ended.reason or None))
    return final(ended)


def surrendered(error: StaleEpoch) -> RolloutRecord:
    """What a flow returns whose rollout another run has taken over: its caller gets the error, the UI no failure."""
    return cast(RolloutRecord, Cancelled(message=str(error), data=error))


def final(record: RolloutRecord) -> RolloutRecord:
    """What a flow returns: to its caller the record, to the UI a state that is named after the outcome.

    Prefect unwraps a returned state for the caller, hence the type.

    Raises:
        RolloutError: A roll-back could not be done; what served before it serves still.
    """
    if record.kind == "roll_back" and record.outcome != "promoted":
        raise RolloutError(f"{record.endpoint} was not rolled back, what served serves still: {record.reason}")
    name = (record.outcome or "ended").replace("_", " ").title().replace(" ", "")
    return cast(RolloutRecord, Completed(name=name, message=record.reason or None, data=record))


async def begin(
    target: DeploymentTarget, candidate: str, make: Callable[[], Awaitable[RolloutRecord]]
) -> RolloutRecord:
    """The record that this run is to drive: the endpoint's open one of the same candidate, or a new one.

    A new one is made of what serves then: the rollout before may end while its signs of life are waited for.

    Raises:
        RolloutInProgress: Another run drives the endpoint's rollout, or something else is being rolled out there.
        InvalidInput: The open rollout is at another gateway's endpoint of the same name; or a person is to be asked,
            and this run could not wait.
        RolloutError: This run has an answer for a rollout that is no more.
    """
    last = await _ownership.latest(target)
    if last is not None and last.phase is Phase.ENDED and _is_of_this_run(last, candidate):
        return last  # Prefect runs this flow run again, but somebody has ended its rollout meanwhile
    lost = last is not None and await _ownership.is_lost(last)
    async with _ownership.only_one(target.endpoint):
        record = await _ownership.latest(target)
        if record is None or not await _is_open(record, target):
            record = await make()
            await _may_drive(record)
            await _may_begin_anew(record)
            return await _journal.save(_ownership.taken(record))
        if last is None or record.driver != last.driver or not lost or record.candidate != candidate:
            raise RolloutInProgress(
                f"{target.endpoint} has an open rollout of {record.candidate} (at {record.phase}, started by "
                f"{record.who.name}): let it end, run it again to go on with it if its run is gone, or roll_back first"
            )
        await _may_drive(record)
        return await take_over(target, record)


def _is_of_this_run(record: RolloutRecord, candidate: str) -> bool:
    """Whether this run began a rollout, or went on with it; a roll-back may end one before it does what it is for."""
    run = str(flow_run.id)
    return run == record.id or (run in record.asked and record.candidate == candidate)


async def _may_drive(record: RolloutRecord) -> None:
    asks = record.approval is not None or record.plan.on_undecided == "ask"
    if asks and in_flight(record) and record.phase not in _APPROVED:
        await may_ask()


async def _may_begin_anew(record: RolloutRecord) -> None:
    """Check that nobody has answered this run: they did not mean a rollout that begins later.

    Raises:
        RolloutError: Somebody has.
    """
    if await was_answered():
        raise RolloutError(
            f"{record.endpoint}: this flow run waited for an answer about a rollout that has ended since, and another "
            f"one has been there; to roll {record.candidate} out after all, start a new flow run"
        )


async def take_over(target: DeploymentTarget, record: RolloutRecord) -> RolloutRecord:
    """Become the driver of an open record: whoever drove it before can change nothing any more."""
    target.credentials.logger.warning("going on with the rollout of %s, at %s", record.candidate, record.phase)
    by_router = record.mode == "swap"  # where none of ours refuses old epochs, the record alone tells the newest driver
    epoch = (await aclaim_endpoint(target)).epoch if by_router else record.epoch + 1
    # The former driver may be one step further, for it looks before it asks the provider, not while it does.
    promoting = record.promoting or (record.phase is Phase.FULL and not by_router)
    ours = _ownership.taken(record.model_copy(update={"epoch": epoch, "promoting": promoting}))
    await _journal.save(ours)
    return ours.model_copy(update={"steps": await _audit.verdicts(target, ours)})


async def turned_by_hand(record: RolloutRecord, note: str) -> RolloutRecord:
    """The record turned back by who has started this run."""
    told = Told(order="abort", why=note, who=await who_started(), at=datetime.now(UTC))
    reason = f"rolled back by hand, by {told.who.name}" + (f": {note}" if note else "")
    return obeyed(record, told, reason, decided_by="person")


async def _is_open(record: RolloutRecord, target: DeploymentTarget) -> bool:
    if record.phase is Phase.ENDED or record.mode == "native":
        return record.phase is not Phase.ENDED
    # An epoch that the endpoint has not reached yet is of one that is no more. One that it has left behind is of a run
    # that died just after it had taken the rollout over.
    endpoint = await current_endpoint(target)
    return record.epoch <= (endpoint.epoch if endpoint else 0)


async def new_record(
    target: DeploymentTarget,
    candidate: str | DeploymentSpec,
    plan: CanaryPlan,
    stable: Deployment | None,
    *,
    kind: Kind,
    mode: Literal["swap", "native"] = "swap",
    named: bool = False,
    approval: Approval | None = None,
    note: str = "",
) -> RolloutRecord:
    """A record to begin with.

    Raises:
        InvalidInput: The candidate serves already.
        NotFound: There is no such candidate.
        RolloutsFrozen: The target's calendar lets nothing begin now, but for roll-backs.
        RolloutsHalted: The red button is pressed; only roll-backs may begin.
    """
    if kind != "roll_back" and (press := await _red_button.pressed()):
        raise RolloutsHalted(f"all rollouts are halted {press}; `modeldeploy allow` lets them begin again")
    if kind != "roll_back":
        await may_begin(target, plan)
    spec = candidate if isinstance(candidate, DeploymentSpec) else None
    name = _id_of(candidate)
    there = await ids_of(target, spec) if spec else []
    if stable is not None and stable.id in (name, *there):
        raise InvalidInput("candidate", name, f"it is what {target.endpoint} serves already")
    if there:  # whoever has created it may need it
        target.credentials.logger.warning("%s was there before: a way back leaves it as it is", name)
        plan = plan.model_copy(update={"failed_canary": "keep"})
    version = spec.version if spec else (await aget_deployment(target, name)).version
    return RolloutRecord(
        id=str(flow_run.id or uuid4()),
        kind=kind,
        mode=mode,
        named=named,
        provider=target.credentials.client_class.provider,
        model=target.model,
        endpoint=target.endpoint,
        environment=target.environment,
        gateway=await target.split_by(),
        places=await target.places(),
        who=await who_started(),
        why=note,
        plan=plan,
        approval=approval,
        notify=target.notify,
        spec=spec,
        stable=stable.id if stable else None,
        canary=name,
        stable_version=stable.version if stable else None,
        canary_version=version,
        started_at=datetime.now(UTC),
    )


async def _check_shares(target: DeploymentTarget, plan: CanaryPlan) -> None:
    async with router_of(target) as (router, name):
        if isinstance(router, SteppedRouter):
            if plan.roll_back_seconds:
                raise InvalidInput(
                    "plan.roll_back_seconds",
                    plan.roll_back_seconds,
                    f"{target.credentials.client_class.provider} takes traffic back at once only: leave it 0, or put "
                    "a gateway in front",
                )
            shares = (*plan.steps, plan.full_weight)
            await router.check(name, tuple(share for share in shares if share < 100))


async def _stable_of(target: DeploymentTarget, endpoint: Endpoint) -> Deployment:
    stable = next((arm for arm in endpoint.arms if arm.name == "stable"), endpoint.arms[0])
    return await aget_deployment(target, stable.upstream)


def demand(target: DeploymentTarget, capability: Capability, instead: str) -> None:
    """Raise UnsupportedOperation, with what to do instead, unless the target's provider has a capability."""
    credentials = target.credentials
    if not credentials.can(capability):
        raise UnsupportedOperation(credentials.client_class.provider, capability, instead)


def _id_of(candidate: str | DeploymentSpec) -> str:
    return candidate if isinstance(candidate, str) else candidate.name
