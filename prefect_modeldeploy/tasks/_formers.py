"""What is due later for the version that a rollout has replaced; `clean_up_orphans` does it when its time has come."""

from datetime import datetime, timedelta

from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.tasks._notes import Former, Notes


async def note_former(record: RolloutRecord, now: datetime) -> None:
    """Write down what the plan wants for the former version, counted from now. Doing it again changes nothing."""
    notes, serving = Notes(Former, record.endpoint), record.serving or record.canary
    await notes.drop(serving)  # it may itself have been a former version, that was rolled back to
    if record.stable is None or record.stable == serving:
        return
    due = _due(record, record.stable, now)
    if due is None:
        await notes.drop(record.stable)
        return
    noted = (await notes.all()).get(record.stable)
    if noted is None or noted.rollout != record.id:
        await notes.put(due)


def _due(record: RolloutRecord, former: str, now: datetime) -> Former | None:
    plan, warm = record.plan, now + timedelta(seconds=record.plan.former_warm_seconds)
    after = plan.former_delete_after_seconds
    if plan.former == "delete" and plan.former_warm_seconds:
        return Former(deployment=former, rollout=record.id, delete_at=warm)
    if plan.former == "scale_to_zero" and (plan.former_warm_seconds or after is not None):
        zero_at = warm if plan.former_warm_seconds else None
        delete_at = None if after is None else warm + timedelta(seconds=after)
        return Former(deployment=former, rollout=record.id, zero_at=zero_at, delete_at=delete_at)
    return None
