"""Asks a person at a gate of a rollout: in the UI, over the REST API, or with `modeldeploy approve`."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import anyio
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateDetails
from prefect.exceptions import FlowPauseTimeout, ObjectNotFound, Pause
from prefect.flow_runs import asuspend_flow_run
from prefect.input import Keyset, RunInput, aread_flow_run_input, keyset_from_base_key
from prefect.runtime import deployment, flow_run
from prefect.states import Paused, Running
from pydantic import Field, ValidationError

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout import Actor, Answer, Approval, Decision, RolloutRecord, shortened
from prefect_modeldeploy.sources.base import run_logger
from prefect_modeldeploy.tasks import _notifying

_LOOK_SECONDS = 2

_TELL_SECONDS = 3.0
"""So long Prefect's server may take to hear that a question is over: a way back does not wait for it."""

_CLOSE_SECONDS = 600.0
"""So long the server is waited for where silence moves the rollout on: somebody may have answered in time."""

_GRACE_SECONDS = 60
"""A pause ends so much later for Prefect than for us, or Prefect would fail the run before it goes on."""

_NAME = 100
"""Letters of the name of who answers, which may be anything."""

_SUSPENDED = "suspended-"
"""How Prefect begins the names of what belongs to a suspension."""

_NEVER_RESUMED = "and never resumed."
"""Words of Prefect's service of expired pauses, and of what comes too late for one."""


class ApprovalAnswer(RunInput):
    """What the person answers."""

    decision: Decision = Field(  # with a default, Prefect would take a resumption that says nothing, and forget it
        description="promote: go on. promote_fully: leave out all further steps. skip: leave out the next step, or the "
        "bake. extend: watch for one step's time more, then ask again. roll_back: all traffic back to stable.",
    )
    comment: str = Field("", description="Why; kept in the record.")
    approver: str = Field("", description="Who you are; kept in the record.")


_WITHOUT_DECISION = ApprovalAnswer(decision="roll_back", comment="resumed without a decision")
"""The form of an older version let it."""


def suspends(gate: str) -> bool:
    """Whether a run ends while a person is asked, to begin anew with the answer. A subflow cannot."""
    return gate == "traffic" and bool(deployment.id) and not flow_run.parent_flow_run_id


async def may_ask() -> None:
    """Check what would end this run while a person is asked.

    Raises:
        InvalidInput: Its deployment has a concurrency limit: Prefect takes the slot of a run that waits away, and
            cancels it when the slot's lease cannot be renewed, within minutes.
    """
    if not flow_run.id:
        return
    async with get_client() as client:
        run = await client.read_flow_run(UUID(str(flow_run.id)))
        if run.deployment_id is None:  # as of a subflow: it holds no slot
            return
        try:
            deployed = await client.read_deployment(run.deployment_id)
        except ObjectNotFound:
            return
    if (limit := deployed.global_concurrency_limit) is not None:
        raise InvalidInput(
            "concurrency_limit",
            limit.limit,
            f"of the deployment {deployed.name}: Prefect would cancel its runs while they wait for a person; remove "
            "it (there is one rollout per endpoint without it), or ask nobody",
        )


async def ask(record: RolloutRecord, gate: str) -> Answer:
    """Wait for a person's answer, or for the time to be up.

    While traffic is split the process stays, so that everything that stops a rollout still does. Before any traffic
    moves, a run that a deployment has started is suspended instead: it may wait for days and costs nothing.
    """
    found, seconds = None, (record.approval or Approval()).timeout_seconds
    with suppress(httpx.HTTPError):  # it is looked for again below
        found = await given(record, gate)
    if found is None:
        await _notifying.ask_for_approval(record, gate)
        found = await (_suspended if suspends(gate) else _paused)(record, gate, seconds)
    if found is None:
        return silence(record, gate)
    return _answer(gate, found.decision, found.comment, found.approver or "somebody")


