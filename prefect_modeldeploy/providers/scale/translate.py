"""Between the vendor's words and ours."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    Resources,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.scale.schemas import (
    CONFIGURATIONS,
    NewDeployment,
    Request,
    ScaleDeployment,
    checked,
)
from prefect_modeldeploy.providers.scale.wire import at

STATUSES = {
    "READY": DeploymentStatus.READY,
    "UPDATE_PENDING": DeploymentStatus.PENDING,
    "UPDATE_IN_PROGRESS": DeploymentStatus.UPDATING,
    "UPDATE_FAILED": DeploymentStatus.FAILED,
    "DELETE_IN_PROGRESS": DeploymentStatus.STOPPING,
}

MARK = "modeldeploy"
"""Our key in `deployment_metadata`: version, environment, digest of the spec, and how a sleeping one is woken."""

_GI = 1024


class ScaleOptions(Request):
    """`DeploymentSpec.options` of Scale: the fields that only this vendor has."""

    vendor: Literal["LAUNCH", "LLMENGINE"] = Field("LAUNCH", description="Who runs the workers.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As the template's schema asks.")
    deployment_metadata: dict[str, Any] | None = Field(None, description="Anything but the key `modeldeploy`.")
    storage: str | None = Field(None, description="LLMENGINE: disk per worker, a Kubernetes quantity.")
    high_priority: bool | None = Field(None, description="LLMENGINE: whether it is scheduled before others.")
    num_shards: int | None = Field(None, ge=1, description="LLMENGINE: into how many parts the model is cut.")
    checkpoint_path: str | None = Field(None, description="LLMENGINE: where the weights are.")
    model_name: str | None = Field(None, description="LLMENGINE: name of the model.")
    base_model_name: str | None = Field(None, description="LLMENGINE: name of the model that it was tuned from.")
    inference_framework_image_tag: str | None = Field(None, description="LLMENGINE: tag of the server's image.")


_OF_LLMENGINE = frozenset(ScaleOptions.model_fields) - {"vendor", "model_creation_parameters", "deployment_metadata"}


def deployment_id(model_id: str | None, own_id: str) -> str:
    """Our id of a deployment: `<model id>/<deployment id>`, since the vendor's paths need both."""
    return f"{model_id or '-'}/{own_id}"


def split_id(deployment_id: str) -> tuple[str, str]:
    """The model's id and the deployment's own. Raises InvalidInput for anything but `Deployment.id`."""
    model_id, slash, own_id = deployment_id.partition("/")
    if not (model_id and slash and own_id) or "/" in own_id:
        raise InvalidInput("deployment_id", deployment_id, 'must be "<model id>/<deployment id>", as Deployment.id is')
    return model_id, own_id


def mark_of(raw: ScaleDeployment) -> dict[str, Any]:
    """What we wrote into the deployment's metadata; empty for deployments of others."""
    mark = (raw.deployment_metadata or {}).get(MARK)
    return dict(mark) if isinstance(mark, Mapping) else {}


