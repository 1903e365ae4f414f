"""Roll-back: the former version serves again, now. It wins over a rollout in flight."""

from datetime import datetime

from prefect import flow
from prefect.runtime import flow_run

from prefect_modeldeploy.deployments import DeploymentId
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows._driver import drive
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._native import promote_natively, roll_back_natively
from prefect_modeldeploy.flows._start import current_endpoint, driven, final, run_name, run_rollout, take_over
from prefect_modeldeploy.rollout import CanaryPlan, RolloutRecord, abort, by_swap, in_flight, reopened
from prefect_modeldeploy.target import BlockName, DeploymentTarget
from prefect_modeldeploy.tasks import _journal


@flow(name="roll-back", flow_run_name=run_name)
async def roll_back(
    target: DeploymentTarget | BlockName, to: DeploymentId | None = None, note: str = ""
) -> RolloutRecord:
    """Go back to the former version, or to a named one.

    A rollout in flight is fenced off and turned back; so is one that was held undecided. Else the version that
    served before the last promotion is started again if need be, and takes over once it is ready. A rollout that was
    turned back since this run was asked for, by the same alarm, is what was wanted.

    Args:
        target: What to change: a Deployment Target block, or the name of a saved one.
        to: Id of the deployment that shall serve. None: the one that served before.
        note: Why this is done; kept in the record.

    Returns:
        The record of the turned-back rollout, or of this one.

    Raises:
        InvalidInput: Nobody knows a former version; name one.
        RolloutError: The former version cannot serve; what served before serves still.
    """
    target = await DeploymentTarget.resolve(target)
    last = await _journal.load(target.endpoint)
    if last.mode == "native" if last else not target.splits:
        return await (promote_natively(target, to, None, note) if to else roll_back_natively(target, note))
    endpoint = await current_endpoint(target)
    current = reopened(last) if last and endpoint and endpoint.epoch == last.epoch else None
    if current and in_flight(current) and to in (None, current.stable):
        taken = await take_over(target, current)
        reason = f"rolled back by hand: {note}" if note else "rolled back by hand"
        aborted = abort(taken, reason, decided_by="person")
        return await driven(aborted, Effects(target))
    if current and by_swap(current) is not current:
        last = await drive(by_swap(await take_over(target, current)), Effects(target))
    if to is None and last and last.outcome == "rolled_back" and last.ended_at:
        asked: datetime = flow_run.scheduled_start_time
        if last.ended_at >= asked:
            return final(last)
    former = to or (last.stable if last and last.outcome == "promoted" else None)
    if former is None:
        raise InvalidInput("to", to, f"no record of what {target.endpoint} served before; name the deployment")
    return await run_rollout(target, former, CanaryPlan(steps=()), kind="roll_back", note=note)