async def _suspended(record: RolloutRecord, gate: str, seconds: int) -> ApprovalAnswer | None:
    """End this run, as Prefect's `Pause`; in the run that it is started again with, the answer. None: in vain."""
    asked = False
    with anyio.move_on_after(seconds):
        while True:
            try:
                if (found := await given(record, gate)) is not None:
                    if asked:  # it is about to be started again with it
                        raise Pause
                    return found
                asked = True
                return await _suspend(_form(record, gate), seconds, await _key(record, gate, str(flow_run.id)))
            except httpx.HTTPError as error:
                await _again(record, error)
            except FlowPauseTimeout:
                break
            except ValidationError:
                return _WITHOUT_DECISION
            except RuntimeError as error:  # it has been answered, or cancelled, since it was asked for the first time
                if not asked or not await _is_stopped():
                    raise
                await _again(record, error)
    return None


async def _key(record: RolloutRecord, gate: str, run: str) -> str:
    """Of a suspension: the same when the run begins anew, and never else.

    Whoever cancels a run that was answered has regretted it: if it is run again after all, it asks again.
    """
    asked_before = int(record.answer.at.timestamp() * 1000) if record.answer else 0
    async with get_client() as client:
        states = await client.read_flow_run_states(UUID(run))
    regretted = sum(state.is_cancelled() or state.is_cancelling() for state in states)
    of = "" if run == record.id else f"-{record.id}"
    again = f"-again{regretted}" if regretted else ""
    return f"{gate}-{asked_before}{of}{again}"


async def given(record: RolloutRecord, gate: str) -> ApprovalAnswer | None:
    """The answer to a run that was suspended for this question: who was started with it may have been lost."""
    for run in dict.fromkeys((record.id, *record.asked)) if gate == "traffic" else ():
        keys = keyset_from_base_key(f"{_SUSPENDED}{await _key(record, gate, run)}")
        if await aread_flow_run_input(keys["response"], flow_run_id=UUID(run)) is None:
            continue
        try:
            return await ApprovalAnswer.aload(keys, flow_run_id=UUID(run))
        except ValidationError:
            return _WITHOUT_DECISION
    return None


async def was_answered() -> bool:
    """Whether this run has been suspended before any traffic moved, and a person has answered."""
    if not flow_run.id:
        return False
    async with get_client() as client:
        found = await client.filter_flow_run_input(UUID(str(flow_run.id)), f"{_SUSPENDED}traffic-", 100, set())
    return any(one.key.endswith("-response") for one in found)


async def _is_stopped() -> bool:
    """Whether a run that cannot be suspended is to be started again, or to end: both come of themselves."""
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(UUID(str(flow_run.id)))).state
    except httpx.HTTPError:  # the next look tells
        return True
    return state is not None and not state.is_running()


async def _suspend(form: type[ApprovalAnswer], seconds: int, key: str) -> ApprovalAnswer | None:
    try:
        return await asuspend_flow_run(form, timeout=seconds, key=key)
    except Pause:  # also of a request that was sent twice, since its answer got lost: then without a form
        keys = keyset_from_base_key(f"{_SUSPENDED}{key}")
        if await aread_flow_run_input(keys["schema"]) is None:
            await form.asave(keys)
        raise


async def _paused(record: RolloutRecord, gate: str, seconds: int) -> ApprovalAnswer | None:
    run_logger().info("%s: a person is asked (%s), for up to %d s", record.endpoint, gate, seconds)
    question = _Question(record, gate, seconds)
    with anyio.move_on_after(seconds):
        return await question.until_answered()
    hurry = silence(record, gate).decision == "roll_back"
    with anyio.move_on_after(_TELL_SECONDS if hurry else _CLOSE_SECONDS):
        return await question.at_the_end()
    return None


