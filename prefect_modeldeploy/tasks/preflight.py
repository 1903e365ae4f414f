"""Before any traffic moves: do both versions answer the same request, in the same shape?"""

from typing import Any

from prefect_modeldeploy.errors import ProviderError, RolloutError
from prefect_modeldeploy.target import DeploymentTarget, router_of
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.traffic.router import TrafficRouter

_TRIES = 3
"""Even a good model fails now and then."""


async def _apreflight(target: DeploymentTarget | str) -> None:
    """Send the target's sample to both arms of its endpoint, and compare the shapes of the answers.

    The requests count for nobody: the arm is chosen, not drawn. Values are neither compared nor told.

    Args:
        target: Block, or name of a saved one. Without a `sample` nothing is sent.

    Raises:
        RolloutError: An arm does not answer the sample with JSON, or they answer in different shapes.
    """
    target = await DeploymentTarget.resolve(target)
    if target.sample is None:
        return
    async with router_of(target) as (router, name):
        stable, canary = [await _answer(router, name, arm, target.sample) for arm in ("stable", "canary")]
    if difference := difference_of(stable, canary):
        raise RolloutError(f"{name}: the canary answers the sample in another shape than stable: {difference}")


async def _answer(router: TrafficRouter, name: str, arm: str, sample: Any) -> Any:
    for left in reversed(range(_TRIES)):
        try:
            return await router.ask(name, arm, sample)
        except ProviderError as error:
            status = error.problem.status_code
            if status is None:
                raise RolloutError(f"preflight: {arm} did not answer the sample: {error.problem.message}") from error
            if status < 500 or not left:
                hint = "is it a valid request?" if status >= 400 else "but not with JSON"
                raise RolloutError(f"preflight: {arm} answered the sample with status {status}: {hint}") from error
    raise AssertionError("unreachable: the last try returns or raises")


def difference_of(stable: Any, canary: Any, at: str = "answer") -> str | None:
    """The first place where two JSON values have different shapes; None if there is none.

    Numbers are of one kind, null goes with everything, and lists are compared by their first entries.
    """
    if stable is None or canary is None:
        return None
    kinds = _kind(stable), _kind(canary)
    if kinds[0] != kinds[1]:
        return f"{at} is {kinds[0]} there and {kinds[1]} here"
    if isinstance(stable, dict):
        for side, names in (("there", stable.keys() - canary.keys()), ("here", canary.keys() - stable.keys())):
            if names:
                return f"{at}.{min(names)} is only {side}"
        found = (difference_of(stable[name], canary[name], f"{at}.{name}") for name in stable)
        return next(filter(None, found), None)
    if isinstance(stable, list) and stable and canary:
        return difference_of(stable[0], canary[0], f"{at}[0]")
    return None


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "an object"
        case _:
            return "a list"


preflight, apreflight = pair(_apreflight)
