"""The report of a rollout: an artifact in the UI and an HTML file."""

from contextlib import suppress
from pathlib import Path

import anyio.to_thread
from prefect.artifacts import acreate_markdown_artifact

from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.local.home import default_home
from prefect_modeldeploy.report import report_markdown, write_report
from prefect_modeldeploy.rollout import Point, RolloutRecord
from prefect_modeldeploy.rollout.judging import judge_of, point_of
from prefect_modeldeploy.target import DeploymentTarget, router_of
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._sources import source_of
from prefect_modeldeploy.tasks.observing import history_of, judgeable, windows_so_far


async def _areport_rollout(target: DeploymentTarget | str, record: RolloutRecord) -> Path:
    """Write the report of a rollout from the measurements that the gateway kept.

    Judging is deterministic, so the evidence is computed once more from the same windows; nothing that the report
    shows had to survive in the memory of a process.

    Args:
        target: Block, or name of a saved one.
        record: The rollout, ended or not.

    Returns:
        The HTML file; the artifact has the key `rollout-<provider>-<endpoint>`.
    """
    target = await DeploymentTarget.resolve(target)
    points = await _points(target, record)
    key = f"rollout-{record.provider}-{record.endpoint}".replace("_", "-").replace(".", "-").lower()
    consoles = await _consoles(target, record)
    markdown = await anyio.to_thread.run_sync(report_markdown, record, points, consoles)
    await acreate_markdown_artifact(markdown, key=key, description=f"Rollout of {record.candidate}")
    path = await anyio.to_thread.run_sync(write_report, record, points, default_home() / "reports", consoles)
    target.credentials.logger.info("report: %s", path)
    return path


async def _consoles(target: DeploymentTarget, record: RolloutRecord) -> dict[str, str]:
    """Where a person looks at the rollout's deployments, at providers whose console's addresses are known."""
    found = dict[str, str]()
    for deployment in filter(None, (record.stable, record.canary, record.serving)):
        with suppress(ProviderError):  # one of two providers cannot be asked whose it is: there is no link then
            if url := (await target.at(deployment)).credentials.console_url(deployment):
                found[deployment] = url
    return found


async def _points(target: DeploymentTarget, record: RolloutRecord) -> list[Point]:
    if record.start_cursor is None:
        return []
    async with router_of(target) as (router, _), source_of(target, router, record) as source:
        judge = judge_of(record.model_copy(update={"judge_state": None}), await history_of(source, record))
        windows = await windows_so_far(source, record)
    ends = {window.id: window.end for window in windows}
    start = record.started_at.timestamp()
    points = [point_of(w, judge.observe(w), ends[w.id] - start) for w in judgeable(record, windows)]
    return [
        point if point.weight else point.model_copy(update={"weight": _weight(record, point.at)}) for point in points
    ]


def _weight(record: RolloutRecord, at: float) -> float:
    """What the canary was asked to get at a time, for windows that do not say it themselves."""
    return next((step.weight for step in record.steps if step.at is not None and at <= step.at), 0.0)


report_rollout, areport_rollout = pair(_areport_rollout)
