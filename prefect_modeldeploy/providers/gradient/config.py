"""Our words to a Deployment Spec and back. Every change is made on a copy of the whole spec, so that no field is lost.

Gradient knows no models, versions or roles: ours are kept in environment variables of the deployment.

| variable                     | meaning                                                       |
|------------------------------|---------------------------------------------------------------|
| MODELDEPLOY_MODEL            | the model                                                     |
| MODELDEPLOY_VERSION          | its version                                                   |
| MODELDEPLOY_ENVIRONMENT      | the role, such as production                                  |
| MODELDEPLOY_ROLLED_BACK_FROM | id of the spec version that a roll-back has left              |

A deployment that somebody else made has none of them: its model is its name, its version the image's tag.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.gradient.spec import Api, Config, check, is_v0

MODEL = "MODELDEPLOY_MODEL"
VERSION = "MODELDEPLOY_VERSION"
ENVIRONMENT = "MODELDEPLOY_ENVIRONMENT"
ROLLED_BACK_FROM = "MODELDEPLOY_ROLLED_BACK_FROM"
MARKERS = frozenset({MODEL, VERSION, ENVIRONMENT, ROLLED_BACK_FROM})

DEFAULT_METRICS = ({"metric": "cpu", "summary": "average", "value": 80},)
"""What the autoscaler aims at when only `max_replicas` is given: the vendor requires a metric and has no default."""

SERVED = (
    "image", "containerRegistry", "command", "env", "models", "repositories", "integrations", "healthChecks",
    "healthchecks", "port", "protocol",
)  # fmt: skip
"""What is served: moves with a promotion or a roll-back. `resources.ports` belongs to it. All else is how it runs."""

_OURS = {"name": "name", "image": "source", "env": "env"}


def new_config(spec: DeploymentSpec, api: Api) -> Config:
    """The spec of a new deployment.

    Raises:
        InvalidInput: A field is missing, out of bounds, or one that Gradient does not have.
    """
    if not spec.source:
        raise InvalidInput("spec.source", spec.source, "give the container image")
    config: Config = {"name": spec.name, "image": spec.source}
    if api == "rest":
        config["apiVersion"] = spec.options.get("apiVersion", "v1")
    _take_options(config, spec.options, "spec.options")
    _take_resources(config, spec.resources, "spec.resources")
    resources = config.setdefault("resources", {})
    if not is_v0(config) and api == "rest" and "ports" not in resources:
        raise InvalidInput("spec.options.resources.ports", None, "give the container's ports, such as [8000]")
    machine = "instanceType" if api == "graphql" or is_v0(config) else "machineType"
    if machine not in resources:
        raise InvalidInput("spec.resources.instance_type", None, "give the machine's type, such as C4 or A100")
    resources.setdefault("replicas", 1)
    if spec.autoscaling:
        config = scaled(config, spec.autoscaling, field="spec.autoscaling")
    set_env(config, spec.env)
    set_env(config, {MODEL: spec.model, VERSION: spec.version, ENVIRONMENT: spec.environment})
    return check(config, api)


def changed(config: Config, update: DeploymentUpdate) -> Config:
    """The spec with an update; `env` replaces all variables but the markers, `options` replace whole fields."""
    config = deepcopy(config)
    if update.source is not None:
        config["image"] = update.source
    if update.options is not None:
        _take_options(config, update.options, "update.options")
    _take_resources(config, update.resources, "update.resources")
    if update.env is not None:
        kept = {name: value for name, value in env_of(config).items() if name in MARKERS}
        config["env"] = []
        set_env(config, {**update.env, **kept})
    set_env(config, {VERSION: update.version, ENVIRONMENT: update.environment}, keep_none=True)
    if update.source is not None or update.version is not None:
        set_env(config, {ROLLED_BACK_FROM: None})
    return scaled(config, update.autoscaling, field="update.autoscaling") if update.autoscaling else config


def scaled(config: Config, autoscaling: Autoscaling, *, field: str = "autoscaling") -> Config:
    """The spec with other replicas; settings left at None stay.

    Raises:
        InvalidInput: A setting that Gradient does not have, or 0 replicas: nothing would wake the deployment.
    """
    config = deepcopy(config)
    for name in ("target_concurrency", "scale_down_delay_seconds", "window_seconds"):
        if (value := getattr(autoscaling, name)) is not None:
            hint = "Gradient scales by options.resources.autoscaling.metrics (cpu, memory, requestDuration)"
            raise InvalidInput(f"{field}.{name}", value, f"Gradient has no such setting; {hint}")
    if autoscaling.min_replicas == 0:
        raise InvalidInput(f"{field}.min_replicas", 0, "nothing would wake it again; use stop, and start later")
    resources = config.setdefault("resources", {})
    if autoscaling.min_replicas is not None:
        resources["replicas"] = autoscaling.min_replicas
    least = resources.get("replicas")
    least = 1 if least is None else least
    known = resources.get("autoscaling")
    if autoscaling.max_replicas is not None:
        if autoscaling.max_replicas < least:
            raise InvalidInput(f"{field}.max_replicas", autoscaling.max_replicas, f"is below the {least} replicas")
        if autoscaling.max_replicas > least:
            resources["autoscaling"] = {
                "metrics": [dict(metric) for metric in DEFAULT_METRICS],
                **(known or {}),
                "enabled": True,
                "maxReplicas": autoscaling.max_replicas,
            }
        elif known:
            resources["autoscaling"] = {**known, "enabled": False}
    elif known and known.get("enabled") is not False and least > known.get("maxReplicas", least):
        raise InvalidInput(f"{field}.min_replicas", least, f"is above maxReplicas={known['maxReplicas']}; raise both")
    return config


def stopped(config: Config) -> Config:
    """The spec, disabled; `replicas` stays, for `started`."""
    return {**deepcopy(config), "enabled": False}


def started(config: Config) -> Config:
    """The spec, enabled, with at least one replica (2021's way to stop was `replicas: 0`)."""
    config = {**deepcopy(config), "enabled": True}
    resources = config.setdefault("resources", {})
    if resources.get("replicas") == 0:
        resources["replicas"] = 1
    return config


def serving(config: Config, source: Config) -> Config:
    """`config` serving what `source` serves: how it runs (name, machine, replicas, region, key) and its role stay.

    Raises:
        InvalidInput: The two are of different dialects.
    """
    if is_v0(config) != is_v0(source):
        raise InvalidInput("apiVersion", source.get("apiVersion"), f"differs from {config.get('apiVersion')!r}")
    result, source = deepcopy(config), deepcopy(source)
    role = env_of(config).get(ENVIRONMENT)
    for field in SERVED:
        result.pop(field, None)
        if source.get(field) is not None:
            result[field] = source[field]
    if "ports" in source.get("resources", {}):
        result.setdefault("resources", {})["ports"] = source["resources"]["ports"]
    set_env(result, {ENVIRONMENT: role, ROLLED_BACK_FROM: None})
    return result


def same_service(one: Config, other: Config) -> bool:
    """Whether two specs serve the same, whatever their roles and machines."""
    return _service(one) == _service(other)


def holds(stored: Config | None, wanted: Config) -> bool:
    """Whether the vendor's spec has all that we sent; what it added (defaults) does not matter."""
    return stored is not None and _covers(stored, wanted)


def env_of(config: Config) -> dict[str, str]:
    """The environment variables."""
    variables = config.get("env")
    if not isinstance(variables, list):
        return {}
    return {str(v["name"]): str(v.get("value")) for v in variables if isinstance(v, dict) and "name" in v}


def set_env(config: Config, values: Mapping[str, str | None], *, keep_none: bool = False) -> None:
    """Set variables in place; None removes one, or keeps it as it is with `keep_none`."""
    values = {name: value for name, value in values.items() if value is not None or not keep_none}
    before = list(config.get("env") or [])
    after = [dict(v) for v in before if not (isinstance(v, dict) and v.get("name") in values)]
    after += [{"name": name, "value": value} for name, value in values.items() if value is not None]
    if sorted(map(repr, before)) == sorted(map(repr, after)):
        return
    config["env"] = after
    if not after:
        del config["env"]


def _service(config: Config) -> dict[str, Any]:
    found = {field: config[field] for field in SERVED if config.get(field) is not None and field != "env"}
    found["ports"] = (config.get("resources") or {}).get("ports")
    env = env_of(config)
    found["env"] = {name: value for name, value in env.items() if name not in (ENVIRONMENT, ROLLED_BACK_FROM)}
    return found


def _take_options(config: Config, options: Mapping[str, Any], field: str) -> None:
    for name, value in options.items():
        if name in _OURS:
            raise InvalidInput(f"{field}.{name}", "...", f"is set by {_OURS[name]}")
        if name == "resources" and isinstance(value, Mapping):
            config["resources"] = {**config.get("resources", {}), **deepcopy(dict(value))}
        elif value is None:
            config.pop(name, None)
        else:
            config[name] = deepcopy(value)


def _take_resources(config: Config, resources: Resources | None, field: str) -> None:
    if resources is None:
        return
    for name in ("cpu_millicores", "memory_mib", "gpu_type", "gpu_count"):
        if (value := getattr(resources, name)) is not None:
            raise InvalidInput(f"{field}.{name}", value, "Gradient rents whole machines: give instance_type")
    if resources.instance_type is not None:
        older = is_v0(config) or "apiVersion" not in config
        parts = config.setdefault("resources", {})
        parts["instanceType" if older else "machineType"] = resources.instance_type


def _covers(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(stored, dict) and all(_covers(stored.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(stored, list)
            and len(stored) == len(wanted)
            and all(_covers(one, other) for one, other in zip(stored, wanted, strict=True))
        )
    return bool(stored == wanted)
