"""Watches the arms of an endpoint and judges, until a step of the rollout is over. One task run per step."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio

from prefect_modeldeploy.analysis import Judge
from prefect_modeldeploy.errors import ProviderError, StaleEpoch
from prefect_modeldeploy.measurements import Arm, Window
from prefect_modeldeploy.rollout import RolloutRecord, judged, step_over
from prefect_modeldeploy.rollout.judging import judge_of, step_result, with_usable_evidence
from prefect_modeldeploy.sources import MetricSource
from prefect_modeldeploy.target import DeploymentTarget, router_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._sources import source_of
from prefect_modeldeploy.traffic.router import TrafficRouter
from prefect_modeldeploy.traffic.windows import EndpointWindow

HISTORY_SECONDS = 1800.0
"""How far back the stable version's own traffic says what is normal."""

SAY_EVERY_SECONDS = 15.0


async def _aobserve_traffic(target: DeploymentTarget | str, record: RolloutRecord) -> RolloutRecord:
    """Judge what the arms experience until the step in progress is over.

    A reader that dies loses nothing: the measurements are kept by their source (the gateway, or what the target's
    `metrics` name), and the record's cursor says up to where they were judged. Evidence that this version cannot go on
    with, after an upgrade, is gathered again from the measurements of the whole rollout. A step lasts as long as was
    measured of it: while the source is silent the weights stay, until the deadline.

    Args:
        target: Block, or name of a saved one.
        record: The rollout, with its canary's share in force.

    Returns:
        The record after the step.

    Raises:
        StaleEpoch: Another rollout, or a roll-back, has taken the endpoint over.
    """
    target = await DeploymentTarget.resolve(target)
    logger, said = target.credentials.logger, time.monotonic()
    async with router_of(target) as (router, _), source_of(target, router, record) as source:
        if (usable := with_usable_evidence(record)) is not record:
            logger.warning("%s: its evidence is of another version, and is gathered again", record.candidate)
        judge, seen = judge_of(usable), list[Window]()
        up_to_date = usable.judge_state is not None
        verdict, cursor, measured_until, silent = judge.verdict(), record.cursor, 0.0, False
        while True:
            await _still_ours(router, record)
            try:
                if not up_to_date:
                    judge, up_to_date = await _judge_so_far(source, usable), True
                    verdict = judge.verdict()
                windows, cursor = await source.windows(cursor)
                measured_until = source.settled(cursor)
            except ProviderError as error:  # what is not measured is no evidence; the weights stay meanwhile
                windows = []
                if not silent:
                    logger.warning(
                        "%s stays at %g %%, it cannot be measured now: %s", record.candidate, record.weight, error
                    )
                    _journal.tell(record, "unmeasured", str(error))
                silent = True
            else:
                silent = False
            for window in judgeable(record, windows):
                verdict = judge.observe(window)
                seen.append(window)
                if verdict.decision == "roll_back":
                    break
            now = datetime.now(UTC)
            if step_over(record, verdict.decision, now, datetime.fromtimestamp(measured_until, UTC)):
                state = judge.state() if up_to_date else None
                after = record.model_copy(update={"cursor": cursor, "judge_state": state})
                result = step_result(record, verdict, seen, now)
                logger.info("%s at %g %%: %s (%s)", record.candidate, record.weight, result.decision, result.reason)
                return judged(after, result, now)
            if time.monotonic() - said > SAY_EVERY_SECONDS:
                said = time.monotonic()
                logger.info("%s at %g %%: %s", record.candidate, record.weight, verdict.reason)
            await anyio.sleep(record.plan.poll_seconds)


async def _judge_so_far(source: MetricSource, record: RolloutRecord) -> Judge:
    """A judge that knows what is usual, and what was measured up to the record's cursor."""
    judge = judge_of(record, await history_of(source, record))
    for window in judgeable(record, await windows_so_far(source, record)):
        judge.observe(window)
    return judge


async def _still_ours(router: TrafficRouter, record: RolloutRecord) -> None:
    epoch = (await router.get_endpoint(record.endpoint)).epoch
    if epoch != record.epoch:
        raise StaleEpoch(f"{record.endpoint} was taken over: its epoch is {epoch}, this rollout's was {record.epoch}")


def judgeable(record: RolloutRecord, windows: Sequence[EndpointWindow]) -> list[Window]:
    """The windows that count: both arms were asked for, and the canary had warmed up by the plan's rule."""
    begin = record.judged_from.timestamp() if record.judged_from else 0.0
    found = [w.to_window() for w in windows if w.start >= begin and _is_split(w)]
    return [window for window in found if window is not None]


def _is_split(window: EndpointWindow) -> bool:
    """Only the gateway knows the weights of its windows; other sources tell what both arms got, whatever it was."""
    return not window.weights or 0 < window.weights.get("canary", 0.0) < 100


async def windows_so_far(source: MetricSource, record: RolloutRecord) -> list[EndpointWindow]:
    """What was measured from the start of the rollout up to the record's cursor."""
    if record.cursor == record.start_cursor:
        return []
    windows, _ = await source.windows(record.start_cursor)
    later = {window.id for window in (await source.windows(record.cursor))[0]}
    return [window for window in windows if window.id not in later]


async def history_of(source: MetricSource, record: RolloutRecord) -> list[Arm]:
    """What the stable version experienced before this rollout, window by window, its own warm-up left out."""
    end = record.started_at.timestamp()
    windows = await source.history(end - HISTORY_SECONDS)
    begin = windows[0].start + record.plan.warm_up_seconds if windows else 0.0
    usual = [window for window in windows if window.start >= begin and window.end <= end]
    arms = [window.arms["stable"].to_arm() for window in usual if "stable" in window.arms]
    return [arm for arm in arms if arm.requests]


observe_traffic, aobserve_traffic = pair(_aobserve_traffic)