class _Question:
    """A form that a person has before them while the run's process waits.

    Prefect's own pause does each of its steps once, and what gets lost on the way to its server, or back, ends it. Here
    every look makes sure of all of it: whatever the state is, the form comes back, and the first answer to it counts.
    """

    def __init__(self, record: RolloutRecord, gate: str, seconds: int) -> None:
        self._record, self._gate = record, gate
        self._form = _form(record, gate)
        self._keys: Keyset | None = None
        self._until = datetime.now(UTC) + timedelta(seconds=seconds + _GRACE_SECONDS)

    async def until_answered(self) -> ApprovalAnswer:
        try:
            while True:
                try:
                    if (found := await self._look()) is not None:
                        return found
                    await asyncio.sleep(_LOOK_SECONDS)
                except httpx.HTTPError as error:
                    await _again(self._record, error)
        finally:
            with anyio.move_on_after(_TELL_SECONDS, shield=True), suppress(httpx.HTTPError):
                await _running_again()

    async def at_the_end(self) -> ApprovalAnswer | None:
        """What was answered in the last moment; nobody can answer any more then."""
        while True:
            try:
                await _running_again()
                return await self._answer()
            except httpx.HTTPError as error:
                await _again(self._record, error)

    async def _look(self) -> ApprovalAnswer | None:
        keys = await self._shown()
        async with get_client() as client:
            run = await client.read_flow_run(UUID(str(flow_run.id)))
            state = run.state
            if (found := await self._answer()) is not None:
                return found
            if state is not None and state.is_paused() and state.state_details.run_input_keyset == keys:
                return None
            await _running_again()  # it may be paused for a question before
            about = StateDetails(run_input_keyset=keys)
            pause: State = Paused(pause_expiration_time=self._until, pause_key=uuid4().hex, state_details=about)
            await client.set_flow_run_state(run.id, pause)
        return None

    async def _shown(self) -> Keyset:
        if self._keys is None:
            keys = keyset_from_base_key(f"paused-{uuid4().hex}")  # of each attempt: none is half there
            await self._form.asave(keys)
            self._keys = keys
        return self._keys

    async def _answer(self) -> ApprovalAnswer | None:
        if (found := await given(self._record, self._gate)) is not None:
            return found
        if self._keys is None or await aread_flow_run_input(self._keys["response"]) is None:
            return None
        return await ApprovalAnswer.aload(self._keys)


async def _again(record: RolloutRecord, error: Exception) -> None:
    run_logger().warning("%s: nobody can be asked now: %s", record.endpoint, error)
    await asyncio.sleep(_LOOK_SECONDS)


async def _running_again() -> None:
    """What nobody resumed goes on all the same: Prefect would end a run that is left paused as failed."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(str(flow_run.id)))
        state = run.state
        if state is not None and state.is_paused():  # not by force: it may be cancelled just now
            state = (await client.set_flow_run_state(run.id, Running())).state
        if state is not None and never_resumed(state):
            await client.set_flow_run_state(run.id, Running(), force=True)


def never_resumed(state: State) -> bool:
    """Whether Prefect's server has failed a run because its pause was over: it does so within seconds."""
    return state.is_failed() and (state.message or "").endswith(_NEVER_RESUMED)


def _form(record: RolloutRecord, gate: str) -> type[ApprovalAnswer]:
    what = {"traffic": "send traffic to", "promotion": "promote"}.get(gate, f"take {gate} with")
    weight = f" It has {record.weight:g} % of the requests now." if record.weight else ""
    description = f"**{record.endpoint}**: {what} `{record.canary}`, over `{record.stable}`?{weight}\n\n{record.reason}"
    form: type[ApprovalAnswer] = ApprovalAnswer.with_initial_data(description=description)
    return form


def silence(record: RolloutRecord, gate: str) -> Answer:
    """The answer when nobody gives one."""
    return _answer(gate, (record.approval or Approval()).on_timeout, "nobody answered in time")


def _answer(gate: str, decision: Decision, comment: str, who: str | None = None) -> Answer:
    actor = Actor(name=shortened(who or "nobody", _NAME), declared=who is not None)
    return Answer(gate=gate, decision=decision, comment=comment, who=actor, at=datetime.now(UTC))
