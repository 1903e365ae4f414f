"""What can come from outside while a rollout runs: orders by event, the red button, a canary that is not well."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import anyio
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import TerminationSignal

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.errors import ModelDeployError, NotFound
from prefect_modeldeploy.flows import _ownership, _termination
from prefect_modeldeploy.rollout import Actor, Order, RolloutRecord, Told, abort, in_flight, obeyed, shortened
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks import _journal, _red_button
from prefect_modeldeploy.transport import Logger

_AGAIN_SECONDS = 5.0
"""Until the event stream is opened again after it broke."""

_CLOCKS_DIFFER = timedelta(seconds=5)
"""So much the clock of who emits an event may be behind ours. Rather turned back once too often than not at all."""

_LOOK_SECONDS = 0.5

_ASK_SECONDS = 3.0
"""A look is a request to Prefect's server; traffic has to be back within 5 s of a cancellation."""

_NAME = 100
"""Letters of a name in an event, which may hold anything."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What somebody, or something, wants of a rollout: an order, or else that it turns back."""

    reason: str
    decided_by: str
    told: Told | None = None

    def applied_to(self, record: RolloutRecord) -> RolloutRecord:
        """The record that follows; the same one if there is nothing to be done any more."""
        if self.told is None:
            return abort(record, self.reason, decided_by=self.decided_by)
        return obeyed(record, self.told, self.reason, decided_by=self.decided_by)


CANCELLED = Signal("the flow run was cancelled", "cancellation")
"""Also what SIGTERM comes to, wherever it strikes."""


