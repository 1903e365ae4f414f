"""V4 models, templates and groups, with the usage of models by name."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.scale import bodies, parts
from prefect_modeldeploy.sandbox.scale.deployments import Deployments
from prefect_modeldeploy.sandbox.world import Record, Table

_OWN_VENDORS = (None, "LAUNCH", "LLMENGINE")
_VIEWS = frozenset({"Deployments", "ModelGroup"})


class Catalog:
    """The handlers of models, templates and groups."""

    def __init__(self, emulator: Emulator, deployments: Deployments) -> None:
        self._emulator, self._deployments, self._world = emulator, deployments, emulator.world

    def routes(self) -> list[BaseRoute]:
        """V4 paths of models, templates and groups."""
        model, template, group = "/v4/models/{id}", "/v4/model-templates/{id}", "/v4/model-groups/{id}"
        return [
            Route("/v4/models", self._create_model, methods=["POST"]),
            Route("/v4/models", self._list_models, methods=["GET"]),
            Route(model, self._get_model, methods=["GET"]),
            Route(model, self._patch_model, methods=["PATCH"]),
            Route(model, self._delete_model, methods=["DELETE"]),
            Route("/v4/models/{name}/usage-statistics", self._model_usage, methods=["GET"]),
            Route("/v4/model-templates", self._create_template, methods=["POST"]),
            Route("/v4/model-templates", self._list_templates, methods=["GET"]),
            Route(template, self._get_template, methods=["GET"]),
            Route(template, self._delete_template, methods=["DELETE"]),
            Route("/v4/model-groups", self._create_group, methods=["POST"]),
            Route("/v4/model-groups", self._list_groups, methods=["GET"]),
            Route(group, self._get_group, methods=["GET"]),
            Route(group, self._patch_group, methods=["PATCH"]),
            Route(group, self._delete_group, methods=["DELETE"]),
            Route(group + "/models/{model}", self._add_to_group, methods=["POST"]),
            Route(group + "/usage-statistics", self._group_usage, methods=["GET"]),
        ]

    def _one(self, table: str, key: str) -> Record:
        found = self._world[table].get(key)
        if found is None:
            raise Refusal(404, f"{table[:-1].capitalize()} with id {key} not found")
        return found

    def _new(self, table: str, given: Record) -> Record:
        record = {
            "id": self._world.new_uuid(table),
            **given,
            **parts.owned(self._emulator, given.get("account_id")),
        }
        self._world[table][record["id"]] = record
        return record

    def _list(self, request: Request, items: list[Record]) -> Response:
        asked = self._emulator.query(request, bodies.Paging)
        return parts.page(parts.only_own(self._emulator, items, asked), asked)

    # --- models ---------------------------------------------------------------------------------------------------

    def make_model(self, given: Record) -> Record:
        """Put a model into the world; one of a foreign vendor has a deployment that nobody can change."""
        for field, table in (("model_template_id", "templates"), ("model_group_id", "groups")):
            if given.get(field):
                self._one(table, given[field])
        record = self._new("models", {**given, "builtin": given.get("model_vendor") not in _OWN_VENDORS})
        if record["builtin"]:
            self._deployments.make(record, {"name": record["name"]})
        return record

    def _view(self, record: Record, views: frozenset[str] = frozenset()) -> Record:
        deployments = self._deployments.alive(record["id"])
        shown = {
            **{name: value for name, value in record.items() if name != "builtin"},
            "deployment_count": len(deployments),
            "request_schema": {},
            "response_schema": {},
            "supports_multi_turn": record["model_type"] == "CHAT_COMPLETION",
        }
        if "Deployments" in views:
            shown["deployments"] = [self._deployments.view(one) for one in deployments]
        if "ModelGroup" in views:
            shown["model_group"] = self._world["groups"].get(record.get("model_group_id") or "")
        return shown

    def _views(self, text: str | None) -> frozenset[str]:
        views = frozenset(text.split(",")) if text else frozenset[str]()
        if unknown := views - _VIEWS:
            problem = {"loc": ["query", "view"], "msg": f"unknown: {sorted(unknown)}", "type": "enum"}
            raise Refusal(422, "Validation Error", problems=[problem])
        return views

    async def _create_model(self, request: Request) -> Response:
        return JSONResponse(
            self._view(self.make_model((await self._emulator.body(request, bodies.NewModel)).model_dump()))
        )

    async def _list_models(self, request: Request) -> Response:
        asked = self._emulator.query(request, bodies.ModelPaging)
        views = self._views(asked.view)
        wanted = {"model_group_id": asked.model_group_id, "model_type": asked.model_type}
        items = [
            self._view(record, views)
            for record in self._world["models"].values()
            if all(value in (None, record.get(name)) for name, value in wanted.items())
        ]
        return parts.page(parts.only_own(self._emulator, items, asked), asked)

    async def _get_model(self, request: Request) -> Response:
        record = self._one("models", request.path_params["id"])
        return JSONResponse(self._view(record, self._views(request.query_params.get("view"))))

    async def _patch_model(self, request: Request) -> Response:
        record = self._one("models", request.path_params["id"])
        record.update((await self._emulator.body(request, bodies.ModelPatch)).model_dump(exclude_none=True))
        return JSONResponse(self._view(record))

    async def _delete_model(self, request: Request) -> Response:
        record = self._one("models", request.path_params["id"])
        if not record["builtin"] and self._deployments.alive(record["id"]):
            raise Refusal(409, "The model has deployments")
        for one in self._deployments.alive(record["id"]):
            del self._world["deployments"][one["id"]]
        return self._delete("models", record)

    def _delete(self, table: str, record: Record) -> Response:
        del self._world[table][record["id"]]
        return JSONResponse({"count": 1, "success": True})

    # --- usage ----------------------------------------------------------------------------------------------------

    def _usage(self, request: Request, models: list[Record]) -> Response:
        if not models:
            raise Refusal(404, "Not Found")
        used = [one for model in models for one in self._deployments.alive(model["id"])]
        return parts.usage(used, self._emulator.query(request, bodies.UsagePeriod))

    async def _model_usage(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._usage(request, [one for one in self._world["models"].values() if one["name"] == name])

    async def _group_usage(self, request: Request) -> Response:
        group = self._one("groups", request.path_params["id"])
        models = self._world["models"].values()
        return self._usage(request, [one for one in models if one.get("model_group_id") == group["id"]])

    # --- templates and groups -------------------------------------------------------------------------------------

    async def _create_template(self, request: Request) -> Response:
        given = (await self._emulator.body(request, bodies.NewTemplate)).model_dump(exclude_none=True)
        return JSONResponse(self._new("templates", given))

    async def _list_templates(self, request: Request) -> Response:
        return self._list(request, _values(self._world["templates"]))

    async def _get_template(self, request: Request) -> Response:
        return JSONResponse(self._one("templates", request.path_params["id"]))

    async def _delete_template(self, request: Request) -> Response:
        return self._delete("templates", self._one("templates", request.path_params["id"]))

    async def _create_group(self, request: Request) -> Response:
        given: dict[str, Any] = (await self._emulator.body(request, bodies.NewGroup)).model_dump()
        return JSONResponse(self._new("groups", given))

    async def _list_groups(self, request: Request) -> Response:
        return self._list(request, _values(self._world["groups"]))

    async def _get_group(self, request: Request) -> Response:
        return JSONResponse(self._one("groups", request.path_params["id"]))

    async def _patch_group(self, request: Request) -> Response:
        record = self._one("groups", request.path_params["id"])
        record.update((await self._emulator.body(request, bodies.GroupPatch)).model_dump(exclude_none=True))
        return JSONResponse(record)

    async def _delete_group(self, request: Request) -> Response:
        return self._delete("groups", self._one("groups", request.path_params["id"]))

    async def _add_to_group(self, request: Request) -> Response:
        group = self._one("groups", request.path_params["id"])
        model = self._one("models", request.path_params["model"])
        model["model_group_id"] = group["id"]
        return JSONResponse(self._view(model))


def _values(table: Table) -> list[Record]:
    return list(table.values())
