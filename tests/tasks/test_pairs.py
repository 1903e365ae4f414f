"""Every operation is a pair of tasks, and both know what may be tried again."""

import asyncio

import pytest
from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.tasks import Task

import prefect_modeldeploy.tasks as tasks
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    ModelDeployError,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from prefect_modeldeploy.tasks._pair import pair, worth_retrying

pytestmark = pytest.mark.usefixtures("prefect_server")

ALL = {name: value for name, value in vars(tasks).items() if isinstance(value, Task)}
BLOCKING = sorted(name for name in ALL if f"a{name}" in ALL)


def test_every_public_task_exists_in_both_colours() -> None:
    assert sorted(ALL) == sorted([*BLOCKING, *(f"a{name}" for name in BLOCKING)])
    assert len(BLOCKING) >= 17


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_task_retries_by_the_one_classification_and_is_never_cached(name: str) -> None:
    task = ALL[name]
    assert task.retries >= 1
    assert task.retry_condition_fn is worth_retrying
    assert task.cache_policy == NO_CACHE
    assert task.isasync is name.startswith("a")
    assert task.__doc__
    assert "Args:" in task.__doc__


def failing_pair(error: Exception) -> tuple[Task, Task, list[int]]:
    runs: list[int] = []

    async def _aoperation() -> str:
        """Fail once, then work."""
        runs.append(1)
        if len(runs) == 1:
            raise error
        return "done"

    blocking, awaitable = pair(_aoperation, retry_delay_seconds=0.01)
    return blocking, awaitable, runs


def refused(kind: type[ProviderError], status: int, **more: object) -> ProviderError:
    return kind("acme", "POST /", Problem("no", status), **more)  # type: ignore[arg-type]


TRANSIENT = [
    refused(ProviderUnavailable, 503),
    refused(RateLimited, 429),
    ProviderUnavailable("acme", "POST /", Problem("connection refused")),
]
FINAL = [
    refused(ProviderError, 400),
    refused(AuthenticationFailed, 401),
    refused(NotFound, 404),
    refused(Conflict, 409),
    refused(ProviderUnavailable, 504, effect_unknown=True),
    InvalidInput("field", 1, "no"),
    RuntimeError("a bug"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
async def test_an_outage_is_tried_again(error: Exception) -> None:
    _, awaitable, runs = failing_pair(error)

    @flow
    async def caller() -> str:
        return await awaitable()

    assert await caller() == "done"
    assert len(runs) == 2


@pytest.mark.parametrize("error", FINAL, ids=repr)
async def test_nothing_else_burns_a_retry(error: Exception) -> None:
    _, awaitable, runs = failing_pair(error)

    @flow
    async def caller() -> str:
        return await awaitable()

    with pytest.raises(type(error)):
        await caller()
    assert len(runs) == 1


def test_the_blocking_task_works_in_a_synchronous_flow() -> None:
    blocking, _, runs = failing_pair(TRANSIENT[0])

    @flow
    def caller() -> str:
        return blocking()

    assert caller() == "done"
    assert len(runs) == 2


async def test_the_vendors_delay_is_waited_for_before_the_next_try() -> None:
    asked = ProviderUnavailable("acme", "POST /", Problem("busy", 503, retry_after=0.5))
    _, awaitable, runs = failing_pair(asked)

    @flow
    async def caller() -> str:
        return await awaitable()

    begun = asyncio.get_running_loop().time()
    await caller()
    assert len(runs) == 2
    assert asyncio.get_running_loop().time() - begun >= 0.5


def test_errors_can_be_caught_as_one_family() -> None:
    assert all(isinstance(error, ModelDeployError) for error in [*TRANSIENT, *FINAL[:-1]])
