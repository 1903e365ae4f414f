"""V4 deployments: their life cycle, and how they answer."""

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.scale import bodies, parts
from prefect_modeldeploy.sandbox.world import Record

_WAIT_SECONDS = 600.0


class Deployments:
    """The handlers of deployments, and what other parts need of them."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._world = emulator, emulator.world

    def routes(self) -> list[BaseRoute]:
        """V4 paths of deployments."""
        of_model, one = "/v4/models/{model}/deployments", "/v4/models/{model}/deployments/{id}"
        return [
            Route(of_model, self._create, methods=["POST"]),
            Route(of_model, self._list, methods=["GET"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
            Route(one + "/execute", self._execute, methods=["POST"]),
            Route("/v4/model-deployments", self._list_all, methods=["GET"]),
            Route("/v4/model-deployments/{id}/usage-statistics", self._usage, methods=["GET"]),
            *(Route(f"/v4/models/{{id}}/{kind}", self._typed, methods=["POST"]) for kind in _TYPED),
        ]

    # --- for the other parts --------------------------------------------------------------------------------------

    def make(self, model: Record, given: Record) -> Record:
        """Put a deployment of a model into the world."""
        configuration = given.get("vendor_configuration") or bodies.LaunchConfiguration().model_dump()
        parts.check_workers(configuration)
        record: Record = {
            "id": self._world.new_uuid("deployment"),
            "name": given["name"],
            **parts.owned(self._emulator, given.get("account_id")),
            "model_instance_id": model["id"],
            "model_endpoint_id": f"end_{self._world.new_id('endpoint', 12)}",
            "model_creation_parameters": given.get("model_creation_parameters"),
            "deployment_metadata": given.get("deployment_metadata"),
            "vendor_configuration": configuration,
        }
        self._world["deployments"][record["id"]] = record
        self._emulator.begin(record, "builtin" if model.get("builtin") else "create", [model["name"]])
        return record

    def alive(self, model_id: str | None = None) -> list[Record]:
        """The deployments that are not gone, of one model or of all."""
        table = self._world["deployments"]
        for gone in [key for key, record in table.items() if self._emulator.word(record) is None]:
            del table[gone]
        return [record for record in table.values() if model_id in (None, record["model_instance_id"])]

    def view(self, record: Record) -> Record:
        """As the API shows it."""
        word = self._emulator.word(record)
        shown: Record = {**record, "status": word}
        if word == "READY":
            self._emulator.pool(record).settle(parts.scaling_of(record["vendor_configuration"]))
        return {name: shown.get(name) for name in parts.FIELDS}

    def find(self, deployment_id: str) -> Record:
        """One that can be found by now, else 404."""
        record = next((record for record in self.alive() if record["id"] == deployment_id), None)
        if record is None or self._emulator.unseen(record):
            raise Refusal(404, f"Model deployment with id {deployment_id} not found")
        return record

    async def answer(self, record: Record, payload: Any) -> Any:
        """The model's answer, when it is up."""
        word = self._emulator.word(record)
        if word != "READY" and not (record["life"]["timeline"] == "update" and word != "UPDATE_FAILED"):
            raise Refusal(503, f"The model deployment is not ready: {word}")
        scaling = parts.scaling_of(record["vendor_configuration"])
        names = [record["id"], record["name"], record["model_instance_id"]]
        return await parts.call_model(self._emulator, record, scaling, payload, names)

    # --- handlers -------------------------------------------------------------------------------------------------

    def _of(self, request: Request) -> Record:
        record = self.find(request.path_params["id"])
        if record["model_instance_id"] != request.path_params.get("model", record["model_instance_id"]):
            raise Refusal(404, f"Model deployment with id {record['id']} not found")
        return record

    def _changeable(self, request: Request) -> Record:
        record = self._of(request)
        if record["life"]["timeline"] == "builtin":
            raise Refusal(400, "Deployments of built-in models cannot be changed")
        return record

    async def _create(self, request: Request) -> Response:
        model = self._world["models"].get(request.path_params["model"])
        body = await self._emulator.body(request, bodies.NewDeployment)
        if model is None:
            raise Refusal(404, f"Model instance with id {request.path_params['model']} not found")
        if model.get("builtin"):
            raise Refusal(400, "Deployments of built-in models cannot be changed")
        record = self.make(model, body.model_dump())
        return await self._settled(record, body.wait_for_ready)

    async def _patch(self, request: Request) -> Response:
        record = self._changeable(request)
        body = await self._emulator.body(request, bodies.DeploymentPatch)
        changes = {name: value for name, value in body.model_dump().items() if value is not None}
        del changes["wait_for_ready"]
        if configuration := changes.get("vendor_configuration"):
            if configuration["vendor"] != record["vendor_configuration"]["vendor"]:
                raise Refusal(400, "The vendor of a deployment cannot be changed")
            parts.check_workers(configuration)
        record.update(changes)
        # A deployment that never was ready is still being created, and serves nobody.
        creating = self._emulator.word(record) != "READY" and record["life"]["timeline"] == "create"
        self._emulator.begin(record, "create" if creating else "update")
        return await self._settled(record, body.wait_for_ready)

    async def _settled(self, record: Record, wait: bool) -> Response:
        deadline = time.monotonic() + _WAIT_SECONDS
        while wait and time.monotonic() < deadline and self._emulator.word(record) in _MOVING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return JSONResponse(self.view(record))

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self.view(self._of(request)))

    async def _delete(self, request: Request) -> Response:
        self._emulator.begin(self._changeable(request), "delete")
        return JSONResponse({"count": 1, "success": True})

    async def _list(self, request: Request) -> Response:
        if request.path_params["model"] not in self._world["models"]:
            raise Refusal(404, f"Model instance with id {request.path_params['model']} not found")
        return self._page(request, self.alive(request.path_params["model"]))

    async def _list_all(self, request: Request) -> Response:
        return self._page(request, self.alive())

    def _page(self, request: Request, records: Iterable[Record]) -> Response:
        asked = self._emulator.query(request, bodies.Paging)
        views = [self.view(record) for record in records if not self._emulator.unseen(record)]
        return parts.page(parts.only_own(self._emulator, views, asked), asked)

    async def _usage(self, request: Request) -> Response:
        return parts.usage([self._of(request)], self._emulator.query(request, bodies.UsagePeriod))

    async def _execute(self, request: Request) -> Response:
        return await execute(request, lambda payload: self.answer(self._of(request), payload))

    async def _typed(self, request: Request) -> Response:
        kind = request.url.path.rpartition("/")[2]
        record, body = self._of(request), await self._emulator.body(request, _TYPED[kind])
        given = body.given()
        answer = await self.answer(record, given)
        return JSONResponse(_typed_answer(kind, given, answer))


