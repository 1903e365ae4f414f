"""Who drives a rollout, and whether it is still there.

The record names its driver, which gives a sign of life every few seconds. Whoever finds no driver, or one that is gone,
may take its place, one at a time. A driver that was only asleep finds that it has been replaced before its next effect;
behind a router of ours the endpoint's epoch refuses it besides.
"""

import asyncio
import itertools
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.client.utilities import get_or_create_client
from prefect.concurrency.asyncio import AcquireConcurrencySlotTimeoutError, concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.variables import Variable

from prefect_modeldeploy.errors import InvalidInput, RolloutInProgress, StaleEpoch
from prefect_modeldeploy.flows._approval import never_resumed, suspends
from prefect_modeldeploy.rollout import Driver, Phase, RolloutRecord
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks import _journal, _variables
from prefect_modeldeploy.tasks._surroundings import is_open
from prefect_modeldeploy.transport import Logger

BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A driver that has given no sign for so long is gone."""

_START_TIME = timedelta(minutes=10)
"""A run that a worker is to start again has so long before others may take its rollout up."""

_CLAIM_SECONDS = 10.0

_ASKED = 5
"""Runs of one rollout whose suspension is remembered."""

_UP_TO_TRAFFIC = frozenset({Phase.PLANNED, Phase.CLAIMED, Phase.DEPLOYED, Phase.READY})
"""Whoever drives it then may be suspended; not who turns it back, and then begins something else."""

_driving: set[str] = set()
"""Tokens of the drivers in this process."""

_LOCK_WAIT_SECONDS = 90.0
_LEASE_SECONDS = 60.0
"""The shortest that Prefect knows: so long a starter that dies keeps others from starting."""


async def latest(target: DeploymentTarget) -> RolloutRecord | None:
    """The latest rollout of a target's endpoint. One that has ended at another gateway's of the same name is not it.

    Raises:
        InvalidInput: It is open, and at another gateway's.
    """
    record = await _journal.latest(target.endpoint)
    if record is None or not record.gateway or (here := await target.split_by()) in ("", record.gateway):
        return record
    if not is_open(record):
        return None
    raise InvalidInput(
        "target.endpoint",
        target.endpoint,
        f"{record.gateway} has an endpoint of this name too, with an open rollout of {record.candidate} (at "
        f"{record.phase}); this target's is at {here}: give one of the two another name, or first end that rollout "
        f"through a target of its own; if {record.gateway} is no more, delete the variable "
        f"{_journal.variable_name(record.endpoint)}",
    )


def taken(record: RolloutRecord) -> RolloutRecord:
    """The record with this process as its driver."""
    run = str(flow_run.id) if flow_run.id else None
    name = f"{flow_run.flow_name}/{flow_run.name}" if run else None
    driver = Driver(
        token=uuid4().hex, flow_run=run, name=name, host=platform.node(), pid=os.getpid(), pids=_pids_of_here()
    )
    _driving.add(driver.token)
    asked, before = record.asked, record.approval.before if record.approval else ()
    if run and "traffic" in before and record.phase in _UP_TO_TRAFFIC and suspends("traffic") and run not in asked:
        asked = (*asked, run)[-_ASKED:]
    return record.model_copy(update={"driver": driver, "asked": asked})


async def check(record: RolloutRecord) -> None:
    """Raise StaleEpoch if somebody else drives the endpoint's rollout by now.

    What a driver saves in the very moment in which it is replaced is behind, and replaces nobody.
    """
    saved = await _journal.load(record.endpoint)
    if saved is not None and saved.driver != record.driver and saved.seniority >= record.seniority:
        who = f"the flow run {saved.driver.name}" if saved.driver and saved.driver.name else "another run"
        why = f": {saved.reason}" if saved.reason else ""
        raise StaleEpoch(f"{record.endpoint} was taken over by {who}{why}")


async def keep_beating(record: RolloutRecord, logger: Logger) -> None:
    """Give signs of life until cancelled."""
    assert record.driver is not None, "only a driver has a heart"
    token, name = record.driver.token, _beat_variable(record.endpoint)
    try:
        for count in itertools.count(1):
            try:
                await _variables.put(name, {"driver": token, "beat": count})
            except Exception as error:  # somebody may take over then, and this process will notice
                logger.warning("%s: no sign of life could be given: %s", record.endpoint, error)
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        _driving.discard(token)


async def is_lost(record: RolloutRecord) -> bool:
    """Whether nobody drives an open rollout any more.

    A final flow run or a process of this machine that is gone are known at once; a run that a worker is to start again
    has ten minutes; else a sign of life is waited for, 20 s at most.
    """
    driver = record.driver
    if record.phase is Phase.ENDED:
        return False
    if driver is None:
        return True
    state = await _state_of(driver)
    if state is None and driver.flow_run is not None:
        return True
    if state is not None and state.name == "Suspended":  # it has no process, by intention
        return waited_in_vain(state)
    if state is not None and state.is_final() and not never_resumed(state):  # such a one may be about to go on
        return True
    if state is not None and (state.is_scheduled() or state.is_pending()):  # it was answered, or is to be tried again
        return datetime.now(UTC) - state.timestamp > _START_TIME
    if (driver.host, driver.pids) == (platform.node(), _pids_of_here()):
        if driver.pid == os.getpid():
            return driver.token not in _driving
        if not psutil.pid_exists(driver.pid):
            return True
    before = await _beat(record.endpoint)
    with anyio.move_on_after(SILENT_SECONDS):
        while (now := await _beat(record.endpoint)) == before or not _is_of(driver, now):  # noqa: ASYNC110 from afar
            await asyncio.sleep(0.5)
        return False
    return True


def _is_of(driver: Driver, beat: object) -> bool:
    """A driver that was replaced, and has not noticed yet, gives signs of its life as well."""
    return isinstance(beat, dict) and beat.get("driver") == driver.token


def _pids_of_here() -> str:
    """What the pids are of that this process sees."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


