"""Sends a golden set to both versions and judges their answers. One task run for all of it."""

from datetime import UTC, datetime

from prefect_modeldeploy.measurements import Window
from prefect_modeldeploy.rollout import RolloutRecord, expired, judged
from prefect_modeldeploy.rollout.judging import judge_of, step_result, with_usable_evidence
from prefect_modeldeploy.sources.golden import GoldenSet
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._pair import pair


async def _aask_golden_set(target: DeploymentTarget | str, record: RolloutRecord, golden: GoldenSet) -> RolloutRecord:
    """Judge by labelled requests; no client's request is touched, and no example or answer is kept.

    It ends at once on harm, and does not end early on proof: every example is asked, unless the deadline comes first.

    Args:
        target: Block, or name of a saved one.
        record: The rollout; its two deployments are asked.
        golden: Labelled requests.

    Returns:
        The record after the step.
    """
    target = await DeploymentTarget.resolve(target)
    record = record.model_copy(update={"step_started_at": datetime.now(UTC)})
    assert record.stable is not None, "a golden set compares with something"
    judge, seen = judge_of(with_usable_evidence(record)), list[Window]()
    verdict = judge.verdict()
    async with target.credentials.get_client() as client:
        async for window in golden.ask(client, record.stable, record.canary, record.plan.judge.tolerance):
            seen.append(window)
            verdict = judge.observe(window)
            if verdict.decision == "roll_back" or expired(record, datetime.now(UTC)):
                break
    now = datetime.now(UTC)
    result = step_result(record, verdict, seen, now)
    target.credentials.logger.info("%s: %s (%s)", record.candidate, result.decision, result.reason)
    return judged(record.model_copy(update={"judge_state": judge.state()}), result, now)


ask_golden_set, aask_golden_set = pair(_aask_golden_set)
