"""Several calls to a provider at once."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

T = TypeVar("T")


async def all_of(calls: Sequence[Callable[[], Awaitable[T]]], at_once: float = math.inf) -> list[T]:
    """The results of the calls in their order; so many are under way at a time.

    The first that fails ends the others. Its error is raised as it is: who waits for a provider that is away knows that
    error, and no group of them.
    """
    room, results = anyio.CapacityLimiter(at_once), dict[int, T]()

    async def one(number: int, call: Callable[[], Awaitable[T]]) -> None:
        async with room:
            results[number] = await call()

    try:
        async with anyio.create_task_group() as group:
            for number, call in enumerate(calls):
                group.start_soon(one, number, call)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [results[number] for number in range(len(calls))]
