"""Our vocabulary and Foundry's runtime configuration, both ways.

| ours                             | Foundry's                                                                        |
|----------------------------------|----------------------------------------------------------------------------------|
| min_replicas, max_replicas       | minReplicas, maxReplicas (both required; 1 and 1 when nothing is said)           |
| target_concurrency               | scaleUpLoadThreshold x threadCount: what the autoscaler aims at per replica      |
| scale_down_delay_seconds         | scaleDownDelay                                                                   |
| window_seconds                   | scaleUpDelay: how long load must last until a replica is added                   |
| cpu_millicores, memory_mib       | cpu (cores), memory ("256MiB")                                                   |
| gpu_type, gpu_count              | gpu {type, count}; a count of 0 takes the GPU away                               |
| env                              | environmentVariables                                                             |
| options.thread_count, .sources   | threadCount, sources (these may change only while the deployment is stopped)     |
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, Resources
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.foundry.types import (
    DEFAULT_THREADS,
    SECONDS_OF,
    Duration,
    Gpu,
    Rid,
    RuntimeConfiguration,
    ScalingConfiguration,
    checked,
)

MARKER = "MODELDEPLOY_"
NAME_MARKER, SPEC_MARKER, CALL_MARKER = f"{MARKER}NAME", f"{MARKER}SPEC", f"{MARKER}CALL"
"""Environment variables that hold the deployment's name, a digest of the spec it was created from, and which call has
created it: when, by the caller's clock, and a word of its own."""

_BYTES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40
}  # fmt: skip


class Options(BaseModel):
    """What only Foundry has: `DeploymentSpec.options`, `DeploymentUpdate.options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    branch: str | None = Field(None, min_length=1, description="Branch to track. None: that of the environment.")
    thread_count: int | None = Field(None, ge=1, description="Requests that a replica works on at once; default 32.")
    sources: list[Rid] | None = Field(None, description="RIDs of connections; changed only while stopped.")


def configured(
    current: Mapping[str, Any],
    *,
    autoscaling: Autoscaling | None = None,
    resources: Resources | None = None,
    env: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """The whole runtime configuration with the changes made; what is not ours to change stays, unknown fields too.

    Raises:
        InvalidInput: Names the field.
    """
    options = options or Options()
    config = {name: value for name, value in current.items() if value is not None}
    config["sources"] = list(config.get("sources") or []) if options.sources is None else list(options.sources)
    kept = dict(config.get("environmentVariables") or {})
    if env is not None:
        kept = {**_environment(env), **{name: value for name, value in kept.items() if name.startswith(MARKER)}}
    config["environmentVariables"] = kept
    if options.thread_count is not None:
        config["threadCount"] = options.thread_count
    _resize(config, resources or Resources())
    _rescale(config, autoscaling or Autoscaling())
    return config


def created(spec: DeploymentSpec, options: Options) -> RuntimeConfiguration:
    """The runtime configuration of a new deployment, with its name and the digest of its spec.

    Raises:
        InvalidInput: Names the field.
    """
    config = configured({}, autoscaling=spec.autoscaling, resources=spec.resources, env=spec.env, options=options)
    config["environmentVariables"] |= {NAME_MARKER: spec.name, SPEC_MARKER: digest(spec)}
    return checked(RuntimeConfiguration, "runtimeConfiguration", config)


def called(runtime: RuntimeConfiguration, call: str) -> RuntimeConfiguration:
    """The same with the mark of a call, which is made now."""
    mark = {CALL_MARKER: f"{datetime.now(UTC).isoformat()} {call}"}
    return runtime.model_copy(update={"environment_variables": {**runtime.environment_variables, **mark}})


def digest(spec: DeploymentSpec) -> str:
    """Tells one spec from another."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    for name in env:
        if not name or "=" in name or "\0" in name:
            raise InvalidInput("env", name, "must be the name of an environment variable")
        if name.startswith(MARKER):
            raise InvalidInput("env", name, f"names that start with {MARKER} are taken; rename it")
    return dict(env)


def _resize(config: dict[str, Any], resources: Resources) -> None:
    if resources.instance_type is not None:
        hint = "Foundry has no instance types; use cpu_millicores, memory_mib, gpu_type, gpu_count"
        raise InvalidInput("resources.instance_type", resources.instance_type, hint)
    if resources.cpu_millicores is not None:
        config["cpu"] = resources.cpu_millicores / 1000
    if resources.memory_mib is not None:
        config["memory"] = f"{resources.memory_mib}MiB"
    if resources.gpu_count == 0:
        if resources.gpu_type is not None:
            raise InvalidInput("resources.gpu_count", 0, f"must be 1 or more for gpu_type={resources.gpu_type!r}")
        config.pop("gpu", None)
    elif resources.gpu_count is not None or resources.gpu_type is not None:
        gpu = dict(config.get("gpu") or {})
        gpu["count"] = resources.gpu_count or gpu.get("count", 1)
        if resources.gpu_type is not None:
            gpu["type"] = checked(Gpu, "resources.gpu", {"count": 1, "type": resources.gpu_type}).type
        config["gpu"] = gpu


