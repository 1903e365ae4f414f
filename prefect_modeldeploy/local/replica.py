"""One process that serves one version of one model. Self-contained: Python 3.10 or newer with uvicorn is all it needs.

The node starts this file by path, under the interpreter of the model, with the listening socket as an inherited file
descriptor and one line of JSON (see `Settings`) on standard input. A replica whose node dies before that line arrives
ends by itself, so that no replica lives that the node does not know. It imports nothing of this package.

What it answers:

    GET  /v2, /v2/health/live, /v2/health/ready                      Open Inference Protocol v2
    GET  /v2/models/{model}[/versions/{version}][/ready]
    POST /v2/models/{model}[/versions/{version}]/infer               tensors in JSON; no binary extension
    POST /predict                                                    any JSON in, any JSON out
    POST /invocations                                                MLflow's body: instances, inputs, dataframe_*

What it serves (`source`):

    model.joblib             An object with `.predict(array)`, as scikit-learn's. `infer` takes one input tensor and
                             offers the outputs predict (default), predict_proba, predict_log_proba, decision_function
                             and transform, as far as the model has them. `/predict` takes rows, bare or under
                             `instances` or `inputs`, and answers {"predictions": [...]}.
    package.module:callable  `callable(value)`. `/predict` passes the parsed JSON body and returns the answer as JSON.
                             `infer` passes {input name: numpy array} and expects {output name: array}, or one array,
                             which is then called `output`. `/invocations` passes the rows as a list. A coroutine
                             function is awaited on the event loop; anything else runs in a thread, `concurrency` of
                             them at a time (1 for a model that is not thread-safe).

An exception inside the model is HTTP 500, a body that cannot be read is 400; both are {"error": text, "type": class}.

Security: loading a joblib file or importing a module runs the code in it. Serve only what you trust.
"""

import argparse
import asyncio
import faulthandler
import importlib
import inspect
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOAD_FAILED = 3
"""Exit code when the model could not be loaded; the reason is in the failure file."""

MAX_BODY_BYTES = 256 * 1024 * 1024
KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection, so that it never meets one that is just being closed."""

DTYPES = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "object",
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Settings:
    """What the node says on standard input: one line of JSON with these fields."""

    replica: str
    model: str
    version: str
    source: str
    concurrency: int = 4
    python_path: tuple[str, ...] = ()
    failure_file: str | None = None


class BadInput(Exception):
    """The request cannot be read: HTTP 400."""


class LoadFailed(Exception):
    """The model cannot be served; says why."""


# --- models ----------------------------------------------------------------------------------------------------------


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
        return await self.predict_rows(_rows(body) if isinstance(body, dict) else body, run)

    async def predict_rows(self, rows: Any, run: "Run") -> Any:
        """Answer rows with {"predictions": [...]}."""
        try:
            array = _numpy().asarray(rows)
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

    async def predict_rows(self, rows: Any, run: "Run") -> Any:
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


# --- bodies ----------------------------------------------------------------------------------------------------------


def _numpy() -> Any:
    return importlib.import_module("numpy")


def _rows(body: Any) -> Any:
    """The rows in one of MLflow's bodies; data frames become rows of values, columns ordered as in the first row."""
    if not isinstance(body, dict):
        raise BadInput("the body must be an object with instances, inputs, dataframe_split or dataframe_records")
    for key in ("instances", "inputs"):
        if key in body:
            return body[key]
    try:
        if "dataframe_split" in body:
            return body["dataframe_split"]["data"]
        if "dataframe_records" in body:
            records = body["dataframe_records"]
            return [[record[column] for column in records[0]] for record in records]
    except (TypeError, KeyError, IndexError) as error:
        raise BadInput(f"cannot read the data frame: {type(error).__name__} {error}") from None
    raise BadInput(f"no instances, inputs, dataframe_split or dataframe_records among {sorted(body)}")


