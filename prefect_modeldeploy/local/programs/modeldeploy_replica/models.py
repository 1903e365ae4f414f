"""What is served: scikit-learn's interface, or any callable."""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .bodies import BadInput, numpy, rows_of


class LoadFailed(Exception):
    """The model cannot be served; says why."""


class JoblibModel:
    """A model with scikit-learn's interface, from a joblib file."""

    OUTPUTS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise LoadFailed(f"no such file: {path}")
        try:
            joblib = importlib.import_module("joblib")
        except ImportError:
            raise LoadFailed(f"{sys.executable} has no joblib: install joblib and the model's library there") from None
        self._model = joblib.load(path)
        if not callable(getattr(self._model, "predict", None)):
            raise LoadFailed(f"{path} holds a {type(self._model).__name__}, which has no predict method")
        self.platform = type(self._model).__module__.partition(".")[0]

    async def infer(self, inputs: Mapping[str, Any], outputs: list[str], run: "Run") -> dict[str, Any]:
        """Answer tensors with tensors."""
        if len(inputs) != 1:
            raise BadInput(f"this model takes one input tensor, not {len(inputs)}")
        (value,) = inputs.values()
        answer = {}
        for name in outputs or ["predict"]:
            method = getattr(self._model, name, None) if name in self.OUTPUTS else None
            if method is None:
                offered = [known for known in self.OUTPUTS if hasattr(self._model, known)]
                raise BadInput(f"no output {name!r}; this model offers {offered}")
            answer[name] = await run(method, value)
        return answer

    async def predict(self, body: Any, run: "Run") -> Any:
        """Answer any JSON with any JSON."""
        return await self.predictrows_of(rows_of(body) if isinstance(body, dict) else body, run)

    async def predictrows_of(self, rows: Any, run: "Run") -> Any:
        """Answer rows with {"predictions": [...]}."""
        try:
            array = numpy().asarray(rows)
        except ValueError as error:
            raise BadInput(f"the rows do not form an array: {error}") from None
        return {"predictions": await run(self._model.predict, array)}


class CallableModel:
    """A function, or any other callable, from a module."""

    platform = "python"

    def __init__(self, source: str) -> None:
        module_name, _, attribute = source.partition(":")
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise LoadFailed(
                f"no module {error.name!r} for {source}: install it under {sys.executable} "
                f"or name its folder in options.python_path"
            ) from None
        for part in attribute.split("."):
            if not hasattr(target, part):
                raise LoadFailed(f"{source}: {module_name} has no {attribute!r}")
            target = getattr(target, part)
        if not callable(target):
            raise LoadFailed(f"{source} is a {type(target).__name__}, not a callable")
        self._call = target

    async def infer(self, inputs: Mapping[str, Any], outputs: list[str], run: "Run") -> dict[str, Any]:
        """Answer tensors with tensors."""
        answer = await run(self._call, inputs)
        named = dict(answer) if isinstance(answer, Mapping) else {"output": answer}
        missing = [name for name in outputs if name not in named]
        if missing:
            raise BadInput(f"no outputs {missing}; this model gave {sorted(named)}")
        return {name: named[name] for name in outputs} if outputs else named

    async def predict(self, body: Any, run: "Run") -> Any:
        """Answer any JSON with any JSON."""
        return await run(self._call, body)

    async def predictrows_of(self, rows: Any, run: "Run") -> Any:
        """Answer rows with {"predictions": [...]}."""
        return {"predictions": await run(self._call, rows)}


Model = JoblibModel | CallableModel
Run = Callable[..., Awaitable[Any]]
"""Calls the model off the event loop: `await run(function, argument)`."""


def load(source: str) -> Model:
    """Load what a source names; raise LoadFailed, or whatever the model's own code raises."""
    return JoblibModel(source) if source.endswith(".joblib") else CallableModel(source)


class Runner:
    """Calls the model: coroutine functions on the event loop, anything else in a thread."""

    def __init__(self, concurrency: int) -> None:
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="predict")

    async def __call__(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Return what the model answers; raise what it raises."""
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            return await function(argument)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _call, function, argument)


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except (StopIteration, SystemExit) as error:  # the one hangs a future, the other ends the process
        raise RuntimeError(f"the model raised {error!r}") from error
