"""Chaos: a share of all requests goes wrong, in every way there is; the world must come out right."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.sandbox.client import SandboxControl

T = TypeVar("T")

CALM_AFTER = 50
"""Tries of one operation after which something is wrong with more than the weather."""


async def storm(control: SandboxControl, provider: str, *, share: float = 0.2, seed: int = 1, path: str = "*") -> None:
    """Let that share of the provider's requests fail: 429, 503, resets, lost requests and lost answers alike."""
    ways = (
        {"kind": "status", "status": 429, "retry_after": 0.01},
        {"kind": "status", "status": 503},
        {"kind": "reset"},
        {"kind": "lost_request"},
        {"kind": "lost_answer"},
    )
    left = 1.0
    for number, way in enumerate(ways):
        # Each rule sees only what the former ones let through: the chances must add up to the share.
        probability = share / len(ways) / left
        left -= share / len(ways)
        await control.fault(
            provider=provider, path=path, times=None, probability=probability, seed=seed + number, **way
        )


async def until_done(operation: Callable[[], Awaitable[T]]) -> T:
    """Do an operation again for as long as the provider is at fault, as a task's retries would.

    Only an operation that may be repeated can be passed: that is what a storm tests.
    """
    for _ in range(CALM_AFTER):
        try:
            return await operation()
        except ProviderError as error:
            status = error.problem.status_code
            if status is not None and status < 500 and status not in (408, 425, 429):
                raise
            last = error
    raise last


async def all_done(operations: Sequence[Callable[[], Awaitable[T]]], *, at_once: int = 16) -> list[T]:
    """Do all of them, at most so many at once; returns their results in order."""
    room = asyncio.Semaphore(at_once)

    async def one(operation: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await until_done(operation)

    return list(await asyncio.gather(*(one(operation) for operation in operations)))


async def struck(control: SandboxControl) -> dict[str, int]:
    """How often each kind of fault struck, for the test to print and to be sure that there was a storm."""
    counts: dict[str, int] = {}
    for fault in await control.faults():
        kind = f"{fault.kind} {fault.status}" if fault.kind == "status" else fault.kind
        counts[kind] = counts.get(kind, 0) + fault.fired
    return counts
