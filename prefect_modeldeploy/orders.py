"""What a person says to a rollout that runs: an answer at a gate, or an order. For the command line and for scripts."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.schemas.events import Resource
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import aresume_flow_run
from prefect.states import Cancelled, Cancelling

from prefect_modeldeploy.errors import InvalidInput, RolloutError
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.rollout import Decision, Order, Phase, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user


async def open_rollout(endpoint: str) -> RolloutRecord:
    """The record of the endpoint's rollout.

    Raises:
        InvalidInput: None is open there.
    """
    record = await _journal.latest(endpoint)
    if record is None or record.phase is Phase.ENDED:
        raise InvalidInput("endpoint", endpoint, "has no open rollout")
    return record


async def answer(endpoint: str, decision: Decision, comment: str = "", approver: str | None = None) -> RolloutRecord:
    """Answer the rollout that waits for approval.

    Args:
        endpoint: Name of the endpoint.
        decision: `promote`, `promote_fully`, `skip`, `extend` or `roll_back`.
        comment: Why; kept in the record.
        approver: Who says so. None: the user of this machine.

    Raises:
        InvalidInput: It has no open rollout.
        RolloutError: The rollout does not wait for anybody.
    """
    record = await open_rollout(endpoint)
    run, state = await _run_of(record)
    if run is None:
        raise RolloutError(f"the rollout of {endpoint} has no flow run now; reconcile-rollouts takes it up again")
    if state is None or not state.is_paused():
        raise RolloutError(f"the rollout of {endpoint} waits for nobody now (at {record.phase})")
    said = {"decision": decision, "comment": comment, "approver": approver or this_user()}
    try:
        await aresume_flow_run(run, run_input=said)
    except (NotPausedError, FlowPauseTimeout, RuntimeError) as error:  # Prefect has no error of its own for a refusal
        raise RolloutError(f"the rollout of {endpoint} did not take the answer: {error}") from error
    return record


async def _run_of(record: RolloutRecord) -> tuple[UUID | None, State | None]:
    """The flow run that drives a rollout, and the state that it is in; None for both if there is none (any more)."""
    if record.driver is None or record.driver.flow_run is None:
        return None, None
    run = UUID(record.driver.flow_run)
    async with get_client() as client:
        try:
            return run, (await client.read_flow_run(run)).state
        except ObjectNotFound:  # somebody has deleted it
            return None, None


async def _is_gone(record: RolloutRecord, state: State | None) -> bool:
    """Whether surely nobody drives a rollout. Who runs outside of Prefect cannot be asked."""
    if record.driver is None:
        return True
    if state is not None and state.is_failed():  # by Prefect, since its pause was over: it may be alive, and go on
        return await _ownership.is_lost(record)
    return record.driver.flow_run is not None and (state is None or state.is_final())


async def order(endpoint: str, what: Order, reason: str = "") -> RolloutRecord:
    """Tell the run that drives a rollout to `abort`, `skip` the rest of the step, or `promote-fully`.

    A run that is suspended until a person answers has no process that could hear: `abort` is its answer then. One that
    was answered, and is to be started again, has none yet: `abort` cancels it, and `reconcile-rollouts` turns the
    rollout back.

    Raises:
        InvalidInput: The endpoint has no open rollout.
        RolloutError: It is suspended, and waits for an answer; or its run is about to be started again; or it is gone.
    """
    record = await open_rollout(endpoint)
    run, state = await _run_of(record)
    if state is not None and state.name == "Suspended":
        if what != "abort":
            raise RolloutError(f"the rollout of {endpoint} is suspended: answer it, with `modeldeploy approve`")
        return await answer(endpoint, "roll_back", reason)
    if run is not None and state is not None and (state.is_scheduled() or state.is_pending()):
        if what != "abort":
            raise RolloutError(f"the run of the rollout of {endpoint} is about to start again: order it when it runs")
        await _cancel(run, f"aborted by {this_user()}" + (f": {reason}" if reason else ""))
        return record
    if await _is_gone(record, state):
        raise RolloutError(
            f"the rollout of {endpoint} has no run now that could hear: the flow roll-back turns it back, "
            "reconcile-rollouts brings it to its end"
        )
    event = Event(
        event=f"modeldeploy.rollout.{what}",
        resource=Resource(
            {"prefect.resource.id": _journal.resource_id(record), "prefect.resource.name": record.endpoint}
        ),
        payload={"who": this_user(), "reason": reason, "rollout": record.id, "step": record.step},
    )
    async with get_events_client() as client:
        await client.emit(event)
    return record


async def _cancel(run: UUID, why: str) -> None:
    async with get_client() as client:  # if it starts in this moment: a cancellation is obeyed then as well
        await client.set_flow_run_state(run, Cancelling(message=why))
        state = (await client.read_flow_run(run)).state
        if state is not None and state.is_cancelled():  # at once, by Prefect's server, which does not keep why
            await client.set_flow_run_state(run, Cancelled(message=why), force=True)