def decode_tensors(body: Any) -> dict[str, Any]:
    """The input tensors of an `infer` request, as numpy arrays by name; raise BadInput."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list) or not body["inputs"]:
        raise BadInput("the body must be an object with a list of `inputs`")
    tensors = {}
    for tensor in body["inputs"]:
        try:
            name, datatype, shape, data = (tensor[key] for key in ("name", "datatype", "shape", "data"))
            dtype = DTYPES[datatype]
        except (TypeError, KeyError) as error:
            raise BadInput(f"an input needs name, shape, data and a datatype of {sorted(DTYPES)}: {error}") from None
        try:
            tensors[name] = _numpy().asarray(data, dtype=dtype).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"input {name!r} is not a {datatype} tensor of shape {shape}: {error}") from None
    return tensors


def encode_tensors(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arrays by name as the output tensors of an `infer` answer."""
    tensors = []
    for name, value in outputs.items():
        array = _numpy().asarray(value)
        datatype = _DATATYPES.get(str(array.dtype), "BYTES")
        data = [str(item) for item in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
        tensors.append({"name": name, "datatype": datatype, "shape": list(array.shape), "data": data})
    return tensors


def _plain(value: Any) -> Any:
    """What json cannot write: numpy's arrays and numbers, and whatever else can be a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the model's answer holds a {type(value).__name__}, which is not JSON")


def to_json(value: Any) -> bytes:
    """Strict JSON: NaN and infinity are errors."""
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()


# --- HTTP ------------------------------------------------------------------------------------------------------------

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, Any]


class Replica:
    """The ASGI application."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self._settings, self._model = settings, model
        self._run = Runner(settings.concurrency)
        self._root = f"/v2/models/{settings.model}"
        self._headers = [
            (b"content-type", b"application/json"),
            (b"x-model-version", settings.version.encode("ascii", "replace")),
            (b"x-modeldeploy-replica", settings.replica.encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        status, value = await self._answer(scope, receive)
        try:
            body = to_json(value)
        except (TypeError, ValueError) as error:
            status, body = 500, to_json({"error": f"the answer is not JSON: {error}", "type": type(error).__name__})
        headers = [*self._headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        try:
            handlers = self._handlers(scope["path"])
            if handlers is None:
                return 404, {"error": f"no {scope['path']} here: {self._served()}", "type": "NotFound"}
            if scope["method"] not in handlers:
                return 405, {"error": f"use {' or '.join(handlers)}", "type": "MethodNotAllowed"}
            body = _parse(await _read(receive)) if scope["method"] == "POST" else None
            return 200, await handlers[scope["method"]](body)
        except BadInput as error:
            return 400, {"error": str(error), "type": "BadInput"}
        except Exception as error:
            traceback.print_exc()
            return 500, {"error": f"{type(error).__name__}: {error}", "type": type(error).__name__}

    def _served(self) -> str:
        return f"this replica serves {self._settings.model!r} version {self._settings.version!r}"

    def _handlers(self, path: str) -> dict[str, Callable[[Any], Awaitable[Any]]] | None:
        """The handlers of a path by method; None if there is no such path."""
        fixed: dict[str, dict[str, Callable[[Any], Awaitable[Any]]]] = {
            "/v2": {"GET": self._server},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            "/predict": {"POST": self._predict},
            "/invocations": {"POST": self._invocations},
            "/-/modules": {"GET": self._modules},
        }
        if path in fixed:
            return fixed[path]
        if not path.startswith(self._root):
            return None
        rest = path[len(self._root) :].removeprefix(f"/versions/{self._settings.version}")
        of_model: dict[str, dict[str, Callable[[Any], Awaitable[Any]]]] = {
            "": {"GET": self._metadata},
            "/ready": {"GET": self._ready},
            "/infer": {"POST": self._infer},
        }
        return of_model.get(rest)

    async def _server(self, _: Any) -> Any:
        return {"name": "modeldeploy", "version": "1", "extensions": []}

    async def _live(self, _: Any) -> Any:
        return {"live": True}

    async def _ready(self, _: Any) -> Any:
        return {"name": self._settings.model, "ready": True}

    async def _metadata(self, _: Any) -> Any:
        settings = self._settings
        return {
            "name": settings.model,
            "versions": [settings.version],
            "platform": self._model.platform,
            "inputs": [],
            "outputs": [],
        }

    async def _modules(self, _: Any) -> Any:
        """What the model made Python import: the node's zygote learns from it what to preload."""
        return {"modules": sorted(sys.modules)}

    async def _infer(self, body: Any) -> Any:
        inputs = decode_tensors(body)
        wanted = [output["name"] for output in body.get("outputs") or () if "name" in output]
        outputs = await self._model.infer(inputs, wanted, self._run)
        answer = {"model_name": self._settings.model, "model_version": self._settings.version}
        return {**answer, "id": body.get("id", ""), "outputs": encode_tensors(outputs)}

    async def _predict(self, body: Any) -> Any:
        return await self._model.predict(body, self._run)

    async def _invocations(self, body: Any) -> Any:
        return await self._model.predict_rows(_rows(body), self._run)


async def _read(receive: Receive) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadInput("the client went away")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise BadInput(f"the body is above {MAX_BODY_BYTES} bytes")
    return b"".join(chunks)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}") from None


class JoinedWrites:
    """A transport that sends what is written in one turn of the event loop at once.

    The server writes head and body apart. A replica that is killed in between leaves the proxy with a head and no body,
    which it cannot send again to another replica.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._parts = transport, list[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is left, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()


def protocol_class() -> Any:
    """Uvicorn's fastest HTTP protocol here, with joined writes."""
    base: Any = importlib.import_module("uvicorn.protocols.http.auto").AutoHTTPProtocol

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        base.connection_made(self, JoinedWrites(transport))

    return type("Protocol", (base,), {"connection_made": connection_made})


# --- the process -----------------------------------------------------------------------------------------------------


def read_settings() -> Settings | None:
    """The node's line of JSON; None when the node died before it wrote one. Standard input is empty afterwards."""
    with open(0, "rb", closefd=False) as stdin:
        line = stdin.readline()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not line.endswith(b"\n"):
        return None
    fields = json.loads(line)
    return Settings(**{**fields, "python_path": tuple(fields.get("python_path", ()))})


def _report_failure(settings: Settings, reason: str) -> None:
    print(f"replica {settings.replica}: {reason}", file=sys.stderr, flush=True)
    if settings.failure_file:
        Path(settings.failure_file).write_text(json.dumps({"reason": reason}))


def _load_or_exit(settings: Settings) -> Model:
    try:
        return load(settings.source)
    except LoadFailed as error:
        _report_failure(settings, str(error))
    except SystemExit as error:
        _report_failure(settings, f"the code of {settings.source} ended the process: exit {error.code}")
    except Exception as error:
        traceback.print_exc()
        _report_failure(settings, f"loading {settings.source} raised {type(error).__name__}: {error}")
    sys.exit(LOAD_FAILED)


def serve(listener: socket.socket) -> None:
    """Read the settings, load the model, serve until SIGTERM; requests in flight are answered first."""
    began = time.monotonic()
    settings = read_settings()
    if settings is None:
        return
    faulthandler.enable()
    sys.path[:0] = settings.python_path
    print(f"replica {settings.replica}: loading {settings.source}", file=sys.stderr, flush=True)
    try:
        uvicorn = importlib.import_module("uvicorn")
    except ImportError:
        _report_failure(settings, f"{sys.executable} has no uvicorn: install it there")
        sys.exit(LOAD_FAILED)
    app = Replica(settings, _load_or_exit(settings))
    print(f"replica {settings.replica}: loaded in {time.monotonic() - began:.2f} s", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app,
        http=protocol_class(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _without_own_folder(path: Iterable[str]) -> list[str]:
    """Python puts a script's folder first on its path: this package's modules must not shadow the model's."""
    own = str(Path(__file__).resolve().parent)
    return [entry for entry in path if not entry or str(Path(entry).resolve()) != own]


def main() -> None:
    """Serve on the inherited socket `--fd`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fd", type=int, required=True, help="inherited listening socket")
    listener = socket.socket(fileno=parser.parse_args().fd)
    sys.path[:] = _without_own_folder(sys.path)
    serve(listener)


if __name__ == "__main__":
    main()