@asynccontextmanager
async def only_one(endpoint: str) -> AsyncIterator[None]:
    """Let one run at a time decide who drives the endpoint's rollout.

    Raises:
        RolloutInProgress: Others are at it, and take long.
    """
    name = f"modeldeploy-{endpoint}"
    async with get_client() as client:
        with suppress(ObjectAlreadyExists):  # another run has just made it
            await client.upsert_global_concurrency_limit_by_name(name, 1)
    try:
        async with concurrency(
            name,
            timeout_seconds=_LOCK_WAIT_SECONDS,
            lease_duration=_LEASE_SECONDS,
            strict=True,
            raise_on_lease_renewal_failure=False,
        ):
            yield
    except AcquireConcurrencySlotTimeoutError as error:
        raise RolloutInProgress(
            f"{endpoint}: other runs are starting rollouts there; nothing was changed, try again in a minute"
        ) from error


async def successor(endpoint: str) -> RolloutRecord | None:
    """The record of the run that has taken over from the one that asks, or its end; None if that is none of ours.

    Who takes a rollout over claims its endpoint first, and is in the record a moment later.
    """
    with anyio.move_on_after(_CLAIM_SECONDS):
        while True:
            record = await _journal.latest(endpoint)
            if record is not None and (record.driver is not None or record.phase is Phase.ENDED):
                return record
            await asyncio.sleep(0.5)
    return None


async def unanswered(record: RolloutRecord) -> bool:
    """Whether the rollout was suspended until a person answers, and nobody did in time."""
    state = await _state_of(record.driver) if record.driver else None
    return state is not None and (never_resumed(state) or (state.name == "Suspended" and waited_in_vain(state)))


async def cancellation(record: RolloutRecord) -> State | None:
    """The state of the flow run that drives the rollout, if somebody has cancelled it."""
    state = await _state_of(record.driver) if record.driver else None
    return state if state is not None and (state.is_cancelled() or state.is_cancelling()) else None


def waited_in_vain(state: State) -> bool:
    """Whether a suspended run can no longer be resumed."""
    until = state.state_details.pause_timeout
    return until is not None and until <= datetime.now(UTC)


async def _state_of(driver: Driver) -> State | None:
    """The state of the driver's flow run; None if there is no such run."""
    if driver.flow_run is None:
        return None
    client, _ = get_or_create_client()  # that of the flow run that asks: to make one takes longer than a request
    try:
        return (await client.read_flow_run(UUID(driver.flow_run))).state
    except ObjectNotFound:
        return None


async def _beat(endpoint: str) -> object:
    return await Variable.aget(_beat_variable(endpoint))


def _beat_variable(endpoint: str) -> str:
    return f"modeldeploy_alive__{endpoint}"
