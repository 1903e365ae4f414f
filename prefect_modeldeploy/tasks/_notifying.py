"""Tells people how a rollout goes, by Prefect's notification blocks and webhooks. It never holds a rollout up.

What is on its way is waited for when the rollout has ended, not before: on the way back every second counts.
"""

import asyncio

import httpx
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.sources.base import run_logger

TIMEOUT_SECONDS = 10.0

_MOMENTS = {Phase.PLANNED: "started", Phase.ROLLING_BACK: "rolling back", Phase.ENDED: "ended"}

_on_their_way: dict[str, dict[str, asyncio.Task[None]]] = {}
"""By rollout and moment: a moment is told once, however often the record is saved."""


async def follow(record: RolloutRecord) -> None:
    """Tell of the record's phase, if that is worth it."""
    if moment := _MOMENTS.get(record.phase):
        _send(record, moment)
    if record.phase is Phase.ENDED:
        sent, loop = _on_their_way.pop(record.id, {}).values(), asyncio.get_running_loop()
        await asyncio.gather(*(task for task in sent if task.get_loop() is loop))


async def ask_for_approval(record: RolloutRecord, gate: str) -> None:
    """Tell that the rollout waits for a person."""
    if sent := _send(record, f"waiting for approval: {gate}"):
        await sent


def _send(record: RolloutRecord, moment: str) -> asyncio.Task[None] | None:
    if not record.notify:
        return None
    told = _on_their_way.setdefault(record.id, {})
    if moment not in told:
        told[moment] = asyncio.create_task(_tell_all(record, moment))
    return told[moment]


async def _tell_all(record: RolloutRecord, moment: str) -> None:
    await asyncio.gather(*(_tell(name, record, moment) for name in record.notify))


async def _tell(name: str, record: RolloutRecord, moment: str) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await _notify(name, *message(record, moment))
    except httpx.HTTPStatusError as error:  # its text has the URL, which can be a secret
        run_logger().warning("%s was not told that the rollout is %s: %s", name, moment, error.response.status_code)
    except Exception as error:
        run_logger().warning("%s was not told that the rollout is %s: %s", name, moment, type(error).__name__)


async def _notify(name: str, subject: str, body: str) -> None:
    block: Block = await Block.aload(name)
    if isinstance(block, Webhook):
        (await block.call({"subject": subject, "body": body})).raise_for_status()
    elif isinstance(block, NotificationBlock):
        with block.raise_on_failure():
            await block.notify(body, subject)
    else:
        raise InvalidInput("target.notify", name, "is neither a notification block nor a webhook")


def message(record: RolloutRecord, moment: str) -> tuple[str, str]:
    """Subject and body."""
    what = "roll-back" if record.kind == "roll_back" else record.kind
    now = (record.outcome or moment).replace("_", " ") if record.phase is Phase.ENDED else moment
    facts = {
        "now serving": record.stable,
        "candidate": record.canary,
        "share of the candidate": f"{record.weight:g} %",
        "started by": record.who.name,
        "note": record.why,
        "why": record.reason,
        "report": record.report,
    }
    if record.outcome == "promoted":
        facts["now serving"] = record.serving or record.canary
    body = "\n".join(f"{name}: {value}" for name, value in facts.items() if value)
    return f"{record.endpoint}: {what} of {record.canary} {now}", body
