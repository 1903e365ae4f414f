"""V4 model servers: a stable name for one deployment, which can be swapped and rolled back."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.scale import bodies
from prefect_modeldeploy.sandbox.scale.deployments import Deployments, execute
from prefect_modeldeploy.sandbox.world import Record


class Servers:
    """The handlers of model servers."""

    def __init__(self, emulator: Emulator, deployments: Deployments) -> None:
        self._emulator, self._deployments = emulator, deployments
        self._world = emulator.world

    def routes(self) -> list[BaseRoute]:
        """V4 paths of model servers; those by alias go first."""
        one, by_alias = "/v4/serving/{id}", "/v4/serving/a/{alias}"
        return [
            Route("/v4/serving", self._create, methods=["POST"]),
            Route("/v4/serving", self._list, methods=["GET"]),
            Route(by_alias, self._get, methods=["GET"]),
            Route(by_alias + "/execute", self._execute, methods=["POST"]),
            Route(one, self._get, methods=["GET"]),
            Route(one + "/backend", self._swap, methods=["PUT"]),
            Route(one + "/rollback", self._roll_back, methods=["POST"]),
            Route(one + "/deployment", self._backend, methods=["GET"]),
            Route(one + "/execute", self._execute, methods=["POST"]),
        ]

    def _of(self, request: Request) -> Record:
        alias = request.path_params.get("alias")
        for record in self._world["servers"].values():
            found = record["alias"] == alias if alias else record["id"] == request.path_params.get("id")
            if found:
                return record
        raise Refusal(404, "Model server not found")

    def _view(self, record: Record) -> Record:
        return {
            "model_server_id": record["id"],
            "name": record["name"],
            "account_id": record["account_id"],
            "alias": record["alias"],
            "model_deployment_id": record["model_deployment_id"],
        }

    async def _create(self, request: Request) -> Response:
        body = await self._emulator.body(request, bodies.NewServer)
        self._deployments.find(body.model_deployment_id)
        if body.alias and any(body.alias == one["alias"] for one in self._world["servers"].values()):
            raise Refusal(409, f"A model server with alias {body.alias} exists")
        record: Record = {
            "id": self._world.new_uuid("server"),
            "account_id": self._world.facts["account_id"],
            "former": None,
            **body.model_dump(),
        }
        self._world["servers"][record["id"]] = record
        return JSONResponse(self._view(record))

    async def _list(self, _: Request) -> Response:
        return JSONResponse([self._view(record) for record in self._world["servers"].values()])

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._view(self._of(request)))

    async def _swap(self, request: Request) -> Response:
        record, body = self._of(request), await self._emulator.body(request, bodies.NewBackend)
        self._deployments.find(body.new_model_deployment_id)
        former = record["model_deployment_id"]
        record.update(former=former, model_deployment_id=body.new_model_deployment_id)
        swapped = {"new_model_deployment_id": body.new_model_deployment_id, "old_model_deployment_id": former}
        return JSONResponse({**self._view(record), **swapped})

    async def _roll_back(self, request: Request) -> Response:
        record = self._of(request)
        if record["former"] is None:
            raise Refusal(400, "There is no previous deployment to roll back to")
        current, former = record["model_deployment_id"], record["former"]
        record.update(former=current, model_deployment_id=former)
        return JSONResponse({"rolled_back_to_deployment": former, "from_deployment": current})

    async def _backend(self, request: Request) -> Response:
        return JSONResponse({"model_deployment_id": self._of(request)["model_deployment_id"]})

    async def _execute(self, request: Request) -> Response:
        async def answer(payload: Any) -> Record:
            backend = self._deployments.find(self._of(request)["model_deployment_id"])
            said = await self._deployments.answer(backend, payload)
            fields = said if isinstance(said, dict) else {"response": said}
            return {"status": "OK", "status_code": 200, **fields}

        return await execute(request, answer)
