"""Drives a rollout through its state machine: do the next effect, save the record, until it has ended."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import httpx
from prefect.exceptions import PrefectHTTPStatusError, TerminationSignal

from prefect_modeldeploy.errors import (
    InvalidInput,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RolloutError,
    StaleEpoch,
    UnsupportedOperation,
)
from prefect_modeldeploy.flows import _ownership, _termination
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._signals import CANCELLED, Signals, halted
from prefect_modeldeploy.rollout import (
    ON_THE_WAY_BACK,
    Effect,
    RolloutRecord,
    abort,
    expired,
    in_flight,
    is_slow_way_back,
    next_effect,
    shortened,
)
from prefect_modeldeploy.tasks import _audit, _journal
from prefect_modeldeploy.transport import Logger, may_retry

TURN_BACK_SECONDS = 25.0
"""Prefect kills a cancelled run 30 s after the request; the way back has to fit in."""

PATIENCE_SECONDS = 600.0
"""So long a rollout waits for Prefect's server or a provider that is away, and holds the weights meanwhile."""

_ANSWERED_SECONDS = PATIENCE_SECONDS / 2
"""An effect that fails after so long has had answers from its provider meanwhile: retries end sooner."""

_HURRY_SECONDS = 3.0
"""On the way back behind a gateway traffic comes first: so long it waits for Prefect's server, and for the audit."""

_AGAIN_SECONDS = 2.0

_WATCHED = frozenset({Effect.OBSERVE, Effect.BAKE, Effect.ASK, Effect.APPROVE})
"""What changes nothing and lasts: orders and the red button are heard while it does."""


class _Unattended(RolloutError):
    """Nobody knows whose the rollout is: nothing may be done, forward or back."""


async def drive(record: RolloutRecord, effects: Effects) -> RolloutRecord:
    """Do what the machine says until the rollout has ended; returns the last record.

    A failed effect turns the rollout back; so do the red button, an abort by event and a canary that is not well, at
    once and in the middle of an effect, and the cancellation of the flow run, within its 30 s. While a provider
    cannot be reached the weights stay, for up to ten minutes and not beyond the deadline; then the rollout turns back,
    and the way back is given ten minutes as well.

    Raises:
        StaleEpoch: Another rollout owns the endpoint; nothing more was changed.
        RolloutError: The way back, or the promotion itself, failed, Prefect's server was away for ten minutes, or the
            record cannot be read; it stays open, and running the flow again goes on with it.
    """
    try:
        return await _watched(record, effects)
    except StaleEpoch:
        await effects.disown()
        raise


async def _watched(record: RolloutRecord, effects: Effects) -> RolloutRecord:
    async with Signals.watched(effects.target, record) as signals:
        try:
            return await _run(record, effects, signals)
        except Exception:
            await _let_go(signals.record, effects.logger)
            raise
        # SIGTERM is one of these, by where it finds this process: in the middle of a task group it is a group.
        except (asyncio.CancelledError, TerminationSignal, BaseExceptionGroup):
            with _termination.once(), anyio.CancelScope(shield=True), anyio.move_on_after(TURN_BACK_SECONDS):
                await _run(CANCELLED.applied_to(signals.record), effects, signals)
            raise


async def _run(record: RolloutRecord, effects: Effects, signals: Signals) -> RolloutRecord:
    if next_effect(record) is None:
        return record
    record = signals.record = await _save(record, effects, "start")
    while (effect := next_effect(record)) is not None:
        record = signals.record = await _step(record, effect, effects, signals)
    return record


async def _step(record: RolloutRecord, effect: Effect, effects: Effects, signals: Signals) -> RolloutRecord:
    effects.logger.debug("%s: %s", record.endpoint, effect)
    try:
        after = await _unless_told(_holding(effect, record, effects), record, signals, effects.logger)
    except (StaleEpoch, _Unattended):
        raise
    except Exception as error:
        stays = record.phase in ON_THE_WAY_BACK or _promoted_in_part(record, effect, error)
        if stays or (after := abort(record, _reason(error), decided_by="error")) is record:
            raise RolloutError(
                f"{record.endpoint}: {effect} failed ({_reason(error)}); the record stays open at {record.phase}, "
                "and running the flow again goes on from there"
            ) from error
        effects.logger.error("%s: %s failed, rolling back: %s", record.endpoint, effect, _reason(error))
    return await _save(after, effects, effect, before=record)


def _promoted_in_part(record: RolloutRecord, effect: Effect, error: Exception) -> bool:
    """Whether a promotion failed that leaves the canary, which is proven and serves: no way back to what may be broken.

    A first version that was refused serves nothing.
    """
    refused_first = record.stable is None and isinstance(error, InvalidInput | UnsupportedOperation)
    return effect is Effect.PROMOTE and record.mode == "swap" and not refused_first


