"""What holds a rollout before traffic moves forward: freeze windows. The canary is watched meanwhile.

Roll-backs are never held.
"""

import asyncio
import math
from collections.abc import Awaitable
from datetime import UTC, datetime

from prefect_modeldeploy.errors import RolloutsFrozen
from prefect_modeldeploy.freeze import FreezeCalendar
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord
from prefect_modeldeploy.rollout.freeze import frozen_until
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks.observing import aobserve_traffic

_LOOK_SECONDS = 60.0
"""A calendar that is changed meanwhile is seen within this time."""

_FORWARD = frozenset({Effect.SHIFT, Effect.FILL, Effect.CLEAR, Effect.PROMOTE})


async def refuse_if_frozen(target: DeploymentTarget) -> None:
    """Raise RolloutsFrozen, with the end of it, if the target's calendar lets no rollout begin now."""
    calendar = target.freeze
    if calendar is not None and calendar.when_frozen == "refuse" and (until := _frozen_until(calendar)):
        raise RolloutsFrozen(target.endpoint, until)


async def passed(effect: Effect, record: RolloutRecord, target: DeploymentTarget) -> RolloutRecord:
    """Wait until the effect may be done.

    Returns:
        The record, its deadline later by as much as it waited; turned back, if the canary did harm meanwhile.
    """
    if not _moves_forward(effect, record):
        return record
    return await _thawed(record, target)


def _moves_forward(effect: Effect, record: RolloutRecord) -> bool:
    # What the provider has promoted already takes over in any case: its former version may be gone.
    return effect in _FORWARD and record.kind != "roll_back" and record.phase is not Phase.HANDED_OVER


async def _thawed(record: RolloutRecord, target: DeploymentTarget) -> RolloutRecord:
    if target.freeze is None or (until := _frozen_until(target.freeze)) is None:
        return record
    target.credentials.logger.warning("%s is held: frozen until %s", record.endpoint, f"{until:%Y-%m-%d %H:%M} UTC")
    return await watched(record, target, _until_thawed(target.freeze))


async def _until_thawed(calendar: FreezeCalendar) -> None:
    name = calendar._block_document_name
    while (until := _frozen_until(calendar)) is not None:
        await asyncio.sleep(min(_LOOK_SECONDS, (until - datetime.now(UTC)).total_seconds()))
        calendar = await FreezeCalendar.aload(name) if name else calendar


def _frozen_until(calendar: FreezeCalendar) -> datetime | None:
    return frozen_until(calendar.windows, datetime.now(UTC))


async def watched(record: RolloutRecord, target: DeploymentTarget, wait: Awaitable[None]) -> RolloutRecord:
    """Wait, and judge meanwhile if there is traffic on both arms: harm ends the wait.

    Nothing of the evidence is kept here: whoever observes next reads the same windows again.
    """
    began = datetime.now(UTC)
    waiting = asyncio.ensure_future(wait)
    judging = asyncio.ensure_future(_judged(record, target, began))
    try:
        await asyncio.wait({waiting, judging}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return judging.result()
        waiting.result()
    finally:
        for task in (waiting, judging):
            task.cancel()
        await asyncio.gather(waiting, judging, return_exceptions=True)
    held = (datetime.now(UTC) - began).total_seconds()
    plan = record.plan.model_copy(update={"deadline_seconds": record.plan.deadline_seconds + held})
    return record.model_copy(update={"plan": plan})


async def _judged(record: RolloutRecord, target: DeploymentTarget, now: datetime) -> RolloutRecord:
    """The record turned back, when the canary does harm; else this does not end."""
    split = _as_observed(record, now)
    if split is None:
        await asyncio.Event().wait()
    assert split is not None
    harmed = await aobserve_traffic.fn(target, split)
    return harmed.model_copy(update={"plan": record.plan})


def _as_observed(record: RolloutRecord, now: datetime) -> RolloutRecord | None:
    """The record as if its last step went on for ever; None if nothing of the traffic can be compared."""
    endless = {"step_seconds": math.inf, "bake_seconds": math.inf, "deadline_seconds": math.inf}
    changes = {"plan": record.plan.model_copy(update=endless), "step_started_at": now}
    if record.mode == "native" or record.stable is None or record.golden_set or not 0 < record.weight < 100:
        return None
    match record.phase:
        case Phase.ATTACHED:
            return record.model_copy(update={**changes, "phase": Phase.SHIFTED, "step": record.step - 1})
        case Phase.APPROVED if record.plan.steps:
            return record.model_copy(update={**changes, "phase": Phase.SHIFTED})
        case Phase.BAKED:
            return record.model_copy(update={**changes, "phase": Phase.FULL})
    return None
