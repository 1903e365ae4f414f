"""Scale's V5 models in our words: one object deploys and serves (preview, client scale-gp-beta 0.7.0).

| vendor's word              | status    | ready | may receive traffic |
|----------------------------|-----------|-------|---------------------|
| deploying                  | STARTING  | no    | no                  |
| ready                      | READY     | yes   | yes                 |
| ready, but `unavailable`   | DEGRADED  | no    | no                  |
| failed, deployment_timeout | FAILED    | no    | no                  |
| any other                  | UNKNOWN   | no    | no                  |

A model is addressed by its name (`launch/<name>`), so promoting is a rename: the new model takes the name
`<model>-<environment>` and the former one gets its name in exchange.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
    tags_of,
)
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.scale.schemas import GPUType, Request, checked
from prefect_modeldeploy.providers.scale.translate import (
    MARK,
    autoscaling_of,
    digest,
    resources_of,
    size,
    workers,
)
from prefect_modeldeploy.providers.scale.wire import PAGE, at, given, patiently
from prefect_modeldeploy.transport import Transport, create_once

STATUSES = {
    "deploying": DeploymentStatus.STARTING,
    "ready": DeploymentStatus.READY,
    "failed": DeploymentStatus.FAILED,
    "deployment_timeout": DeploymentStatus.FAILED,
}
PREDICT_TIMEOUT_SECONDS = 120.0


class V5Options(Request):
    """`DeploymentSpec.options` of V5: the fields that only this vendor has."""

    model_vendor: Literal["launch", "llmengine"] = Field("launch", description="Who runs the workers.")
    model_metadata: dict[str, Any] | None = Field(None, description="Anything but the key `modeldeploy`.")
    command: list[str] | None = Field(None, description="launch: what is started in the image; required.")
    predict_route: str | None = Field(None, description="launch: default at the vendor /predict.")
    healthcheck_route: str | None = Field(None, description="launch: default at the vendor /readyz.")
    readiness_delay: int | None = Field(None, ge=0, description="launch: default at the vendor 120 s.")
    streaming_command: list[str] | None = Field(None, description="launch: what is started for streaming.")
    streaming_predict_route: str | None = Field(None, description="launch: the route for streaming.")
    request_schema: dict[str, Any] | None = Field(None, description="launch: JSON schema of requests.")
    response_schema: dict[str, Any] | None = Field(None, description="launch: JSON schema of answers.")
    storage: str | None = Field(None, description="Disk per worker, a Kubernetes quantity.")
    gpu_type: GPUType | None = Field(None, description="Which GPU, if not in resources.")
    endpoint_type: Literal["async", "sync", "streaming"] | None = Field(None, description="How it is called.")
    high_priority: bool | None = Field(None, description="Whether it is scheduled before others.")
    labels: dict[str, str] | None = Field(None, description="Labels of the workers.")
    public_inference: bool | None = Field(None, description="Whether everybody may call it.")
    inference_framework: str | None = Field(None, description="llmengine: such as vllm.")
    inference_framework_image_tag: str | None = Field(None, description="llmengine: tag of the server's image.")
    num_shards: int | None = Field(None, ge=1, description="llmengine: into how many parts the model is cut.")
    nodes_per_worker: int | None = Field(None, ge=1, description="llmengine: machines per worker.")
    quantize: str | None = Field(None, description="llmengine: how the weights are quantized.")
    checkpoint_path: str | None = Field(None, description="llmengine: where the weights are.")


_IMAGE = frozenset(
    {
        "command",
        "predict_route",
        "healthcheck_route",
        "readiness_delay",
        "streaming_command",
        "streaming_predict_route",
        "request_schema",
        "response_schema",
    }
)
_INFRA = frozenset({"storage", "gpu_type", "endpoint_type", "high_priority", "labels", "public_inference"})
_LLM = frozenset(
    {
        "inference_framework",
        "inference_framework_image_tag",
        "num_shards",
        "nodes_per_worker",
        "quantize",
        "checkpoint_path",
    }
)


class ScaleV5Client(ServingClient):
    """Models of the V5 API. The id of a deployment is the model's."""

    provider: ClassVar[str] = "scale"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CREATE,
            Capability.UPDATE,
            Capability.DELETE,
            Capability.LIST,
            Capability.SCALE,
            Capability.SCALE_TO_ZERO,
            Capability.WAKE,
            Capability.PROMOTE,
            Capability.ROLL_BACK,
            Capability.PREDICT,
        }
    )

    def __init__(self, transport: Transport, base_url: str) -> None:
        self._transport, self._base_url = transport, base_url

    async def get(self, deployment_id: str) -> Deployment:
        """Return one model. Raises NotFound."""
        return self._translated(await self._get(deployment_id))

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return all models, or those that were created for `model`, or have this name or id."""
        found = [self._translated(one) async for one in self._items()]
        return [one for one in found if model in (None, one.model_id, one.name, one.id)]

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a model, or return the one that this very spec has created before.

        `source` is the image, as `registry/repository:tag`, or for llmengine the name of the model. Names are unique at
        the vendor's: who is refused because somebody else has just created the same gets that one.

        Raises:
            Conflict: The name is taken by something else.
            InvalidInput: A value that V5 cannot take; names the field.
        """
        body = _new_model(spec)

        async def look_up() -> dict[str, Any] | None:
            async for one in self._items(name=spec.name, model_vendor=body["model_vendor"]):
                if _mark(one).get("spec") != digest(spec):
                    text = f"{spec.name!r} exists ({one.get('id')}) and was created otherwise; choose another name"
                    raise Conflict(self.provider, "POST /v5/models", Problem(text, code="name_taken"))
                return one
            return None

        async def create() -> dict[str, Any]:
            return dict(await self._transport.call("POST", "/v5/models", json=body))

        existing = await look_up()
        if existing is not None:
            return self._translated(existing)
        return self._translated(await create_once(create, lambda: patiently(look_up), taken=(409,)))

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Redeploy a model with other settings, asynchronously. Raises Conflict while it is deploying."""
        now = await self._get(deployment_id)
        labels = given(version=update.version, environment=update.environment)
        if labels:
            await self._write_mark(now, labels)
        options = checked(V5Options, "options", update.options or {})
        vendor = str(now.get("model_vendor"))
        if "model_vendor" in options.model_fields_set and options.model_vendor != vendor:
            raise InvalidInput("options.model_vendor", options.model_vendor, f"this model's is {vendor} for good")
        changed = _configuration(vendor, update, options)
        return await self._reconfigure(deployment_id, changed) if changed else await self.get(deployment_id)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change the bounds of the workers or the requests per worker; fields left at None stay."""
        vendor = str((await self._get(deployment_id)).get("model_vendor"))
        return await self._reconfigure(deployment_id, _placed(vendor, workers(autoscaling)))

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Set min_workers to 0: idle workers go away and the next request wakes one."""
        now = await self._get(deployment_id)
        least = (autoscaling_of(_infra(now)) or Autoscaling()).min_replicas or 0
        # The mark goes first: while a model is deploying the vendor takes no change. It means nothing above zero.
        if least or "woken_min_workers" not in _mark(now):
            await self._write_mark(now, {"woken_min_workers": least})
        return await self._reconfigure(deployment_id, _placed(str(now.get("model_vendor")), {"min_workers": 0}))

    async def wake(self, deployment_id: str) -> Deployment:
        """Set min_workers back to what it was, at least 1."""
        now = await self._get(deployment_id)
        former = _mark(now).get("woken_min_workers")
        least = max(1, former if isinstance(former, int) else 1)
        return await self._reconfigure(deployment_id, _placed(str(now.get("model_vendor")), {"min_workers": least}))

    async def delete(self, deployment_id: str) -> None:
        """Delete a model for good. One that is gone is no error; while it is deploying the vendor refuses."""
        try:
            await self._transport.call("DELETE", at("v5", "models", deployment_id))
        except NotFound:
            return

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request; `payload` is the model's own (`args`), and so is what comes back."""
        if path is not None:
            raise InvalidInput("path", path, "V5 has one way to infer; leave it out")
        if not isinstance(payload, Mapping):
            raise InvalidInput("payload", type(payload).__name__, "Scale takes a JSON object")
        now = await self._get(deployment_id)
        body = {"model": f"{now.get('model_vendor')}/{now.get('name')}", "args": dict(payload)}
        answer = await self._transport.call("POST", "/v5/inference", json=body, timeout=PREDICT_TIMEOUT_SECONDS)
        return answer["response"]

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """None: the vendor tells nobody when the last request was."""
        return None

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Give the name `<model>-<environment>` to this model; who has it gets this one's in exchange.

        Doing it twice changes nothing: a model that has the name keeps it.
        """
        now = await self._get(deployment_id)
        name = f"{_model_of(now)}-{environment}"
        if now.get("name") == name:
            return self._translated(now)
        holder = [one async for one in self._items(name=name, model_vendor=now.get("model_vendor"))]
        if holder:
            now = await self._write_mark(now, {"former": holder[0]["id"]})
        return await self._rename(deployment_id, name)

    async def roll_back(self, deployment_id: str, *, environment: str) -> Deployment:
        """Give the name back to the model that had it before this one, and return that.

        Raises:
            NotFound: This model was not promoted over another one.
        """
        now = await self._get(deployment_id)
        name, former = f"{_model_of(now)}-{environment}", _mark(now).get("former")
        if not isinstance(former, str):
            text = f"{deployment_id} has taken no name from another model"
            raise NotFound(self.provider, "PATCH /v5/models", Problem(text, code="no_former"))
        if now.get("name") != name:
            return await self.get(former)
        return await self._rename(former, name)

    # --- how ------------------------------------------------------------------------------------------------------

    async def _get(self, model_id: str) -> dict[str, Any]:
        return dict(await self._transport.call("GET", at("v5", "models", model_id)))

    async def _items(self, limit: int = PAGE, **query: Any) -> AsyncIterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            asked = given(limit=limit, **query, starting_after=cursor)
            answer = await self._transport.call("GET", "/v5/models", params=asked)
            found = answer.get("items") or []
            for one in found:
                yield one
            if not found or not answer.get("has_more") or found[-1].get("id") == cursor:
                return
            cursor = found[-1].get("id")

    async def _patch(self, model_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        # Final values, and a swap to a name that it has already is none: twice is the same as once.
        return dict(await self._transport.call("PATCH", at("v5", "models", model_id), json=body, idempotent=True))

    async def _rename(self, model_id: str, name: str) -> Deployment:
        return self._translated(await self._patch(model_id, {"name": name, "on_conflict": "swap"}))

    async def _reconfigure(self, model_id: str, changed: Mapping[str, Any]) -> Deployment:
        """Send the whole part that changes: whether the vendor merges below it is unknown."""
        now = (await self._get(model_id)).get("vendor_configuration") or {}
        whole = {part: {**(now.get(part) or {}), **value} for part, value in changed.items() if part in _PARTS}
        whole |= {name: value for name, value in changed.items() if name not in _PARTS}
        return self._translated(await self._patch(model_id, {"vendor_configuration": whole}))

    async def _write_mark(self, now: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
        mark = {name: value for name, value in {**_mark(now), **changed}.items() if value is not None}
        metadata = {**(now.get("model_metadata") or {}), MARK: mark}
        return await self._patch(str(now["id"]), {"model_metadata": metadata})

    def _translated(self, answer: Mapping[str, Any]) -> Deployment:
        word, mark, infra = str(answer.get("status", "")), _mark(answer), _infra(answer)
        status = STATUSES.get(word.lower(), DeploymentStatus.UNKNOWN)
        autoscaling = autoscaling_of(infra)
        if status is DeploymentStatus.READY:
            if "woken_min_workers" in mark and autoscaling is not None and not autoscaling.min_replicas:
                status = DeploymentStatus.SCALED_TO_ZERO
            elif answer.get("model_availability") == "unavailable":
                status = DeploymentStatus.DEGRADED
        return Deployment.model_validate(
            {
                "provider": self.provider,
                "id": str(answer.get("id", "")),
                "name": str(answer.get("name", "")),
                "model_id": _model_of(answer),
                "version": mark.get("version"),
                "environment": mark.get("environment"),
                "tags": tags_of(infra.get("labels")),
                "status": status,
                "provider_status": word,
                "reason": answer.get("status_reason"),
                "ready": status is DeploymentStatus.READY,
                "autoscaling": autoscaling,
                "resources": resources_of(infra),
                "endpoint_url": f"{self._base_url}/v5/inference",
                "created_at": answer.get("created_at"),
                "created_by": answer.get("created_by_user_id"),
                "raw": dict(answer),
            }
        )


_PARTS = ("model_image", "model_infra")


def _mark(answer: Mapping[str, Any]) -> dict[str, Any]:
    mark = (answer.get("model_metadata") or {}).get(MARK)
    return dict(mark) if isinstance(mark, Mapping) else {}


def _model_of(answer: Mapping[str, Any]) -> str:
    return str(_mark(answer).get("model") or answer.get("name") or "")


def _infra(answer: Mapping[str, Any]) -> dict[str, Any]:
    configuration = answer.get("vendor_configuration") or {}
    return dict(configuration.get("model_infra") or configuration)


def _placed(vendor: str, infra: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the workers where the vendor wants them."""
    return {"model_infra": dict(infra)} if vendor == "launch" and infra else dict(infra)


