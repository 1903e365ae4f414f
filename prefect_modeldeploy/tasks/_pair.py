"""Every public task exists twice, `scale_deployment` and `ascale_deployment`: the pair is made here.

Which layer retries what: the transport repeats single calls for as long as a blip lasts (seconds); an outage that
outlives it, or a wait that the vendor asked for, is Prefect's to retry, visibly, and only when the failed attempt can
have had no effect or may be repeated. Nothing else is ever tried again: no other 4xx, no call whose effect is unknown.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import anyio
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.transport import may_retry

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_WAIT_SECONDS = 120.0
"""A longer delay than this, asked by a vendor, is not waited for in full before the next try."""


async def worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn` of every task: the transport's own classification.

    Prefect has no way to alter the delay of a retry, so a wait that the vendor asked for is waited for here.
    """
    try:
        await state.aresult()
    except ProviderError as error:
        if not may_retry(error, repeatable=True):
            return False
        await anyio.sleep(min(error.retry_after or 0.0, LONGEST_WAIT_SECONDS))
        return True
    except Exception:
        return False
    return False


def pair(
    core: Callable[P, Coroutine[Any, Any, R]], *, retries: int = 2, retry_delay_seconds: float = 5.0
) -> tuple[Task[P, R], Task[P, Coroutine[Any, Any, R]]]:
    """Make the synchronous task and the asynchronous task of an operation.

    Args:
        core: An async function `_aname`; the tasks are to be bound to `name` and `aname`.
        retries: How often Prefect runs it again, if `worth_retrying`.
        retry_delay_seconds: Seconds in between, doubling.
    """
    name = core.__name__.removeprefix("_a")

    @wraps(core)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_coro_as_sync(core(*args, **kwargs))

    blocking.__name__ = name
    blocking.__qualname__ = name
    options: dict[str, Any] = {
        "name": name.replace("_", "-"),
        "retries": retries,
        "retry_delay_seconds": [retry_delay_seconds * 2**i for i in range(retries)],
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": worth_retrying,
        # No tags: Prefect would ask its server for a slot of each, and a way back must not wait for that.
        "cache_policy": NO_CACHE,
    }
    return task(**options)(blocking), task(**options)(core)
