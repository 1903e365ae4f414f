"""Models, their versions on branches, and the functions that wrap them."""

import base64
import binascii
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.foundry import bodies
from prefect_modeldeploy.sandbox.world import Record

if TYPE_CHECKING:
    from prefect_modeldeploy.sandbox.foundry.emulator import FoundryEmulator

DEFAULT_BRANCH = "master"
PAGE, MOST_ON_PAGE = 100, 500

_SHOWN = ("rid", "modelApi", "condaRequirements", "backingRepositories", "createdTime", "source")


class Models:
    """The part of the emulator below `/v2/models/{modelRid}`."""

    def __init__(self, emulator: "FoundryEmulator") -> None:
        self._emulator, self._world = emulator, emulator.world

    def routes(self) -> list[BaseRoute]:
        """Its paths."""
        route, model = self._emulator.route, "/api/v2/models/{model}"
        return [
            route("POST", "/api/v2/models", self._create, "write"),
            route("GET", model, self._get, "read"),
            route("POST", f"{model}/promoteVersion", self._promote, "write"),
            route("POST", f"{model}/versions", self._publish, "write"),
            route("GET", f"{model}/versions", self._list, "read"),
            route("GET", f"{model}/versions/{{version}}", self._version, "read"),
            route("POST", f"{model}/function", self._create_function, "write"),
            route("GET", f"{model}/function", self._function, "read"),
            route("PUT", f"{model}/function", self._replace_function, "write"),
        ]

    def make(self, name: str, folder: str) -> Record:
        """A new model."""
        rid = f"ri.models.main.model.{self._world.new_uuid('model')}"
        self._world["models"][rid] = {"rid": rid, "name": name, "folder": folder}
        return self._world["models"][rid]

    def add_version(self, model: str, branch: str, fields: Record) -> Record:
        """A new version, the newest of the branch; deployments that track it begin to upgrade."""
        rid = f"ri.models.main.model-version.{self._world.new_uuid('version')}"
        record = {**fields, "rid": rid, "id": rid, "model": model, "branch": branch}
        record |= {"createdTime": self._emulator.clock.stamp(), "number": self._world.count("number")}
        self._world["versions"][rid] = record
        self._emulator.begin(record, "version", [model, branch])
        self._emulator.live.upgrade(model, branch, rid)
        return record

    def find(self, rid: str) -> Record:
        """A model, else ModelNotFound."""
        if found := self._world["models"].get(rid):
            return found
        raise Refusal(404, "The given Model could not be found.", "ModelNotFound", modelRid=rid)

    def newest(self, model: str, branch: str) -> Record | None:
        """What a deployment that tracks the branch shall serve; the vendor itself sees it at once."""
        return max(self._on(model, branch), key=lambda version: int(version["number"]), default=None)

    def _on(self, model: str, branch: str) -> list[Record]:
        versions = self._world["versions"].values()
        return [one for one in versions if (one["model"], one["branch"]) == (model, branch)]

    def _of(self, request: Request) -> Record:
        return self.find(request.path_params["model"])

    # --- handlers -------------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        body = await self._emulator.body(request, bodies.NewModel)
        if not body.name.strip() or body.name in (".", "..") or "/" in body.name or len(body.name) > 700:
            raise Refusal(400, "The display name is not allowed.", "InvalidDisplayName", displayName=body.name)
        for one in self._world["models"].values():
            if (one["name"], one["folder"]) == (body.name, body.parentFolderRid):
                taken = {"parentFolderRid": body.parentFolderRid, "displayName": body.name}
                raise Refusal(409, "The name is taken.", "ResourceNameAlreadyExists", **taken)
        return JSONResponse({"rid": self.make(body.name, body.parentFolderRid)["rid"]})

    async def _get(self, request: Request) -> Response:
        return JSONResponse({"rid": self._of(request)["rid"]})

    async def _promote(self, request: Request) -> Response:
        model, body = self._of(request), await self._emulator.body(request, bodies.Promotion)
        source = self._world["versions"].get(body.sourceModelVersionRid)
        if source is None:
            raise _no_version(model["rid"], body.sourceModelVersionRid)
        copied = {name: source[name] for name in ("modelApi", "condaRequirements", "backingRepositories")}
        copied["source"] = {
            "type": "promoted", "previousModelRid": source["model"], "previousModelVersionRid": source["rid"]
        }  # fmt: skip
        return JSONResponse(_shown(self.add_version(model["rid"], body.branch or DEFAULT_BRANCH, copied)))

    async def _publish(self, request: Request) -> Response:
        model, body = self._of(request), await self._emulator.body(request, bodies.NewVersion)
        _check(body)
        fields: Record = {
            "modelApi": body.modelApi.model_dump(exclude_none=True),
            "condaRequirements": body.condaRequirements,
            "backingRepositories": body.backingRepositories,
            "source": {"type": "sdk"},
            "bytes": len(body.modelFiles.serializedModelFunction),
        }
        return JSONResponse(_shown(self.add_version(model["rid"], DEFAULT_BRANCH, fields)))

    async def _list(self, request: Request) -> Response:
        model, asked = self._of(request), request.query_params
        size, start = _size(asked.get("pageSize")), _start(asked.get("pageToken"))
        found = self._on(model["rid"], asked.get("branch") or DEFAULT_BRANCH)
        found = [one for one in found if not self._emulator.unseen(one)]
        found.sort(key=lambda one: int(one["number"]), reverse=True)
        page: dict[str, Any] = {"data": [_shown(one) for one in found[start : start + size]]}
        if start + size < len(found):
            page["nextPageToken"] = base64.urlsafe_b64encode(str(start + size).encode()).decode()
        return JSONResponse(page)

    async def _version(self, request: Request) -> Response:
        rid = request.path_params["version"]
        found = self._world["versions"].get(rid)
        if found is None or found["model"] != request.path_params["model"] or self._emulator.unseen(found):
            raise _no_version(request.path_params["model"], rid)
        return JSONResponse(_shown(found))

    async def _create_function(self, request: Request) -> Response:
        model, body = self._of(request), await self._emulator.body(request, bodies.NewFunction)
        if not body.displayName:
            raise Refusal(400, "displayName is required", parameter="displayName")
        if model["rid"] in self._world["functions"]:
            raise Refusal(409, "the model has a function already")
        rid = f"ri.function-registry.main.function.{self._world.new_uuid('function')}"
        function = {"functionRid": rid, "displayName": body.displayName, "number": 0}
        return self._save_function(model, function, body)

    async def _function(self, request: Request) -> Response:
        return JSONResponse(_function(self._function_of(self._of(request))))

    async def _replace_function(self, request: Request) -> Response:
        model, body = self._of(request), await self._emulator.body(request, bodies.NewFunction)
        if body.displayName is not None:
            raise Refusal(400, "displayName cannot be replaced", parameter="displayName")
        return self._save_function(model, self._function_of(model), body)

    def _function_of(self, model: Record) -> Record:
        if found := self._world["functions"].get(model["rid"]):
            return found
        raise Refusal(
            404, "The given ModelFunction could not be found.", "ModelFunctionNotFound", modelRid=model["rid"]
        )

    def _save_function(self, model: Record, function: Record, body: bodies.NewFunction) -> Response:
        if not body.apiName.strip():
            raise Refusal(400, "The API name is not allowed.", "InvalidFunctionApiName", apiName=body.apiName)
        function |= {"apiName": body.apiName, "isRowWise": body.isRowWise, "number": function["number"] + 1}
        function["ontologyBinding"] = body.ontologyBinding
        self._world["functions"][model["rid"]] = function
        return JSONResponse(_function(function))


