"""V5 models: one object that deploys and serves, and the inference by name."""

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.scale import parts
from prefect_modeldeploy.sandbox.scale.bodies import Body, GPUType, Text
from prefect_modeldeploy.sandbox.world import Record

Hosted = Literal[
    "openai", "cohere", "vertex_ai", "anthropic", "azure", "gemini", "model_zoo", "bedrock", "xai", "fireworks_ai"
]


class Image(Body):
    """What a launch model runs."""

    registry: str
    repository: str
    tag: str
    command: list[str]
    env_vars: dict[str, Any] = Field(default_factory=dict)
    predict_route: str = "/predict"
    healthcheck_route: str = "/readyz"
    readiness_delay: int = 120
    streaming_command: list[str] | None = None
    streaming_predict_route: str | None = None
    request_schema: dict[str, Any] | None = None
    response_schema: dict[str, Any] | None = None


class Workers(Body):
    """How many, and how large."""

    min_workers: int = 0
    max_workers: int = 1
    per_worker: int = 10
    cpus: str | int | None = None
    memory: str = "8Gi"
    storage: str = "16Gi"
    gpus: int = 0
    gpu_type: GPUType | None = None
    high_priority: bool = False
    labels: dict[str, str] | None = None
    public_inference: bool = False


class Infra(Workers):
    """Of a launch model."""

    endpoint_type: Literal["async", "sync", "streaming"] = "sync"


class LaunchVendor(Body):
    """vendor_configuration of launch."""

    model_image: Image
    model_infra: Infra


class LLMEngineVendor(Workers):
    """vendor_configuration of llmengine."""

    model: str
    endpoint_type: str | None = None
    inference_framework: str | None = None
    inference_framework_image_tag: str | None = None
    num_shards: int | None = None
    nodes_per_worker: int | None = None
    quantize: str | None = None
    checkpoint_path: str | None = None
    source: str | None = None
    chat_template_override: str | None = None
    default_callback_url: str | None = None
    post_inference_hooks: list[str] | None = None


class _New(Body):
    name: Text
    model_metadata: dict[str, Any] | None = None
    on_conflict: Literal["error", "update"] = "error"


class NewLaunchModel(_New):
    """POST of a launch model."""

    model_vendor: Literal["launch"] = "launch"
    model_type: Literal["generic"] = "generic"
    vendor_configuration: LaunchVendor


class NewLLMEngineModel(_New):
    """POST of an llmengine model."""

    model_vendor: Literal["llmengine"]
    model_type: Literal["chat_completion"] = "chat_completion"
    vendor_configuration: LLMEngineVendor


class NewHostedModel(_New):
    """POST of a model that somebody else serves."""

    model_vendor: Hosted
    model_type: Literal["generic", "completion", "chat_completion"]


class NewModelBody(Body):
    """Tells which of the three a POST is."""

    model_vendor: Literal["launch", "llmengine"] | Hosted = "launch"


class ModelChange(Body):
    """PATCH: metadata, or configuration, or name."""

    model_metadata: dict[str, Any] | None = None
    vendor_configuration: dict[str, Any] | None = None
    name: Text | None = None
    on_conflict: Literal["error", "swap"] = "error"


