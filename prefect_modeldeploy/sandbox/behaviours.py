"""What emulated deployments answer: a real callable, with the latency and the errors that a test asks for."""

import asyncio
import importlib
import inspect
import itertools
import random
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.errors import InvalidInput

DEFAULT_CALLABLE = "prefect_modeldeploy.sandbox.behaviours:echo"


class ModelFailed(Exception):
    """The callable raised, or was told to fail: the deployment answers as the vendor does when a model breaks."""


class Behaviour(BaseModel):
    """How the deployments that match answer predict requests. The one set last wins."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field("", description="Given by the sandbox.")
    provider: str = Field("*", description="Provider; a glob.")
    match: str = Field("*", description="Id or name of the deployment, or what its vendor names besides; a glob.")
    callable: str = Field(DEFAULT_CALLABLE, description="package.module:name; called with the decoded payload.")
    latency_seconds: float = Field(0.0, ge=0, description="How long an answer takes, in our seconds.")
    error_rate: float = Field(0.0, ge=0, le=1, description="Share of requests that fail.")
    seed: int = Field(0, description="Of the failures.")


def echo(payload: Any) -> dict[str, Any]:
    """The default model: gives the payload back, with the sum of all numbers in it."""
    return {"sum": _sum(payload), "echo": payload}


def _sum(value: Any) -> float:
    total, left = 0.0, [value]
    while left:
        match left.pop():
            case bool():
                continue
            case int() | float() as number if abs(number) < 1e300:
                total += number
            case dict() as mapping:
                left.extend(mapping.values())
            case list() as items:
                left.extend(items)
    return total


def find_callable(name: str) -> Callable[[Any], Any]:
    """Import `package.module:name`.

    Raises:
        InvalidInput: There is no such thing, or it cannot be called.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InvalidInput("callable", name, f"cannot be imported ({error}); give package.module:name") from error
    if not callable(found):
        raise InvalidInput("callable", name, "cannot be called")
    return found  # type: ignore[no-any-return]


class Behaviours:
    """The behaviours that were set, and the default."""

    def __init__(self) -> None:
        self._set: list[tuple[Behaviour, Callable[[Any], Any], random.Random]] = []
        self._numbers = itertools.count(1)
        self._default = (Behaviour(), echo, random.Random(0))  # noqa: S311

    def add(self, behaviour: Behaviour) -> Behaviour:
        """Set one. Raises InvalidInput when its callable cannot be imported."""
        found = find_callable(behaviour.callable)
        behaviour = behaviour.model_copy(update={"id": f"behaviour-{next(self._numbers)}"})
        self._set.insert(0, (behaviour, found, random.Random(behaviour.seed)))  # noqa: S311
        return behaviour

    def remove(self, behaviour_id: str | None = None) -> None:
        """Forget one, or all."""
        self._set = [entry for entry in self._set if behaviour_id is not None and entry[0].id != behaviour_id]

    def all(self) -> list[Behaviour]:
        """Those that were set, the strongest first."""
        return [behaviour for behaviour, _, _ in self._set]

    async def answer(self, provider: str, names: Collection[str], payload: Any) -> Any:
        """Call the model of the deployment that has these names.

        Raises:
            ModelFailed: It failed.
        """
        behaviour, model, chance = next(
            (entry for entry in self._set if _fits(entry[0], provider, names)), self._default
        )
        if behaviour.latency_seconds:
            await asyncio.sleep(behaviour.latency_seconds)
        if chance.random() < behaviour.error_rate:
            raise ModelFailed("the sandbox was told to fail this request")
        try:
            if model is echo:
                return echo(payload)
            answer = await asyncio.get_running_loop().run_in_executor(None, partial(model, payload))
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise ModelFailed(f"{type(error).__name__}: {error}") from error


def _fits(behaviour: Behaviour, provider: str, names: Collection[str]) -> bool:
    return fnmatchcase(provider, behaviour.provider) and any(fnmatchcase(name, behaviour.match) for name in names)