async def _holding(effect: Effect, record: RolloutRecord, effects: Effects) -> RolloutRecord:
    """Do an effect; while its provider cannot be reached, hold everything as it is and try again.

    However long it was held: nothing is done but by who drives the rollout then, and nothing forward once the red
    button is pressed.
    """
    away_since: float | None = None
    while True:
        passed = await effects.let_through(effect, record)
        if passed.phase is not record.phase:
            return passed
        record = passed
        await _patiently(partial(_ownership.check, record), record, effects)
        if effect not in _WATCHED and (back := await halted(record, effects.logger)) is not record:
            return back
        begun = time.monotonic()
        try:
            return await effects(effect, record)
        except ProviderError as error:
            if not (isinstance(error, ProviderUnavailable | RateLimited) or may_retry(error, repeatable=True)):
                raise
            failed = time.monotonic()
            has_deadline = in_flight(record)  # unlike a way back, which nothing else would end
            if away_since is None or (has_deadline and failed - begun > _ANSWERED_SECONDS):
                away_since = failed
            left = away_since + PATIENCE_SECONDS - failed
            if left < 0 or (has_deadline and expired(record, datetime.now(UTC))):
                raise
            effects.logger.warning("%s: %s is held: %s", record.endpoint, effect, error)
            await asyncio.sleep(max(_AGAIN_SECONDS, min(error.retry_after or 0.0, left)))


async def _unless_told(
    work: Awaitable[RolloutRecord], record: RolloutRecord, signals: Signals, logger: Logger
) -> RolloutRecord:
    """Do an effect of a rollout that can still be turned back, but let go of it when a signal says so."""
    may_be_told = in_flight(record) or is_slow_way_back(record)
    if not may_be_told or record.kind == "roll_back":
        return await work
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(signals.next())
    try:
        while True:
            await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                if listening.done():  # both in the same moment: it is for what comes next
                    signals.put_back(listening.result())
                return working.result()
            signal = listening.result()
            told = signal.applied_to(record)
            if told is not record:
                logger.warning("%s: %s", record.endpoint, signal.reason)
                return told
            listening = asyncio.ensure_future(signals.next())
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _save(
    record: RolloutRecord, effects: Effects, effect: str, before: RolloutRecord | None = None
) -> RolloutRecord:
    """Save where the rollout stands, and what was seen and said meanwhile, in the audit first.

    Whoever is killed in between does the effect again, and says so again; the other way round nobody ever would.
    """
    check = partial(_ownership.check, record)

    async def save() -> None:
        await check()
        await _journal.save(record)

    answers = await _patiently(check, record, effects)
    hurry = _HURRY_SECONDS if _is_urgent(record, effects) else None
    await _audit.append(effects.target, record, effect, before, hurry)
    if answers:
        await _patiently(save, record, effects)
    return record


def _is_urgent(record: RolloutRecord, effects: Effects) -> bool:
    """Whether traffic matters more than what is written down: a gateway refuses whoever does not own the endpoint.

    A provider would not: without a gateway nobody turns back who does not know whose the rollout is.
    """
    return record.phase in ON_THE_WAY_BACK and record.mode == "swap" and effects.target.fenced


async def _patiently(call: Callable[[], Awaitable[None]], record: RolloutRecord, effects: Effects) -> bool:
    """Do what needs Prefect's server; wait while it is away, but not for long where the traffic must go back.

    A record that cannot be read says as little about whose it is; waiting does not mend it.

    Returns:
        Whether it was done.
    """
    urgent, logger = _is_urgent(record, effects), effects.logger
    give_up = time.monotonic() + (_HURRY_SECONDS if urgent else PATIENCE_SECONDS)
    while True:
        try:
            with anyio.fail_after(max(0.1, give_up - time.monotonic())):
                await call()
            return True
        except (httpx.HTTPError, PrefectHTTPStatusError, TimeoutError, _journal.Unreadable) as error:
            hopeless = isinstance(error, _journal.Unreadable)
            why = str(error) if hopeless else f"Prefect's server does not answer: {_reason(error)}"
            logger.warning("%s: %s", record.endpoint, why)
            if hopeless or time.monotonic() > give_up:
                if urgent:
                    return False
                raise _Unattended(
                    f"{record.endpoint}: {why}; the record stays open at {record.phase}, and running the flow again "
                    "goes on from there"
                ) from error
            await asyncio.sleep(_AGAIN_SECONDS)


async def _let_go(record: RolloutRecord, logger: Logger) -> None:
    """Leave an open record to whoever takes it next; if that cannot be said now, they will find this driver silent.

    Raises:
        StaleEpoch: It has been taken already; that explains whatever went wrong here.
    """
    try:
        await _ownership.check(record)
        await _journal.save(record.model_copy(update={"driver": None}))
    except StaleEpoch:
        raise
    except Exception as error:
        logger.warning("%s: the record could not be let go of: %s", record.endpoint, error)


def _reason(error: Exception) -> str:
    return shortened(str(error) or type(error).__name__)