def _rescale(config: dict[str, Any], wanted: Autoscaling) -> None:
    least = config["minReplicas"] = _first(wanted.min_replicas, config.get("minReplicas"), 1)
    most = config["maxReplicas"] = _first(wanted.max_replicas, config.get("maxReplicas"), max(1, least))
    if least > most:
        given = ("min_replicas", least) if wanted.min_replicas is not None else ("max_replicas", most)
        raise InvalidInput(f"autoscaling.{given[0]}", given[1], f"min_replicas {least} is above max_replicas {most}")
    if (wanted.target_concurrency, wanted.scale_down_delay_seconds, wanted.window_seconds) == (None, None, None):
        return
    found = config.get("scalingConfiguration")
    scaling = dict(found) if found else ScalingConfiguration().wire()
    if wanted.target_concurrency is not None:
        threads = _first(config.get("threadCount"), DEFAULT_THREADS)
        if wanted.target_concurrency > threads:
            hint = f"a replica has {threads} threads; raise options.thread_count"
            raise InvalidInput("autoscaling.target_concurrency", wanted.target_concurrency, hint)
        scaling["scaleUpLoadThreshold"] = wanted.target_concurrency / threads
    if wanted.window_seconds is not None:
        scaling["scaleUpDelay"] = Duration.of(wanted.window_seconds).wire()
    if wanted.scale_down_delay_seconds is not None:
        scaling["scaleDownDelay"] = Duration.of(wanted.scale_down_delay_seconds).wire()
    up, down = _seconds(scaling.get("scaleUpDelay")), _seconds(scaling.get("scaleDownDelay"))
    if up is not None and down is not None and up > down:
        if found or wanted.window_seconds is not None:
            hint = f"must not be below the scale-up delay of {up:g} s; lower autoscaling.window_seconds too"
            raise InvalidInput("autoscaling.scale_down_delay_seconds", down, hint)
        scaling["scaleUpDelay"] = scaling["scaleDownDelay"]  # only our default was above
    config["scalingConfiguration"] = scaling


def read_autoscaling(config: Mapping[str, Any]) -> Autoscaling | None:
    """What of a runtime configuration can be said in our words; None when it makes no sense."""
    scaling = config.get("scalingConfiguration")
    scaling = scaling if isinstance(scaling, Mapping) else {}
    threshold, threads = _number(scaling.get("scaleUpLoadThreshold")), _count(config.get("threadCount"))
    target = max(1, round(threshold * (threads or DEFAULT_THREADS))) if threshold is not None else None
    try:
        return Autoscaling(
            min_replicas=_count(config.get("minReplicas")),
            max_replicas=_count(config.get("maxReplicas")),
            target_concurrency=target,
            scale_down_delay_seconds=_seconds(scaling.get("scaleDownDelay")),
            window_seconds=_seconds(scaling.get("scaleUpDelay")) or None,
        )
    except ValueError:
        return None


def read_resources(config: Mapping[str, Any]) -> Resources:
    """What one replica gets; what cannot be read is None."""
    gpu = config.get("gpu")
    gpu = gpu if isinstance(gpu, Mapping) else {}
    cpu, count = _number(config.get("cpu")), _count(gpu.get("count"))
    kind = gpu.get("type")
    return Resources(
        cpu_millicores=round(cpu * 1000) or None if cpu and cpu > 0 else None,
        memory_mib=memory_mib(config.get("memory")),
        gpu_type=kind if isinstance(kind, str) else None,
        gpu_count=count if count is not None and count >= 0 else None,
    )


def memory_mib(text: object) -> int | None:
    """MiB of Foundry's `256MiB`, `1GiB` and so on; None when that cannot be read, or is less than one."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B?|B)?\s*", text) if isinstance(text, str) else None
    if not found:
        return None
    unit = found[2] or "B"
    factor = _BYTES[unit if unit.endswith("B") else f"{unit}B"]
    return int(float(found[1]) * factor / 2**20) or None


def _seconds(duration: object) -> float | None:
    if not isinstance(duration, Mapping):
        return None
    value, factor = _number(duration.get("value")), SECONDS_OF.get(str(duration.get("unit")))
    return value * factor if value is not None and factor is not None and value >= 0 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        return None
    return float(value)


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None else None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