class Signals:
    """Watches for one rollout, from its start to its end; gives signs of its life as well."""

    def __init__(self, target: DeploymentTarget, record: RolloutRecord) -> None:
        self.record = record
        """Where it stands; whoever drives it keeps this up to date."""
        self._target, self._logger = target, target.credentials.logger
        self._found: asyncio.Queue[Signal] = asyncio.Queue()

    async def next(self) -> Signal:
        """Wait for the next one."""
        return await self._found.get()

    def put_back(self, signal: Signal) -> None:
        """Let the next one who waits have it."""
        self._found.put_nowait(signal)

    @classmethod
    @asynccontextmanager
    async def watched(cls, target: DeploymentTarget, record: RolloutRecord) -> AsyncIterator["Signals"]:
        """Watch while the block lasts. Nothing that goes wrong with the watching harms the rollout."""
        signals = cls(target, record)
        watchers: list[Coroutine[Any, Any, None]] = [
            _ownership.keep_beating(record, signals._logger),
            signals._button(),
            signals._cancellation(),
            signals._events(),
            signals._health(),
        ]
        tasks = [asyncio.ensure_future(signals._safely(watcher)) for watcher in watchers]
        try:
            with _termination.heard(signals._told_to_end):
                yield signals
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _button(self) -> None:
        await self._found.put(_halt(await _red_button.until_pressed(self._logger)))

    async def _cancellation(self) -> None:
        """Prefect tells a run by SIGTERM, and not at all while it is paused."""
        while not await self._is_cancelled():  # noqa: ASYNC110 it happens in another process
            await asyncio.sleep(_ASK_SECONDS)
        await self._found.put(CANCELLED)

    async def _is_cancelled(self) -> bool:
        try:
            return await _ownership.cancellation(self.record) is not None
        except Exception as error:  # whatever it is, it must not turn a rollout back
            self._logger.warning("Prefect's server cannot be asked for the flow run: %s", error)
            return False

    async def _events(self) -> None:
        """Orders that come as events `modeldeploy.rollout.<order>` about this endpoint."""
        names = [f"modeldeploy.rollout.{order}" for order in get_args(Order)]
        wanted = EventFilter(event=EventNameFilter(name=names))
        while True:
            try:
                async with get_events_subscriber(filter=wanted, reconnect_on_clean_close=True) as stream:
                    async for event in stream:
                        if _is_meant(event, self.record):
                            await self._found.put(_signal_of(event))
            except Exception as error:  # the button and a cancellation still stop it
                self._logger.warning("Prefect's events cannot be listened to, trying again: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _health(self) -> None:
        """The canary, while it gets traffic that stable could take."""
        while not self._has_traffic():  # noqa: ASYNC110 half a second late is soon enough
            await asyncio.sleep(_LOOK_SECONDS)
        well_at = time.monotonic()
        async with client_of(self._target, self.record.canary) as client:
            while True:
                plan = self.record.plan
                try:
                    canary = await client.get(self.record.canary)
                except NotFound:
                    return await self._unwell("is gone")
                except ModelDeployError:  # its provider cannot be asked: no reason to move anything
                    well_at = time.monotonic()
                else:
                    if canary.status is DeploymentStatus.FAILED:
                        return await self._unwell(f"has failed: {canary.reason}")
                    unknown = canary.status is DeploymentStatus.UNKNOWN
                    if canary.may_receive_traffic or unknown or not self._has_traffic():
                        well_at = time.monotonic()
                    if time.monotonic() - well_at > plan.unready_seconds:
                        return await self._unwell(f"has had no ready replica for {plan.unready_seconds:g} s")
                await asyncio.sleep(max(_LOOK_SECONDS, min(plan.poll_seconds, 5.0)))

    def _has_traffic(self) -> bool:
        return self.record.weight > 0 and self.record.stable is not None and self.record.mode == "swap"

    async def _safely(self, watcher: Coroutine[Any, Any, None]) -> None:
        try:
            await watcher
        except Exception:
            self._logger.exception("%s: a watcher of its rollout failed; the rollout goes on", self.record.endpoint)
        except (TerminationSignal, BaseExceptionGroup):  # heard here too, lest somebody else has taken over the signals
            self._told_to_end()

    def _told_to_end(self) -> None:
        self._found.put_nowait(CANCELLED)

    async def _unwell(self, how: str) -> None:
        await self._found.put(Signal(f"{self.record.canary} {how}", "health check"))


async def halted(record: RolloutRecord, logger: Logger) -> RolloutRecord:
    """The record turned back, if the red button is pressed by now; else the same one. It stops no roll-back."""
    if record.kind != "roll_back" and in_flight(record):
        with anyio.move_on_after(_ASK_SECONDS):  # a slow server holds nothing up: it is asked again anyway
            if press := await _red_button.seen(logger):
                return _halt(press).applied_to(record)
    return record


def _halt(press: _red_button.Press) -> Signal:
    told = Told(order="abort", why=press.why, who=press.who, at=datetime.now(UTC))
    return Signal(f"all rollouts were halted {press}", "red button", told)


def _is_meant(event: Event, record: RolloutRecord) -> bool:
    """Whether an event is an order to this very rollout, where it stands now.

    A stream begins with the events of the last minute, whenever it is opened: an order may be for the rollout before,
    or have been obeyed already.
    """
    if event.resource.id != _journal.resource_id(record):
        return False
    rollout, step = event.payload.get("rollout"), event.payload.get("step")
    if rollout is None:  # not from `modeldeploy order`
        return event.occurred >= record.started_at - _CLOCKS_DIFFER
    skips = event.event.endswith(".skip")
    return bool(rollout == record.id and not (skips and step != record.step))


def _signal_of(event: Event) -> Signal:
    order = cast(Order, event.event.removeprefix("modeldeploy.rollout."))  # the filter lets no other through
    who, why = (str(event.payload.get(key) or "") for key in ("who", "reason"))
    reason = f"{order.replace('-', ' ')} by event" + (f" of {who}" if who else "") + (f": {why}" if why else "")
    told = Told(order=order, why=why, who=Actor(name=shortened(who, _NAME) or "somebody"), at=event.occurred)
    return Signal(reason, "event", told)
