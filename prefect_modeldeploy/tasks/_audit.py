"""The audit trail: who did what to an endpoint, when and why. Entries are only ever added.

The gateway keeps it, beside the measurements that the verdicts rest on. Where no gateway is involved, it goes to the
storage that Prefect keeps results in: one JSON file an entry.
"""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
from prefect.results import aget_default_result_storage

from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.rollout import Phase, RolloutRecord, StepResult
from prefect_modeldeploy.target import DeploymentTarget, router_of

_READ_SECONDS = 5.0


async def append(
    target: DeploymentTarget,
    record: RolloutRecord,
    effect: str,
    before: RolloutRecord | None = None,
    within_seconds: float | None = None,
) -> None:
    """Add what an effect came to, and what was seen and said since the record `before` it.

    What cannot be added, or not within that time, is logged in full: a rollout does not stop for it.
    """
    entry = entry_of(record, effect, before)
    try:
        with anyio.fail_after(within_seconds):
            await _add(target, record, entry)
    except Exception as error:
        target.credentials.logger.error("%s: not in the audit (%r): %s", record.endpoint, error, json.dumps(entry))


async def _add(target: DeploymentTarget, record: RolloutRecord, entry: dict[str, Any]) -> None:
    if record.mode == "swap" and target.splits:
        async with router_of(target) as (router, name):
            if isinstance(router, NodeClient):
                await router.append_audit(name, record.who.name, entry)
                return
    await _store(record, entry)


async def verdicts(target: DeploymentTarget, record: RolloutRecord) -> tuple[StepResult, ...]:
    """The verdicts of an open rollout so far, for who goes on with it: a Prefect variable has no room for them.

    None of a golden set: whoever goes on with one asks all of it again.
    """
    if record.mode != "swap" or not target.splits or record.golden_set is not None:
        return ()
    try:
        with anyio.fail_after(_READ_SECONDS):
            async with router_of(target) as (router, name):
                entries = [entry async for entry in _entries(router, name)] if isinstance(router, NodeClient) else []
        return counted([entry["event"] for entry in entries], record)
    except Exception as error:  # whatever it is, it must not keep anybody from taking the rollout up
        target.credentials.logger.warning("%s: its report lacks the steps so far: %s", record.endpoint, error)
        return ()


async def _entries(router: NodeClient, name: str) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while page := await router.audit(name, after=after):
        for entry in page:
            yield entry
        after = page[-1]["id"]


def counted(events: Iterable[dict[str, Any]], record: RolloutRecord) -> tuple[StepResult, ...]:
    """The verdicts that the rollout went on from, in order.

    One that was given just before its driver died was never acted on: the next driver began where the record stood. So
    was any that a driver gave after it had been replaced.
    """
    found, epoch = list[dict[str, Any]](), 0
    now: dict[str, Any] = {"rollout": record.id, "effect": "start", "cursor": record.cursor, "epoch": record.epoch}
    for event in (*events, now):
        if event.get("rollout") != record.id or event.get("epoch", 0) < epoch:
            continue
        epoch = event.get("epoch", 0)
        if event.get("effect") == "start" and found and found[-1].get("cursor") != event.get("cursor"):
            found.pop()
        if "verdict" in event:
            found.append(event)
    return tuple(StepResult.model_validate(event["verdict"]) for event in found)


def entry_of(record: RolloutRecord, effect: str, before: RolloutRecord | None = None) -> dict[str, Any]:
    """What is worth keeping of a record after an effect.

    Without a record before it, as that of who begins to drive one, it tells what was said last: by whom it was taken
    over, say, or that nobody answered.
    """
    facts = {
        "rollout": record.id,
        "effect": effect,
        "phase": record.phase,
        "stable": record.stable,
        "canary": record.serving or record.canary,
        "weight": record.weight,
        "epoch": record.epoch,
        "cursor": record.cursor,
        "driver": record.driver.model_dump() if record.driver else None,
        "outcome": record.outcome,
        "reason": record.reason,
        "decided_by": record.decided_by,
    }
    if record.phase is Phase.PLANNED or effect == "claim":
        facts |= {"who": record.who.model_dump(), "why": record.why, "plan": _plan(record)}
    if before is not None and len(record.steps) > len(before.steps):
        facts["verdict"] = record.steps[-1].model_dump(mode="json", exclude_none=True)
    if record.answer is not None and (before is None or record.answer != before.answer):
        facts["answer"] = record.answer.model_dump(mode="json")
    if record.told is not None and (before is None or record.told != before.told):
        facts["told"] = record.told.model_dump(mode="json")
    return {key: value for key, value in facts.items() if value not in (None, "")}


def _plan(record: RolloutRecord) -> dict[str, Any]:
    return record.plan.model_dump(mode="json", exclude_defaults=True)


async def _store(record: RolloutRecord, entry: dict[str, Any]) -> None:
    at = datetime.now(UTC)
    storage = await aget_default_result_storage()
    path = f"modeldeploy-audit/{record.provider}/{record.endpoint}/{at:%Y%m%dT%H%M%S.%f}-{uuid4().hex[:8]}.json"
    content = {"at": at.isoformat(), "who": record.who.name, "event": entry}
    await storage.write_path(path, json.dumps(content).encode())