_MOVING = frozenset({"UPDATE_PENDING", "UPDATE_IN_PROGRESS"})
_TYPED: dict[str, type[bodies.Body]] = {
    "completions": bodies.Prompt,
    "chat-completions": bodies.Prompt,
    "embeddings": bodies.Texts,
    "rerankings": bodies.Ranking,
}


def _typed_answer(kind: str, given: Record, answer: Any) -> Record:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    if kind == "embeddings":
        vectors = [[one, [float(len(one))]] for one in given["texts"]]
        return {"embeddings": vectors, "tokens_used": sum(parts.count_tokens(one) for one in given["texts"])}
    if kind == "rerankings":
        words = set(given["query"].split())
        return {"chunk_scores": [float(len(words & set(one.split()))) for one in given["chunks"]]}
    if kind == "chat-completions":
        return {"chat_completion": {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}}
    return {
        "completions": [[given["prompt"], [text]]],
        "finish_reason": "stop",
        "prompt_tokens": parts.count_tokens(given["prompt"]),
        "response_tokens": parts.count_tokens(text),
    }


async def execute(request: Request, answer: Any) -> Response:
    """Take an execute request: any JSON object, of which "stream" is the API's own."""
    try:
        payload = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise _no_object() from None
    if not isinstance(payload, dict):
        raise _no_object()
    stream = payload.pop("stream", False)
    said = await answer(payload)
    if stream is True:
        return PlainTextResponse(f"data: {json.dumps(said)}\n\n", media_type="text/event-stream")
    return JSONResponse(said)


def _no_object() -> Refusal:
    problem = {"loc": ["body"], "msg": "Input should be a valid dictionary", "type": "dict_type"}
    return Refusal(422, "Validation Error", problems=[problem])