class Listing(Body):
    """The query of the list."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    starting_after: str | None = None
    ending_before: str | None = None
    name: str | None = None
    model_vendor: str | None = None
    sort_by: str | None = None
    sort_order: Literal["asc", "desc"] = "asc"


class Inference(Body):
    """POST of an inference."""

    model: Text
    args: dict[str, Any] = Field(default_factory=dict)
    inference_configuration: dict[str, Any] | None = None


class V5Models:
    """The handlers of V5."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._world = emulator, emulator.world

    def routes(self) -> list[BaseRoute]:
        """V5 paths of models and inference."""
        one = "/v5/models/{id}"
        return [
            Route("/v5/models", self._create, methods=["POST"]),
            Route("/v5/models", self._list, methods=["GET"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
            Route("/v5/inference", self._infer, methods=["POST"]),
        ]

    def _of(self, request: Request) -> Record:
        record = self._world["v5"].get(request.path_params["id"])
        if record is None or self._emulator.unseen(record):
            raise Refusal(404, f"Model {request.path_params['id']} not found")
        return record

    def _named(self, vendor: str, name: str) -> Record | None:
        records = self._world["v5"].values()
        return next((one for one in records if (one["model_vendor"], one["name"]) == (vendor, name)), None)

    def _view(self, record: Record) -> Record:
        word = self._emulator.word(record)
        hidden = ("life", "pool", "usage", "unseen")
        shown = {name: value for name, value in record.items() if name not in hidden}
        if word == "failed":
            shown["status_reason"] = self._emulator.failure(record)
        available = {"ready": "available", "deploying": "unknown"}.get(str(word), "unavailable")
        return {**shown, "object": "model", "status": word, "model_availability": available}

    async def _create(self, request: Request) -> Response:
        vendor = (await self._emulator.body(request, NewModelBody)).model_vendor
        kind = {"launch": NewLaunchModel, "llmengine": NewLLMEngineModel}.get(vendor, NewHostedModel)
        given = (await self._emulator.body(request, kind)).model_dump(exclude_none=True)
        update = given.pop("on_conflict") == "update"
        if workers := _workers(given):
            parts.check_workers(workers)
        existing = self._named(vendor, given["name"])
        if existing is not None and not update:
            raise Refusal(409, f"A {vendor} model named {given['name']} exists")
        if existing is not None:
            self._settled(existing)
            existing.update(given)
        record: Record = existing or {
            "id": self._world.new_uuid("v5"),
            **{name: value for name, value in parts.owned(self._emulator).items() if name != "account_id"},
            **given,
        }
        self._world["v5"][record["id"]] = record
        self._emulator.begin(record, "v5" if "vendor_configuration" in record else "hosted")
        return JSONResponse(self._view(record))

    def _settled(self, record: Record) -> None:
        if self._emulator.word(record) == "deploying":
            raise Refusal(409, "The model is deploying")

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._view(self._of(request)))

    async def _list(self, request: Request) -> Response:
        asked = self._emulator.query(request, Listing)
        wanted = {"name": asked.name, "model_vendor": asked.model_vendor}
        found = [
            self._view(one)
            for one in self._world["v5"].values()
            if all(value in (None, one[name]) for name, value in wanted.items()) and not self._emulator.unseen(one)
        ]
        found.sort(key=lambda one: str(one.get(asked.sort_by or "created_at")), reverse=asked.sort_order == "desc")
        ids = [one["id"] for one in found]
        start = ids.index(asked.starting_after) + 1 if asked.starting_after in ids else 0
        end = ids.index(asked.ending_before) if asked.ending_before in ids else len(ids)
        shown = found[start:end][: asked.limit]
        more = len(found[start:end]) > asked.limit
        return JSONResponse({"object": "list", "items": shown, "has_more": more, "total": len(found)})

    async def _patch(self, request: Request) -> Response:
        record, change = self._of(request), await self._emulator.body(request, ModelChange)
        self._settled(record)
        if change.name is not None:
            self._rename(record, change.name, swap=change.on_conflict == "swap")
        if change.vendor_configuration is not None:
            self._reconfigure(record, change.vendor_configuration)
        if change.model_metadata is not None:
            record["model_metadata"] = change.model_metadata
        return JSONResponse(self._view(record))

    def _rename(self, record: Record, name: str, *, swap: bool) -> None:
        other = self._named(record["model_vendor"], name)
        if other is not None and other is not record:
            if not swap:
                raise Refusal(409, f"A {record['model_vendor']} model named {name} exists")
            other["name"] = record["name"]
        record["name"] = name

    def _reconfigure(self, record: Record, change: Record) -> None:
        now = record.get("vendor_configuration")
        if now is None:
            raise Refusal(400, "This model has no vendor_configuration")
        merged = {**now, **change}
        for part in ("model_image", "model_infra"):
            if part in now and isinstance(change.get(part), dict):
                merged[part] = {**now[part], **change[part]}
        kind = LaunchVendor if record["model_vendor"] == "launch" else LLMEngineVendor
        try:
            checked = kind.model_validate(merged)
        except ValueError as error:
            raise Refusal(400, f"vendor_configuration: {error}") from None
        configuration = checked.model_dump(exclude_none=True)
        parts.check_workers(_workers({"vendor_configuration": configuration}))
        record["vendor_configuration"] = configuration
        self._emulator.begin(record, "v5")

    async def _delete(self, request: Request) -> Response:
        record = self._of(request)
        self._settled(record)
        del self._world["v5"][record["id"]]
        return JSONResponse({"id": record["id"], "deleted": True, "object": "model"})

    async def _infer(self, request: Request) -> Response:
        body = await self._emulator.body(request, Inference)
        vendor, _, name = body.model.partition("/")
        record = self._named(vendor, name)
        if record is None:
            raise Refusal(404, f"Model {body.model} not found")
        if (word := self._emulator.word(record)) != "ready":
            raise Refusal(400, f"Model {body.model} is {word}")
        names = [record["id"], record["name"]]
        workers = _workers(record) or Workers(min_workers=1).model_dump()
        said = await parts.call_model(self._emulator, record, parts.scaling_of(workers), body.args, names)
        return JSONResponse({"object": "generic_inference", "response": said, "inference_metadata": {}})


def _workers(given: Record) -> Record:
    configuration: Record = given.get("vendor_configuration") or {}
    workers: Record = configuration.get("model_infra", configuration)
    return workers
