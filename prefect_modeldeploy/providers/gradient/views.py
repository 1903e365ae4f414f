"""A deployment of the vendor's as ours."""

import re
from collections.abc import Sequence

from prefect_modeldeploy.deployments import Autoscaling, Deployment, Resources
from prefect_modeldeploy.providers.gradient.answers import Run, Stored, without_secrets
from prefect_modeldeploy.providers.gradient.config import ENVIRONMENT, MODEL, VERSION, env_of
from prefect_modeldeploy.providers.gradient.spec import Config
from prefect_modeldeploy.providers.gradient.states import GRACE_SECONDS, replicas_of, state_of

_LOOPBACK = re.compile(r"^(127\.[0-9.]+|localhost|\[::1\])(:[0-9]+)?(/|$)")


def deployment_of(stored: Stored, runs: Sequence[Run] | None, *, grace_seconds: float = GRACE_SECONDS) -> Deployment:
    """Translate; `raw` keeps the vendor's answer whole, but for passwords in clear.

    Args:
        stored: The vendor's deployment.
        runs: Its active runs; None when nobody asked.
        grace_seconds: How long an errored instance may still come up.
    """
    version = stored.latest_spec
    config = (version.data if version else None) or {}
    env = env_of(config)
    state = state_of(version, runs, grace_seconds=grace_seconds)
    raw = dict(without_secrets(stored.raw))
    if runs is not None:
        raw["runs"] = [run.model_dump(mode="json", by_alias=True) for run in runs]
    return Deployment(
        provider="gradient",
        id=stored.id,
        name=stored.name,
        model_id=env.get(MODEL) or stored.name,
        version=env.get(VERSION) or _tag(config.get("image")),
        environment=env.get(ENVIRONMENT),
        status=state.status,
        provider_status=state.word,
        reason=state.reason,
        ready=state.ready,
        replicas=replicas_of(version, runs),
        autoscaling=_autoscaling(config),
        resources=_resources(config),
        endpoint_url=endpoint_url(stored.endpoint),
        created_at=stored.dt_created,
        updated_at=version.external_applied if version else None,
        created_by=version.user_id if version else None,
        raw=raw,
    )


def endpoint_url(endpoint: str | None) -> str | None:
    """The vendor gives a host without a scheme, reached over https; only an emulator's is on this machine."""
    if not endpoint:
        return None
    if "://" in endpoint:
        return endpoint
    return f"{'http' if _LOOPBACK.match(endpoint) else 'https'}://{endpoint}"


def _tag(image: object) -> str | None:
    _, colon, tag = str(image or "").rpartition(":")
    return tag if colon and "/" not in tag else None


def _parts(config: Config) -> Config:
    resources = config.get("resources")
    return resources if isinstance(resources, dict) else {}


def _autoscaling(config: Config) -> Autoscaling | None:
    parts = _parts(config)
    scaling, least = parts.get("autoscaling"), parts.get("replicas")
    least = 1 if least is None else least
    if not isinstance(least, int) or least < 0:
        return None
    most = scaling.get("maxReplicas") if isinstance(scaling, dict) and scaling.get("enabled") is not False else least
    return Autoscaling(
        min_replicas=least, max_replicas=most if isinstance(most, int) and most >= max(least, 1) else None
    )


def _resources(config: Config) -> Resources | None:
    machine = _parts(config).get("machineType") or _parts(config).get("instanceType")
    return Resources(instance_type=str(machine)) if machine else None
