"""What a judge says after a window."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prefect_modeldeploy.analysis.tracker import Reading

Decision = Literal["promote", "roll_back", "continue"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says after a window.

    Args:
        decision: What to do.
        reason: One sentence for a person.
        harm: Natural log of the evidence of harm, by metric. 0 is none, log(20) = 3.0 is 20 to 1.
        safe: Natural log of the evidence that the canary is not worse by the margin, by metric.
        forecast_seconds: Seconds until a verdict, if rates and traffic stay as they are; None if it cannot be said.
        split_ok: False once the router was found not to send the share that it was asked for.
        harm_total: Log evidence of harm of all the metrics together.
        harm_limit: Where `harm_total` means roll back.
        safe_limit: Where each of `safe` must be to promote.
        p_harm: Anytime-valid p-value of "no worse", by metric.
        p_safe: Anytime-valid p-value of "worse by the margin", by metric.
        readings: What was seen on the canary and on the baseline, by metric; a metric without data is missing.
        decided_by: The metric that was decisive: the most harmful one, or the one that was proven safe last, or
            (while undecided) the one that is waited for. None before the first window with data.
        windows: How many windows were counted.
        seconds: How long they were together.
        canary_requests: How many requests the canary answered in them.
        split_evidence: Log evidence against the router; an alarm at log(1000) = 6.9.
        expired: True when `max_seconds` have passed without a verdict.
    """

    decision: Decision
    reason: str
    harm: Mapping[str, float]
    safe: Mapping[str, float]
    forecast_seconds: float | None
    split_ok: bool
    harm_total: float = 0.0
    harm_limit: float = 0.0
    safe_limit: float = 0.0
    p_harm: Mapping[str, float] = field(default_factory=dict)
    p_safe: Mapping[str, float] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    decided_by: str | None = None
    windows: int = 0
    seconds: float = 0.0
    canary_requests: int = 0
    split_evidence: float = 0.0
    expired: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; `readings` become pairs [canary, baseline]."""
        return asdict(self) | {"readings": {name: list(reading) for name, reading in self.readings.items()}}
