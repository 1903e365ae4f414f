"""Reconcile: rollouts whose process is gone are brought to their end."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger

from prefect_modeldeploy.errors import ModelDeployError, StaleEpoch
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._approval import silence
from prefect_modeldeploy.flows._driver import drive
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._native_effects import native_effects
from prefect_modeldeploy.flows._parameters import Targets
from prefect_modeldeploy.flows._start import run_name, surrendered, take_over
from prefect_modeldeploy.rollout import Phase, RolloutRecord, abort, answered, gate_of, in_flight
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks import _journal

_JUDGED = frozenset({Phase.JUDGED, Phase.APPROVED, Phase.FULL, Phase.BAKED})


@flow(name="reconcile-rollouts")
async def reconcile_rollouts(targets: Targets | None = None) -> list[RolloutRecord]:
    """Find open rollouts that nobody drives any more, and finish them or roll them back, as their plans say.

    A rollout whose run gives signs of life, or is suspended until a person answers, is left alone.

    Args:
        targets: Deployment Target blocks, or names of saved ones. None: all that are saved.

    Returns:
        The records of those that were brought to an end.

    Raises:
        ModelDeployError: One of them could not be; the others were.
    """
    names = targets if targets is not None else await saved_targets()
    found = [await DeploymentTarget.resolve(target) for target in names]
    by_endpoint = {target.endpoint: [one for one in found if one.endpoint == target.endpoint] for target in found}
    ended = await asyncio.gather(*(_reconcile(*those) for those in by_endpoint.items()), return_exceptions=True)
    failures = [result for result in ended if isinstance(result, BaseException)]
    for failure in failures:
        get_run_logger().error("%s", failure)
    if failures:
        raise failures[0]
    return [record for record in ended if isinstance(record, RolloutRecord)]


async def saved_targets() -> list[DeploymentTarget | str]:
    """Names of all saved targets."""
    async with get_client() as client:
        documents = await client.read_block_documents_by_type(DeploymentTarget.get_block_type_slug())
    return [document.name for document in documents if document.name]


async def _reconcile(endpoint: str, targets: Sequence[DeploymentTarget]) -> RolloutRecord | None:
    last = await _journal.latest(endpoint)
    if last is None or last.phase is Phase.ENDED or not await _ownership.is_lost(last):
        return None
    try:
        return await resume_rollout(await _its_own(targets), last)
    except StaleEpoch:
        if await _ownership.successor(endpoint) is None:  # none of our runs changed it: somebody has to look
            raise
        return None


async def _its_own(targets: Sequence[DeploymentTarget]) -> DeploymentTarget:
    """The one among targets of one endpoint whose gateway has the rollout.

    Raises:
        ModelDeployError: None has it, or could be asked.
    """
    *others, last = targets
    for target in others:
        with suppress(ModelDeployError):  # the last one says why not
            await _ownership.latest(target)
            return target
    await _ownership.latest(last)
    return last


@flow(name="resume-rollout", flow_run_name=run_name)
async def resume_rollout(target: DeploymentTarget, last: RolloutRecord) -> RolloutRecord | None:
    """Bring one rollout to its end: a run of its own, so that a person can be asked in it."""
    unanswered, cancelled = await _ownership.unanswered(last), await _ownership.cancellation(last)
    async with _ownership.only_one(target.endpoint):
        record = await _journal.latest(target.endpoint)
        if record is None or record.phase is Phase.ENDED or record.driver != last.driver:
            return None  # somebody else has taken it up meanwhile
        record = await take_over(target, record)
    if cancelled:  # while it was suspended, or it died before it could turn back
        said = f": {cancelled.message}" if cancelled.message else ""
        record = abort(record, f"the flow run was cancelled{said}", decided_by="cancellation")
    elif in_flight(record) and (record.plan.on_lost == "roll_back" or _wants_examples(record)):
        record = abort(record, "the process that drove it was lost", decided_by="reconcile")
    elif unanswered and (gate := gate_of(record)):
        record = answered(record, silence(record, gate), datetime.now(UTC))
    try:
        return await drive(record, Effects(target) if record.mode == "swap" else native_effects(target, record))
    except StaleEpoch as error:
        return surrendered(error)


def _wants_examples(record: RolloutRecord) -> bool:
    """Whether a golden set is still to be asked: its examples are never kept, so nobody but the caller can."""
    return record.golden_set is not None and record.phase not in _JUDGED
