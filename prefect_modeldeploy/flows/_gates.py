"""What holds a rollout before traffic moves forward: freeze windows and webhooks. The canary is watched meanwhile.

Roll-backs are never held.
"""

import asyncio
import math
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Never, TypeVar

import httpx

from prefect_modeldeploy.errors import ProviderError, RolloutsFrozen, StaleEpoch
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._webhooks import GateClosed, When, opens, token_of, until_open
from prefect_modeldeploy.freeze import FreezeCalendar
from prefect_modeldeploy.rollout import CanaryPlan, Effect, Phase, RolloutRecord, abort, waited, waiting
from prefect_modeldeploy.rollout.freeze import frozen_until
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.observing import aobserve_traffic

T = TypeVar("T")

_LOOK_SECONDS = 60.0
"""A calendar that is changed meanwhile is seen within this time."""

_AGAIN_SECONDS = 2.0

_FORWARD = frozenset({Effect.SHIFT, Effect.FILL, Effect.CLEAR, Effect.PROMOTE})
_ASKED: dict[Effect, When] = {Effect.SHIFT: "step", Effect.FILL: "promotion"}


async def may_begin(target: DeploymentTarget, plan: CanaryPlan) -> None:
    """Check what could hold a rollout for ever before it begins.

    Raises:
        RolloutsFrozen: The target's calendar lets no rollout begin now; says until when.
        InvalidInput: The secret of a gate is missing.
    """
    for gate in plan.gates:
        await token_of(gate)
    calendar = target.freeze
    if calendar is not None and calendar.when_frozen == "refuse" and (until := _frozen_until(calendar)):
        raise RolloutsFrozen(target.endpoint, until)


async def passed(effect: Effect, record: RolloutRecord, target: DeploymentTarget) -> RolloutRecord:
    """Wait until the effect may be done.

    Returns:
        The record, with what it waited; turned back, if the canary did harm meanwhile.
    """
    if not _moves_forward(effect, record):
        return record
    while True:
        after = await _let_through(effect, await _thawed(record, target), target)
        if after is record or after.phase is not record.phase:
            return waited(after, datetime.now(UTC))  # it may have opened while nobody drove the rollout
        record = after  # it was held for a while: is it frozen by now?


def _moves_forward(effect: Effect, record: RolloutRecord) -> bool:
    # What the provider has promoted already takes over in any case: its former version may be gone.
    return effect in _FORWARD and record.kind != "roll_back" and record.phase is not Phase.HANDED_OVER


async def _thawed(record: RolloutRecord, target: DeploymentTarget) -> RolloutRecord:
    if target.freeze is None or (until := _frozen_until(await _as_saved(target.freeze))) is None:
        return record
    target.credentials.logger.warning("%s is held: frozen until %s", record.endpoint, f"{until:%Y-%m-%d %H:%M} UTC")
    record, _ = await watched(record, target, _until_thawed(target.freeze))
    return record


async def _let_through(effect: Effect, record: RolloutRecord, target: DeploymentTarget) -> RolloutRecord:
    when, logger = _ASKED.get(effect), target.credentials.logger
    for gate in record.plan.gates:
        if when is None or when not in gate.before or record.phase is Phase.ROLLING_BACK:
            continue
        try:
            if not await opens(gate, when, record, logger):
                record, _ = await watched(record, target, until_open(gate, when, record, logger))
        except GateClosed as closed:
            return abort(record, str(closed), decided_by="webhook")
    return record


async def _until_thawed(calendar: FreezeCalendar) -> None:
    while (until := _frozen_until(await _as_saved(calendar))) is not None:  # noqa: ASYNC110 others change it
        await asyncio.sleep(min(_LOOK_SECONDS, (until - datetime.now(UTC)).total_seconds()))


async def _as_saved(calendar: FreezeCalendar) -> FreezeCalendar:
    """The calendar as it is now, if that can be known: it may have been changed since the rollout began."""
    name = calendar._block_document_name
    try:
        return await FreezeCalendar.aload(name) if name else calendar
    except (httpx.HTTPError, ValueError):  # Prefect's server is away, or the block is gone
        return calendar


def _frozen_until(calendar: FreezeCalendar) -> datetime | None:
    return frozen_until(calendar.windows, datetime.now(UTC))


async def watched(
    record: RolloutRecord, target: DeploymentTarget, wait: Awaitable[T]
) -> tuple[RolloutRecord, T | None]:
    """Wait, and judge meanwhile if there is traffic on both arms: harm ends the wait.

    Nothing of the evidence is kept here: whoever observes next reads the same windows again.

    Returns:
        The record, with how long it waited, and what was waited for; or the record turned back, and None.

    Raises:
        StaleEpoch: Somebody else drives the rollout by now.
    """
    began = datetime.now(UTC)
    record = waiting(record, began)
    opening = asyncio.ensure_future(wait)
    judging = asyncio.ensure_future(_judged(record, target, began))
    saving = asyncio.ensure_future(_saved(record, target))
    losing = asyncio.ensure_future(_until_taken_over(record, target))
    try:
        await asyncio.wait({opening, judging, losing}, return_when=asyncio.FIRST_COMPLETED)
        if losing.done():
            losing.result()
        if not opening.done():
            return waited(judging.result(), datetime.now(UTC)), None
        await saving  # or it could come after what is saved next
        return waited(record, datetime.now(UTC)), opening.result()
    finally:
        for task in (opening, judging, saving, losing):
            task.cancel()
        await asyncio.gather(opening, judging, saving, losing, return_exceptions=True)


async def _saved(record: RolloutRecord, target: DeploymentTarget) -> None:
    """Write down since when a rollout waits: a run that dies meanwhile does not use up its time."""
    try:
        await _ownership.check(record)
        await _journal.put(record)
    except Exception as error:  # who has lost the rollout finds out before the next effect
        target.credentials.logger.warning("%s: cannot save that it waits: %s", record.endpoint, error)


async def _until_taken_over(record: RolloutRecord, target: DeploymentTarget) -> Never:
    """Raise StaleEpoch once somebody else drives the rollout: who waits for days saves nothing that would tell."""
    while True:
        await asyncio.sleep(_ownership.BEAT_SECONDS)
        try:
            await _ownership.check(record)
        except StaleEpoch:
            raise
        except Exception as error:  # who cannot be asked is no reason to stop waiting
            target.credentials.logger.warning("%s: cannot see whose it is: %s", record.endpoint, error)


async def _judged(record: RolloutRecord, target: DeploymentTarget, now: datetime) -> RolloutRecord:
    """The record turned back, when the canary does harm; else this does not end."""
    split = _as_observed(record, now)
    if split is None:
        await asyncio.Event().wait()
    assert split is not None
    while True:
        try:
            harmed = await aobserve_traffic.fn(target, split)
        except ProviderError as error:  # the node is started again, say: what is waited for goes on
            target.credentials.logger.warning("%s cannot be watched now: %s", record.endpoint, error)
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
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
        case Phase.JUDGED | Phase.APPROVED if record.plan.steps:
            return record.model_copy(update={**changes, "phase": Phase.SHIFTED})
        case Phase.BAKED:
            return record.model_copy(update={**changes, "phase": Phase.FULL})
    return None