def to_deployment(answer: Any, base_url: str, model_id: str | None = None) -> Deployment:
    """Translate the vendor's deployment; unknown words become UNKNOWN and are kept.

    It is SCALED_TO_ZERO when we let go of its workers: the vendor does not say how many there are.
    """
    raw = ScaleDeployment.read(answer)
    mark = mark_of(raw)
    status = STATUSES.get(raw.status.upper(), DeploymentStatus.UNKNOWN)
    autoscaling = autoscaling_of(raw.vendor_configuration)
    asleep = "woken_min_workers" in mark and autoscaling is not None and not autoscaling.min_replicas
    if status is DeploymentStatus.READY and asleep:
        status = DeploymentStatus.SCALED_TO_ZERO
    model = raw.model_instance_id or model_id
    path = at("v4", "models", model or "-", "deployments", raw.id, "execute")
    return Deployment(
        provider="scale",
        id=deployment_id(model, raw.id),
        name=raw.name,
        model_id=model or "",
        version=_text(mark.get("version")),
        environment=_text(mark.get("environment")),
        status=status,
        provider_status=raw.status,
        reason=_text(raw.raw.get("status_reason")),
        ready=status is DeploymentStatus.READY,
        autoscaling=autoscaling,
        resources=resources_of(raw.vendor_configuration),
        endpoint_url=base_url + path,
        created_at=raw.created_at,
        created_by=raw.created_by_user_id or None,
        raw=raw.raw,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(value: Any, least: int) -> int | None:
    return value if isinstance(value, int) and value >= least else None


def autoscaling_of(configuration: Mapping[str, Any] | None) -> Autoscaling | None:
    """Workers as replicas; a bound that makes no sense is left out."""
    if configuration is None:
        return None
    least, most = _whole(configuration.get("min_workers"), 0), _whole(configuration.get("max_workers"), 1)
    if least is not None and most is not None and least > most:
        most = None
    target = _whole(configuration.get("per_worker"), 1)
    return Autoscaling(min_replicas=least, max_replicas=most, target_concurrency=target)


def resources_of(configuration: Mapping[str, Any] | None) -> Resources | None:
    """Size of a worker; None where the template decides."""
    if not configuration or not {"cpus", "memory", "gpus"} & set(configuration):
        return None
    cpus = _whole(configuration.get("cpus"), 1)
    gpu_type = configuration.get("gpu_type")
    return Resources(
        cpu_millicores=cpus * 1000 if cpus else None,
        memory_mib=_mib(configuration.get("memory")),
        gpu_type=gpu_type if isinstance(gpu_type, str) else None,
        gpu_count=_whole(configuration.get("gpus"), 0),
    )


def _mib(quantity: Any) -> int | None:
    text = str(quantity)
    for suffix, mib in (("Gi", 1024), ("Mi", 1), ("Ti", 1024 * 1024)):
        number = text.removesuffix(suffix)
        if number != text and number.isdecimal() and int(number):
            return int(number) * mib
    return None


def workers(autoscaling: Autoscaling | None) -> dict[str, Any]:
    """Our autoscaling in the vendor's fields. Raises InvalidInput for what it does not have."""
    if autoscaling is None:
        return {}
    for name in ("scale_down_delay_seconds", "window_seconds"):
        if (value := getattr(autoscaling, name)) is not None:
            raise InvalidInput(f"autoscaling.{name}", value, "Scale has no such setting; leave it at None")
    named = (
        ("min_workers", autoscaling.min_replicas),
        ("max_workers", autoscaling.max_replicas),
        ("per_worker", autoscaling.target_concurrency),
    )
    return {name: value for name, value in named if value is not None}


def size(resources: Resources | None, vendor: str) -> dict[str, Any]:
    """Our resources in the vendor's fields. Raises InvalidInput for what it does not have."""
    if resources is None or resources == Resources():
        return {}
    if vendor != "LLMENGINE":
        hint = "a LAUNCH deployment gets the size of its template; leave it out, or use vendor LLMENGINE"
        raise InvalidInput("resources", resources.model_dump(exclude_none=True), hint)
    if resources.instance_type is not None:
        raise InvalidInput("resources.instance_type", resources.instance_type, "Scale has none; give CPU and memory")
    cpus, memory = resources.cpu_millicores, resources.memory_mib
    if cpus is not None and cpus % 1000:
        raise InvalidInput("resources.cpu_millicores", cpus, "Scale takes whole CPUs: a multiple of 1000")
    named = (
        ("cpus", cpus // 1000 if cpus is not None else None),
        ("memory", None if memory is None else f"{memory // _GI}Gi" if memory % _GI == 0 else f"{memory}Mi"),
        ("gpus", resources.gpu_count),
        ("gpu_type", resources.gpu_type),
    )
    return {name: value for name, value in named if value is not None}


def options_of(options: Mapping[str, Any], vendor: str | None = None) -> ScaleOptions:
    """Check the options of a deployment of this vendor (None: the one they name); raises InvalidInput."""
    found = checked(ScaleOptions, "options", options)
    if MARK in (found.deployment_metadata or {}):
        raise InvalidInput(f"options.deployment_metadata.{MARK}", "...", "is ours; choose another key")
    if (vendor or found.vendor) == "LAUNCH" and (alien := sorted(_OF_LLMENGINE & found.model_fields_set)):
        raise InvalidInput(f"options.{alien[0]}", options[alien[0]], "only deployments of the vendor LLMENGINE have it")
    return found


def refuse(spec: Any) -> None:
    """Raise InvalidInput for the fields of a spec or an update that V4 has no place for."""
    for name, hint in (
        ("source", "a V4 deployment serves its model's template: create a template and a model, or set api to v5"),
        ("env", "environment variables belong to the model's template (bundle_config.env)"),
    ):
        if value := getattr(spec, name):
            raise InvalidInput(name, sorted(value) if name == "env" else value, hint)  # never its values


def to_request(spec: DeploymentSpec, account_id: str | None, call: str) -> NewDeployment:
    """The vendor's request for our spec, with our mark. Raises InvalidInput that names the field.

    Args:
        spec: What to deploy.
        account_id: Account that shall own it.
        call: Random; tells what this very call has created.
    """
    refuse(spec)
    options = options_of(spec.options)
    configuration: dict[str, Any] = {**workers(spec.autoscaling), **size(spec.resources, options.vendor)}
    configuration |= options.model_dump(include=set(_OF_LLMENGINE), exclude_unset=True, exclude_none=True)
    if configuration or options.vendor != "LAUNCH":
        configuration["vendor"] = options.vendor
        checked(CONFIGURATIONS[options.vendor], "options", configuration)
    mark = {"version": spec.version, "environment": spec.environment, "spec": digest(spec), "call": call}
    return checked(
        NewDeployment,
        "spec",
        {
            "name": spec.name,
            "deployment_metadata": {**(options.deployment_metadata or {}), MARK: mark},
            "wait_for_ready": False,
            **({"account_id": account_id} if account_id else {}),
            **({"vendor_configuration": configuration} if configuration else {}),
            **(
                {"model_creation_parameters": options.model_creation_parameters}
                if options.model_creation_parameters is not None
                else {}
            ),
        },
    )


def digest(spec: DeploymentSpec) -> str:
    """Tells whether a deployment was created from this very spec."""
    return hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def whole_configuration(now: ScaleDeployment, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The whole vendor configuration with the changes, or nothing when nothing changes."""
    if not changed:
        return {}
    current = {name: value for name, value in (now.vendor_configuration or {}).items() if value is not None}
    whole = {"vendor": "LAUNCH", **current, **changed}
    known = CONFIGURATIONS.get(str(whole["vendor"]))
    if known is not None:
        checked(known, "vendor_configuration", {name: whole[name] for name in whole if name in known.model_fields})
    least, most = whole.get("min_workers"), whole.get("max_workers")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        raise InvalidInput("autoscaling.min_replicas", least, f"is above max_replicas={most}; raise that too")
    return {"vendor_configuration": whole}


def whole_metadata(now: ScaleDeployment, changed: Mapping[str, Any], marks: Mapping[str, Any]) -> dict[str, Any]:
    """The whole metadata with the changes; a mark of None is removed. Nothing when nothing changes."""
    if not changed and not marks:
        return {}
    mark = {name: value for name, value in {**mark_of(now), **marks}.items() if value is not None}
    return {"deployment_metadata": {**(now.deployment_metadata or {}), **changed, MARK: mark}}
