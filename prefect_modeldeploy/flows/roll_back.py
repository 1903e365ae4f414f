"""Roll-back: the former version serves again, now. It wins over a rollout in flight."""

import asyncio
from datetime import datetime

from prefect import flow
from prefect.runtime import flow_run

from prefect_modeldeploy.deployments import DeploymentId
from prefect_modeldeploy.errors import InvalidInput, RolloutInProgress, StaleEpoch
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._driver import drive
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._native import roll_back_natively
from prefect_modeldeploy.flows._start import (
    driven_to_its_end,
    final,
    run_name,
    run_rollout,
    surrendered,
    take_over,
    turned_by_hand,
)
from prefect_modeldeploy.rollout import (
    ON_THE_WAY_BACK,
    CanaryPlan,
    Phase,
    RolloutRecord,
    by_swap,
    in_flight,
    is_slow_way_back,
    reopened,
)
from prefect_modeldeploy.target import BlockName, DeploymentTarget
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import current_endpoint

_LOOK_SECONDS = 1.0


@flow(name="roll-back", flow_run_name=run_name)
async def roll_back(
    target: DeploymentTarget | BlockName, to: DeploymentId | None = None, note: str = ""
) -> RolloutRecord:
    """Go back to the former version, or to a named one.

    A rollout in flight is fenced off and turned back; so is one that was held undecided. Else the version that
    served before the last promotion is started again if need be, and takes over once it is ready. What was turned or
    rolled back since this run was asked for, by the same alarm, is what was wanted; a roll-back that is under way is
    waited for. Only a version that is named is ever brought back after a roll-back.

    Args:
        target: What to change: a Deployment Target block, or the name of a saved one.
        to: Id of the deployment that shall serve. None: the one that served before.
        note: Why this is done; kept in the record.

    Returns:
        The record of the turned-back rollout, or of this one.

    Raises:
        InvalidInput: Nobody knows a former version, or the last change was a roll-back already; name one.
        RolloutError: The former version cannot serve; what served before serves still.
    """
    target = await DeploymentTarget.resolve(target)
    while True:
        before = await _journal.latest(target.endpoint)
        try:
            return await _roll_back(target, to, note)
        except (RolloutInProgress, InvalidInput) as error:
            last = await _journal.latest(target.endpoint)
            if to is not None or last is None or last.kind != "roll_back":
                raise
            nothing_new = before is not None and (before.id, before.phase) == (last.id, last.phase)
            if isinstance(error, InvalidInput) and nothing_new:
                raise  # else another run has begun, or done, the very same in this moment
        except StaleEpoch as error:
            if await _ownership.successor(target.endpoint) is None:
                return surrendered(error)  # else one of ours has it: that may go forward, or go back to something else


async def _roll_back(target: DeploymentTarget, to: str | None, note: str) -> RolloutRecord:
    last = await _ownership.latest(target)
    if to is None and last is not None and last.kind == "roll_back":
        before, last = last, await _left_alone(last)
        if last.id != before.id:
            return await _roll_back(target, to, note)
        if last.phase is Phase.ENDED and last.outcome == "promoted":
            return final(_of_the_same_alarm(last))
        to = None if last.turns_away else last.canary  # its run is gone, or it came to nothing: once more
    if last.mode == "native" if last else not target.splits:
        return await roll_back_natively(target, to, note)
    current = reopened(last) if last and await _is_in_force(last, target) else None
    if current and (in_flight(current) or is_slow_way_back(current)) and to != current.canary:
        aborted = await take_over(target, await turned_by_hand(current, note))
        if to in (None, current.stable):
            return await driven_to_its_end(aborted, Effects(target))
        last = await drive(aborted, Effects(target))
    elif current and current.phase in ON_THE_WAY_BACK:
        last = await _left_alone(current)
        if last.id != current.id:
            return await _roll_back(target, to, note)
        if last.phase is not Phase.ENDED:
            last = await drive(await take_over(target, last), Effects(target))
        if to in (None, last.stable):
            return final(last)
    elif current and current.phase is not Phase.ENDED and to != current.canary:
        last = await drive(await take_over(target, _settled(current)), Effects(target))
    if to is None and last and last.outcome == "rolled_back" and _since_asked(last):
        return final(last)
    former = to or (last.stable if last and last.outcome == "promoted" else None)
    if former is None:
        raise InvalidInput("to", to, f"no record of what {target.endpoint} served before; name the deployment")
    try:
        return await run_rollout(target, former, CanaryPlan(steps=()), kind="roll_back", note=note)
    except RolloutInProgress:
        begun = await _journal.latest(target.endpoint)
        if begun is None or (last and begun.id == last.id) or (to is None and begun.kind == "roll_back"):
            raise
    return await _roll_back(target, former, note)  # it wins over what has begun in this moment


async def _is_in_force(record: RolloutRecord, target: DeploymentTarget) -> bool:
    """Whether the record says what the endpoint does. Who died while taking it over has left only a newer epoch."""
    endpoint = await current_endpoint(target)
    if endpoint is None:
        return False
    return endpoint.epoch == record.epoch or (record.phase is not Phase.ENDED and endpoint.epoch > record.epoch)


def _settled(record: RolloutRecord) -> RolloutRecord:
    """A promotion that is nearly done, as done: the former version is wanted again, so nothing lets go of it."""
    record = by_swap(record)
    return record.model_copy(update={"phase": Phase.RETIRED}) if record.phase is Phase.PROMOTED else record


async def _left_alone(record: RolloutRecord) -> RolloutRecord:
    """The record when its run has ended it, or is gone; the next rollout's, if that has begun after this one failed."""
    while record.phase is not Phase.ENDED:
        if not (lost := await _ownership.is_lost(record)):
            await asyncio.sleep(_LOOK_SECONDS)
        seen, record = record, await _journal.latest(record.endpoint) or record
        if record.id != seen.id:
            ended = await _journal.last_ended(record.endpoint)
            return ended if ended and ended.id == seen.id and _is_back(ended) else record
        if lost and record.driver == seen.driver:  # or it has ended in this moment
            break
    return record


def _is_back(ended: RolloutRecord) -> bool:
    """Whether what somebody wanted away from production is away."""
    return ended.outcome == ("promoted" if ended.kind == "roll_back" else "rolled_back")


def _of_the_same_alarm(record: RolloutRecord) -> RolloutRecord:
    """A roll-back that is done. One that is asked for later would bring back what was taken away, unless it names more.

    Raises:
        InvalidInput: It was done before this run was asked for.
    """
    if not _since_asked(record):
        what = f"the last change of {record.endpoint} was a roll-back already, to {record.canary}"
        raise InvalidInput("to", None, f"{what}; name the deployment that shall serve")
    return record


def _since_asked(record: RolloutRecord) -> bool:
    asked: datetime = flow_run.scheduled_start_time
    return record.ended_at is not None and record.ended_at >= asked
