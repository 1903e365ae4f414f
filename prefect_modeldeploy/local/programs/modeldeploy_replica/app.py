"""The routes of a replica, as an ASGI application."""

import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from .bodies import BadInput, decode_tensors, encode_tensors, rows_of, to_json
from .models import Model, Runner
from .settings import Settings

MAX_BODY_BYTES = 256 * 1024 * 1024

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
        return await self._model.predictrows_of(rows_of(body), self._run)


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
