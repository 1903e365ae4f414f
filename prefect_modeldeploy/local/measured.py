"""Windows of measurements on their way through the control API."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefect_modeldeploy.traffic.windows import ArmCounts, EndpointWindow


def to_json(window: EndpointWindow) -> dict[str, Any]:
    """A window as JSON; latencies as {bucket: count} (see `measurements.bucket_of`)."""
    return {
        "id": window.id,
        "endpoint": window.endpoint,
        "weights": dict(window.weights),
        "sticky": window.sticky,
        "start": window.start,
        "end": window.end,
        "former_end": window.former_end,
        "arms": {name: _arm_to_json(arm) for name, arm in window.arms.items()},
    }


def from_json(window: Mapping[str, Any]) -> EndpointWindow:
    """The inverse of `to_json`."""
    arms = {name: _arm_from_json(arm) for name, arm in window["arms"].items()}
    return EndpointWindow(
        window["id"], window["endpoint"], window["weights"], arms, window["sticky"], window["former_end"]
    )


def _arm_to_json(arm: ArmCounts) -> dict[str, Any]:
    return {
        "requests": arm.requests,
        "failures": arm.failures,
        "retries": arm.retries,
        "statuses": dict(arm.statuses),
        "excluded": dict(arm.excluded),
        "latency": {str(bucket): count for bucket, count in arm.latency.items()},
        "start": arm.start,
        "end": arm.end,
    }


def _arm_from_json(arm: Mapping[str, Any]) -> ArmCounts:
    plain = {name: arm[name] for name in ("requests", "failures", "retries", "start", "end")}
    return ArmCounts(
        **plain,
        statuses=Counter(arm["statuses"]),
        excluded=Counter(arm["excluded"]),
        latency=Counter({int(bucket): count for bucket, count in arm["latency"].items()}),
    )
