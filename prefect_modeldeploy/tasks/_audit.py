"""The audit trail: who did what to an endpoint, when and why. Entries are only ever added.

The gateway keeps it, beside the measurements that the verdicts rest on. Where no gateway is involved, it goes to the
storage that Prefect keeps results in: one JSON file an entry.
"""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect.results import aget_default_result_storage

from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import DeploymentTarget, router_of


async def append(target: DeploymentTarget, record: RolloutRecord, effect: str) -> None:
    """Add what an effect came to. What cannot be added is logged in full: a rollout does not stop for it."""
    entry = entry_of(record, effect)
    try:
        if record.mode == "swap" and target.splits:
            async with router_of(target) as (router, name):
                if isinstance(router, NodeClient):
                    await router.append_audit(name, record.who.name, entry)
                    return
        await _store(record, entry)
    except Exception as error:
        target.credentials.logger.error("%s: not in the audit (%s): %s", record.endpoint, error, json.dumps(entry))


def entry_of(record: RolloutRecord, effect: str) -> dict[str, Any]:
    """What is worth keeping of a record after an effect."""
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
    if effect in ("observe", "bake") and record.steps:
        facts["verdict"] = record.steps[-1].model_dump(mode="json", exclude_none=True)
    if effect in ("ask", "approve") and record.answer:
        facts["answer"] = record.answer.model_dump(mode="json")
    return {key: value for key, value in facts.items() if value not in (None, "")}


def _plan(record: RolloutRecord) -> dict[str, Any]:
    return record.plan.model_dump(mode="json", exclude_defaults=True)


async def _store(record: RolloutRecord, entry: dict[str, Any]) -> None:
    at = datetime.now(UTC)
    storage = await aget_default_result_storage()
    path = f"modeldeploy-audit/{record.provider}/{record.endpoint}/{at:%Y%m%dT%H%M%S.%f}-{uuid4().hex[:8]}.json"
    content = {"at": at.isoformat(), "who": record.who.name, "event": entry}
    await storage.write_path(path, json.dumps(content).encode())
