"""Windows added up between two measurements, and what conditions can ask about them."""

from dataclasses import replace

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.expressions import Value
from prefect_modeldeploy.measurements import Arm, Histogram, Moments, Quality

_COARSE = 4  # latencies are gathered in buckets of 8 %, to save space
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def facts_about(canary: Arm, baseline: Arm) -> dict[str, Value]:
    """The names that conditions know, for both arms: `canary.error_rate` and so on. None: not measured.

    requests, failures, error_rate, p50 p90 p95 p99 (seconds), accuracy, disagreement, cost (a request's mean).
    """
    facts: dict[str, Value] = {}
    for name, arm in (("canary", canary), ("baseline", baseline)):
        facts[f"{name}.requests"] = arm.requests
        facts[f"{name}.failures"] = arm.failures
        facts[f"{name}.error_rate"] = _share(arm.failures, arm.requests)
        for quantile, q in _QUANTILES.items():
            facts[f"{name}.{quantile}"] = arm.latency.quantile(q) if arm.latency else None
        quality = arm.quality or Quality()
        facts[f"{name}.accuracy"] = _share(quality.correct, quality.labelled)
        facts[f"{name}.disagreement"] = _share(quality.compared - quality.agreed, quality.compared)
        facts[f"{name}.cost"] = arm.cost.mean if arm.cost else None
    return facts


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def slim(arm: Arm) -> Arm:
    """The same arm without what conditions do not know, and with coarse latencies."""
    quality = replace(arm.quality, values=()) if arm.quality else None
    return Arm(arm.requests, arm.failures, _coarse(arm.latency), quality, arm.cost)


def _coarse(latency: Histogram | None) -> Histogram | None:
    if latency is None:
        return None
    counts: dict[int, int] = {}
    for bucket, n in latency.buckets.items():
        upper = bucket - bucket % _COARSE + _COARSE - 1
        counts[upper] = counts.get(upper, 0) + n
    return Histogram(counts)


def write_arm(writer: Writer, arm: Arm) -> None:
    """Save an arm that was made slim."""
    quality, cost = arm.quality or Quality(), arm.cost or Moments()
    known = (arm.latency is not None) + 2 * (arm.quality is not None) + 4 * (arm.cost is not None)
    writer.counts((known, arm.requests, arm.failures))
    writer.counts((quality.labelled, quality.correct, quality.compared, quality.agreed, cost.count))
    writer.double(cost.total)
    writer.double(cost.squares)
    buckets = sorted(arm.latency.buckets.items()) if arm.latency else []
    writer.count(len(buckets))
    for bucket, n in buckets:
        writer.counts((bucket, n))


def read_arm(reader: Reader) -> Arm:
    """What `write_arm` saved."""
    known, requests, failures = reader.counts(3)
    labelled, correct, compared, agreed = reader.counts(4)
    quality = Quality(labelled, correct, compared, agreed)
    cost = Moments(reader.count(), reader.double(), reader.double())
    latency = Histogram({reader.count(): reader.count() for _ in range(reader.count())})
    return Arm(
        requests, failures, latency if known & 1 else None, quality if known & 2 else None, cost if known & 4 else None
    )