def _shown(version: Record) -> Record:
    return {name: version[name] for name in _SHOWN if version.get(name) is not None}


def _function(function: Record) -> Record:
    shown = {name: value for name, value in function.items() if name != "number" and value is not None}
    return {**shown, "functionVersion": f"{function['number']}.0.0"}


def _no_version(model: str, version: str) -> Refusal:
    given = {"modelRid": model, "modelVersionRid": version}
    return Refusal(404, "The given ModelVersion could not be found.", "ModelVersionNotFound", **given)


def _check(body: bodies.NewVersion) -> None:
    try:
        base64.b64decode(body.modelFiles.serializedModelFunction, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "serializedModelFunction is no base64", parameter="serializedModelFunction") from None
    for entries in (body.modelApi.inputs, body.modelApi.outputs):
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            wrong = {"errorType": "DUPLICATE_NAME", "message": "names must be unique"}
            raise Refusal(400, "The model api failed validations", "InvalidModelApi", **wrong)
        for entry in entries:
            missing = {"parameter": entry.dataType, "tabular": entry.columns, "unsupported": True}[entry.type] is None
            if missing or (entry.type != "unsupported" and not entry.name):
                wrong = {"errorType": "MISSING_FIELD", "message": f"an entry of type {entry.type} lacks a field"}
                raise Refusal(400, "The model api failed validations", "InvalidModelApi", **wrong)


def _size(given: str | None) -> int:
    if given is None:
        return PAGE
    if given.isascii() and given.isdecimal() and len(given) < 6 and 1 <= int(given) <= MOST_ON_PAGE:
        return int(given)
    raise Refusal(400, "The page size is not allowed.", "InvalidPageSize", pageSize=given)


def _start(token: str | None) -> int:
    if token is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        text = ""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise Refusal(400, "The page token is not valid.", "InvalidPageToken", pageToken=token)
