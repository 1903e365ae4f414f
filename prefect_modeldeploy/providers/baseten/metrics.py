"""What Baseten's metrics say: how long a deployment has been idle, and windows for the judge.

The metrics lag by one to three minutes and show 0 or nothing meanwhile, so nothing is concluded from the last three.
"""

from collections.abc import Mapping

from prefect_modeldeploy.measurements import Arm, Window
from prefect_modeldeploy.providers.baseten.answers import Metrics

REQUESTS = "baseten_inference_requests_total"
LAG_SECONDS = 180.0
"""How late a request may show."""

Step = tuple[float, float, dict[str, float] | None]
"""Start and end in seconds since the epoch, and requests by status; None: no data."""


def steps_of(metrics: Metrics) -> list[Step]:
    """The requests of each step, by the label `status` ("2xx", "5xx"; "" when the vendor does not break it down)."""
    at = next((i for i, one in enumerate(metrics.metric_descriptors) if one.name == REQUESTS), None)
    if at is None:
        return []
    descriptor = metrics.metric_descriptors[at]
    names = [labels.get("status") or labels.get("status_code") or "" for labels in descriptor.label_sets] or [""]
    ordered = sorted(metrics.metric_values, key=lambda one: one.start_epoch_millis)
    ends = [one.start_epoch_millis for one in ordered[1:]] + [metrics.end_epoch_millis] if ordered else []
    found: list[Step] = []
    for values, end in zip(ordered, ends, strict=True):
        series = values.values[at] if at < len(values.values) else []
        seconds = (end - values.start_epoch_millis) / 1000
        factor = seconds if descriptor.unit_hint == "PER_SECOND" else 1.0
        counts: dict[str, float] = {}
        for name, value in zip(names, series, strict=False):
            if value is not None:
                counts[name] = counts.get(name, 0.0) + value * factor
        found.append((values.start_epoch_millis / 1000, end / 1000, counts or None))
    return found


def idle_seconds(metrics: Metrics, now: float) -> float | None:
    """For how long there was surely no request, up to the window's length; None when there are no data.

    Args:
        metrics: A SERIES of requests.
        now: Seconds since the epoch.
    """
    known = [(start, end, counts) for start, end, counts in steps_of(metrics) if counts is not None]
    if not known:
        return None
    busy = [end for _, end, counts in known if sum(counts.values()) > 0]
    since = max(busy) if busy else known[0][0]
    return max(0.0, min(known[-1][1], now - LAG_SECONDS) - since)


def settled(now: float, width: float = 60.0, late: float | None = None) -> float:
    """Until when the metrics will not change any more: a full minute, or `width`, in seconds since the epoch."""
    return (now - (LAG_SECONDS if late is None else late)) // width * width


def window(baseline: Metrics, canary: Metrics, name: str) -> Window | None:
    """What both arms experienced, from two SUMMARYs of the same time; None when nothing is known of either.

    Only counts: the vendor has latencies as quantiles, which cannot be added up. A request whose status is not told
    counts as answered; 4xx are counted as requests, as everywhere, and 429 not at all.
    """
    both = [steps_of(arm) for arm in (canary, baseline)]
    counts = [steps[0][2] if steps else None for steps in both]
    if all(one is None for one in counts):
        return None
    start, end = canary.start_epoch_millis / 1000, canary.end_epoch_millis / 1000
    identity = f"{name}@{start:.3f}-{end:.3f}"
    return Window(identity, canary=arm_of(counts[0]), baseline=arm_of(counts[1]), seconds=end - start)


def arm_of(counts: Mapping[str, float] | None) -> Arm:
    """Requests by status as what an arm experienced."""
    by_status = {status: max(0, round(value)) for status, value in (counts or {}).items()}
    limited = by_status.get("429", 0)
    return Arm(
        requests=sum(by_status.values()) - limited,
        failures=sum(value for status, value in by_status.items() if status.startswith("5")),
    )
