"""Metrics of a deployment, from the requests that it got: the vendor's three shapes, values as strings."""

from typing import TYPE_CHECKING, Any

from prefect_modeldeploy.sandbox.world import Record

if TYPE_CHECKING:
    from prefect_modeldeploy.sandbox.gradient.world import GradientWorld

_FRAMES = {"hour": 60, "12_hours": 720, "day": 1440, "1_week": 10_080, "2_weeks": 20_160}
_BUCKETS = 60


def samples(world: "GradientWorld", deployment: Record, metric: str, timeframe: str) -> Any:
    """The answer of GET /metrics."""
    now = world.clock.now()
    width = max(1, _FRAMES[timeframe] // _BUCKETS)
    last = int(now // 60)
    first = max(last - _FRAMES[timeframe] + 1, int(deployment["created"] // 60))
    buckets = [(start, min(start + width, last + 1)) for start in range(first, last + 1, width)]
    if metric == "requests_total":
        return {"timestamp": world.clock.stamp(now), "value": str(sum(hit[0] for hit in deployment["hits"].values()))}
    if metric in ("cpu", "memory", "gpu"):
        return [
            {
                "instanceId": instance["instanceId"],
                "values": [
                    {"timestamp": world.clock.stamp(end * 60), "value": _load(deployment, start, end)}
                    for start, end in buckets
                ],
            }
            for run in world.runs(deployment)
            for instance in run["instances"]
        ]
    return [
        {"timestamp": world.clock.stamp(end * 60), "value": _rate(deployment, start, end, metric)}
        for start, end in buckets
    ]


def _sum(deployment: Record, start: int, end: int) -> tuple[int, float]:
    hits = [deployment["hits"].get(str(minute), (0, 0.0)) for minute in range(start, end)]
    return sum(hit[0] for hit in hits), sum(hit[1] for hit in hits)


def _rate(deployment: Record, start: int, end: int, metric: str) -> str:
    count, seconds = _sum(deployment, start, end)
    if metric == "requests_per_second":
        return str(count / ((end - start) * 60))
    return str(seconds / count if count else 0)


def _load(deployment: Record, start: int, end: int) -> str:
    _, seconds = _sum(deployment, start, end)
    return str(min(100.0, 100 * seconds / ((end - start) * 60)))
