"""Asks a person at a gate of a rollout: in the UI, over the REST API, or with `modeldeploy approve`."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import anyio
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import RunInput, aread_flow_run_input, keyset_from_base_key
from prefect.runtime import deployment, flow_run
from prefect.states import Running
from pydantic import Field

from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.rollout import Actor, Answer, Approval, Decision, RolloutRecord
from prefect_modeldeploy.sources.base import run_logger
from prefect_modeldeploy.tasks import _notifying

_LOOK_SECONDS = 2

_TELL_SECONDS = 3.0
"""So long Prefect's server may take to hear that a question is over. Then the run is shown as paused until it is asked
again, or ends: a way back does not wait for it."""

_GRACE_SECONDS = 60
"""A pause ends so much later for Prefect than for us, or Prefect would fail the run before it goes on."""

_NEVER_RESUMED = "The flow was paused and never resumed."
"""Words of Prefect's service of expired pauses."""


class ApprovalAnswer(RunInput):
    """What the person answers."""

    decision: Decision = Field(
        "roll_back",
        description="promote: go on. promote_fully: leave out all further steps. skip: leave out the next step, or the "
        "bake. extend: watch for one step's time more, then ask again. roll_back: all traffic back to stable.",
    )
    comment: str = Field("", description="Why; kept in the record.")
    approver: str = Field("", description="Who you are; kept in the record.")


def suspends(gate: str) -> bool:
    """Whether a run ends while a person is asked, to begin anew with the answer. A subflow cannot."""
    return gate == "traffic" and bool(deployment.id) and not flow_run.parent_flow_run_id


async def ask(record: RolloutRecord, gate: str) -> Answer:
    """Wait for a person's answer, or for the time to be up.

    While traffic is split the process stays, so that everything that stops a rollout still does. Before any traffic
    moves, a run that a deployment has started is suspended instead: it may wait for days and costs nothing.
    """
    approval = record.approval or Approval()
    asked_before = int(record.answer.at.timestamp() * 1000) if record.answer else 0
    key = f"{gate.replace(' ', '-')}-{asked_before}"  # the same when a suspended run begins anew, and never else
    if gate != "traffic" or (flow_run.run_count or 1) == 1:  # a suspended run that goes on has its answer already
        await _notifying.ask_for_approval(record, gate)
    try:
        if suspends(gate):
            found: ApprovalAnswer | None = await asuspend_flow_run(
                _form(record, gate), timeout=approval.timeout_seconds, key=key
            )
        else:
            found = await _paused(record, gate, approval.timeout_seconds, key)
    except FlowPauseTimeout:
        return silence(record, gate)
    if found is None:
        raise RolloutError(f"{record.endpoint}: the approval came back without an answer")
    return _answer(gate, found.decision, found.comment, found.approver or "somebody")


async def _paused(record: RolloutRecord, gate: str, seconds: int, key: str) -> ApprovalAnswer | None:
    """Ask until the time is up. While Prefect's server is away nobody can answer: then it is asked anew."""
    question = ""
    try:
        with anyio.fail_after(seconds):
            while True:
                try:
                    await _running_again()
                    if question and (found := await _answer_to(question)) is not None:
                        return found
                    question = f"{key}-{uuid4().hex[:8]}"  # asked again, it is a question of its own
                    return await _asked(record, gate, seconds, question)
                except httpx.HTTPError as error:
                    if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                        raise
                    run_logger().warning("%s: nobody can be asked now: %s", record.endpoint, error)
                    await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError as error:
        await _try_running_again()
        raise FlowPauseTimeout from error


async def _asked(record: RolloutRecord, gate: str, seconds: int, question: str) -> ApprovalAnswer | None:
    try:
        return await apause_flow_run(
            _form(record, gate), timeout=seconds + _GRACE_SECONDS, poll_interval=_LOOK_SECONDS, key=question
        )
    finally:
        with anyio.move_on_after(_TELL_SECONDS, shield=True):
            await _try_running_again()


async def _answer_to(question: str) -> ApprovalAnswer | None:
    """What somebody answered while nobody here could hear it."""
    keys = keyset_from_base_key(f"paused-{question}")
    return await ApprovalAnswer.aload(keys) if await aread_flow_run_input(keys["response"]) else None


async def _try_running_again() -> None:
    try:
        await _running_again()
    except httpx.HTTPError as error:
        run_logger().warning("the flow run is still shown as paused: %s", error)


async def _running_again() -> None:
    """What nobody resumed goes on all the same: Prefect would end a run that is left paused as failed."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(str(flow_run.id)))
        if run.state is not None and (run.state.is_paused() or never_resumed(run.state)):
            await client.set_flow_run_state(run.id, Running(), force=True)


def never_resumed(state: State) -> bool:
    """Whether Prefect's server has failed a run because its pause was over: it does so within seconds."""
    return state.is_failed() and state.message == _NEVER_RESUMED


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
    actor = Actor(name=who or "nobody", declared=who is not None)
    return Answer(gate=gate, decision=decision, comment=comment, who=actor, at=datetime.now(UTC))
