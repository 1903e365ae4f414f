"""Asks the webhooks that are gates of a rollout."""

import asyncio
import time
from typing import Any, Literal

import httpx
from prefect.blocks.system import Secret

from prefect_modeldeploy.errors import InvalidInput, RolloutError
from prefect_modeldeploy.report.words import plain
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.rollout.webhook import WebhookGate
from prefect_modeldeploy.transport import Logger, trusted

When = Literal["step", "promotion"]

_LONGEST_REASON = 300
_ASK_AGAIN = frozenset({408, 425, 429})


class GateClosed(RolloutError):
    """A gate has said no, and the plan turns the rollout back for it."""


async def token_of(gate: WebhookGate) -> str | None:
    """The gate's token, from its Secret block.

    Raises:
        InvalidInput: There is no such block.
    """
    if gate.token_secret is None:
        return None
    try:
        secret: Secret[Any] = await Secret.aload(gate.token_secret)
    except ValueError as error:
        raise InvalidInput("plan.gates.token_secret", gate.token_secret, "there is no such Secret block") from error
    return str(secret.get())


async def opens(gate: WebhookGate, when: When, record: RolloutRecord, logger: Logger) -> bool:
    """Ask once.

    Raises:
        GateClosed: It says no, and that turns the rollout back.
    """
    said, reason = await _ask(gate, when, record)
    host = httpx.URL(gate.url).host
    if said is True:
        logger.info("%s: %s opens the gate%s", record.endpoint, host, f": {reason}" if reason else "")
        return True
    if said is False and gate.on_no == "roll_back":
        raise GateClosed(f"{host} said no: {reason}")
    logger.warning("%s is held: %s %s", record.endpoint, host, f"says no: {reason}" if said is False else reason)
    return False


async def until_open(gate: WebhookGate, when: When, record: RolloutRecord, logger: Logger) -> None:
    """Ask again and again until it opens.

    Raises:
        GateClosed: It says no, and that turns the rollout back; or it was closed for too long.
    """
    give_up = time.monotonic() + gate.hold_seconds
    while (left := give_up - time.monotonic()) > 0:
        await asyncio.sleep(min(gate.again_seconds, left))
        if await opens(gate, when, record, logger):
            return
    raise GateClosed(f"{httpx.URL(gate.url).host} did not open in {gate.hold_seconds:g} s")


async def _ask(gate: WebhookGate, when: When, record: RolloutRecord) -> tuple[bool | None, str]:
    """Yes, no or (None) no answer; and why."""
    try:
        token = await token_of(gate)
    except httpx.HTTPError as error:  # Prefect's server is away
        return None, f"cannot be asked, for its token cannot be read now ({type(error).__name__})"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=gate.timeout_seconds, trust_env=False, verify=trusted()) as client:
            answer = await client.post(gate.url, json=question(when, record), headers=headers)
    except httpx.HTTPError as error:
        return None, f"gives no answer ({type(error).__name__})"
    if answer.status_code >= 500 or answer.status_code in _ASK_AGAIN or answer.is_redirect:
        return None, f"gives no answer (status {answer.status_code})"
    allow, reason = _read(answer)
    return answer.is_success and allow, reason or ("" if answer.is_success else f"status {answer.status_code}")


def _read(answer: httpx.Response) -> tuple[bool, str]:
    try:
        said = answer.json()
    except ValueError:
        return True, ""
    if not isinstance(said, dict):
        return True, ""
    return said.get("allow") is not False, plain(str(said.get("reason") or ""), _LONGEST_REASON)


def question(when: When, record: RolloutRecord) -> dict[str, Any]:
    """What a gate is sent. `weight` is in force, `next_weight` would come; `evidence` is what the last step came to."""
    plan = record.plan
    return {
        "rollout": record.id,
        "endpoint": record.endpoint,
        "environment": record.environment,
        "provider": record.provider,
        "model": record.model,
        "stable": record.stable,
        "canary": record.canary,
        "started_by": record.who.name,
        "note": record.why,
        "before": when,
        "step": record.step + 1 if when == "step" else len(plan.steps),
        "steps": len(plan.steps),
        "weight": record.weight,
        "next_weight": plan.steps[record.step] if when == "step" else plan.full_weight,
        "evidence": record.steps[-1].model_dump(mode="json") if record.steps else None,
    }