def _new_model(spec: DeploymentSpec) -> dict[str, Any]:
    options = checked(V5Options, "options", spec.options)
    configuration = _configuration(options.model_vendor, spec, options)
    if options.model_vendor == "launch":
        if not spec.source or not options.command:
            field = "options.command" if spec.source else "source"
            raise InvalidInput(field, None, "a launch model needs source='registry/repository:tag' and options.command")
        configuration.setdefault("model_infra", {})
    elif not spec.source:
        raise InvalidInput("source", None, "an llmengine model needs the name of the model that it serves")
    mark = {"version": spec.version, "environment": spec.environment, "model": spec.model, "spec": digest(spec)}
    return {
        "name": spec.name,
        "model_vendor": options.model_vendor,
        "vendor_configuration": configuration,
        "model_metadata": {**(options.model_metadata or {}), MARK: mark},
        "on_conflict": "error",
    }


def _configuration(vendor: str, wanted: DeploymentSpec | DeploymentUpdate, options: V5Options) -> dict[str, Any]:
    """The vendor_configuration of a spec, or the parts of it that an update changes."""
    named = options.model_dump(exclude_unset=True, exclude_none=True)
    alien = (_LLM if vendor == "launch" else _IMAGE) & set(named)
    if alien:
        field = sorted(alien)[0]
        raise InvalidInput(f"options.{field}", named[field], f"{vendor} has no such setting")
    infra = {name: named[name] for name in _INFRA if name in named}
    infra |= workers(wanted.autoscaling) | size(wanted.resources, "LLMENGINE")
    if vendor != "launch":
        if wanted.env:
            raise InvalidInput("env", sorted(wanted.env), "llmengine takes no environment variables")
        model = {"model": wanted.source} if wanted.source else {}
        return {**model, **infra, **{name: named[name] for name in _LLM if name in named}}
    image = {name: named[name] for name in _IMAGE if name in named}
    if wanted.source:
        image |= _image(wanted.source)
    if wanted.env:
        image["env_vars"] = dict(wanted.env)
    return {**({"model_image": image} if image else {}), **({"model_infra": infra} if infra else {})}


def _image(source: str) -> dict[str, str]:
    name, colon, tag = source.rpartition(":")
    registry, slash, repository = name.partition("/")
    if not (colon and slash and registry and repository and tag) or "/" in tag:
        raise InvalidInput("source", source, "must be an image, as registry/repository:tag")
    return {"registry": registry, "repository": repository, "tag": tag}
