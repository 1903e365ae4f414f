"""Drives a rollout through its state machine: do the next effect, save the record, until it has ended."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from prefect_modeldeploy.errors import RolloutError, StaleEpoch
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, abort, in_flight, next_effect
from prefect_modeldeploy.tasks import _journal, _red_button
from prefect_modeldeploy.transport import Logger

Perform = Callable[[Effect, RolloutRecord], Awaitable[RolloutRecord]]

TURN_BACK_SECONDS = 25.0
"""Prefect kills a cancelled run 30 s after the request; the way back has to fit in."""

_ON_THE_WAY_BACK = frozenset({Phase.ROLLING_BACK, Phase.RESTORED, Phase.DETACHED})


async def drive(record: RolloutRecord, perform: Perform, logger: Logger) -> RolloutRecord:
    """Do what the machine says until the rollout has ended; returns the last record.

    A failed effect turns the rollout back; so does the red button, at once and in the middle of an effect, and the
    cancellation of the flow run, within its 30 s.

    Raises:
        StaleEpoch: Another rollout owns the endpoint; nothing more was changed.
        RolloutError: The way back failed too; the record stays open, and running the flow again continues it.
    """
    await _journal.save(record)
    while (effect := next_effect(record)) is not None:
        try:
            record = await _step(record, effect, perform, logger)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True), anyio.move_on_after(TURN_BACK_SECONDS):
                await drive(abort(record, "the flow run was cancelled", decided_by="cancellation"), perform, logger)
            raise
    return record


async def _step(record: RolloutRecord, effect: Effect, perform: Perform, logger: Logger) -> RolloutRecord:
    logger.debug("%s: %s", record.endpoint, effect)
    try:
        after = await _unless_halted(perform(effect, record), effect, record, logger)
    except StaleEpoch:
        raise
    except Exception as error:
        if record.phase in _ON_THE_WAY_BACK or (after := abort(record, _reason(error), decided_by="error")) is record:
            raise RolloutError(
                f"{record.endpoint}: {effect} failed ({_reason(error)}); the record stays open at {record.phase}, "
                "and running the flow again goes on from there"
            ) from error
        logger.error("%s: %s failed, rolling back: %s", record.endpoint, effect, _reason(error))
    return await _journal.save(after)


async def _unless_halted(
    work: Awaitable[RolloutRecord], effect: Effect, record: RolloutRecord, logger: Logger
) -> RolloutRecord:
    """Do an effect of a rollout that can still be turned back, but let go of it when the red button is pressed.

    A provider's own promotion is not let go of: it may happen all the same.
    """
    by_provider = effect is Effect.PROMOTE and record.mode == "native"
    if not in_flight(record) or by_provider or record.kind == "roll_back":
        return await work
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_red_button.until_pressed(logger))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return abort(record, f"all rollouts were halted: {watching.result()}", decided_by="red button")
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:400]} ... {text[-190:]}"
