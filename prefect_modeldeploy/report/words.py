"""How the report puts things: the headline, durations, shares, evidence; and other people's text on one line."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from prefect_modeldeploy.rollout.judging import settings_for
from prefect_modeldeploy.rollout.record import RolloutRecord, StepResult

LONGEST = 1_000
"""Characters of a text by somebody else that a report shows."""


def plain(text: str, limit: int = LONGEST) -> str:
    """One line of printable text: line breaks, control characters and bidirectional tricks become spaces."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def glued(text: str) -> str:
    """The same text, in which a number is not parted from its unit at the end of a line."""
    return re.sub(r"(\d) (?=(?:%|µs|ms|s|min|h|d)(?!\w))", "\\1\xa0", text)


def duration(seconds: float | None) -> str:
    """`12 s`, `1 min 40 s`, `2 h 5 min`, `3 d 4 h`; an empty string for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def when(moment: datetime | None) -> str:
    """A moment in UTC, to the second; a moment without a zone is taken as UTC."""
    if moment is None:
        return ""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def share(percent: float) -> str:
    """A weight in percent, in steps of 0.01."""
    return f"{percent:.2f}".rstrip("0").rstrip(".") + " %"


def failed(failures: int, requests: int) -> str:
    """`12 of 340 (3.5 %)`; says so when nothing was asked."""
    if not requests:
        return "no requests"
    rate = 100 * failures / requests
    shown = f"{rate:.2g}" if rate < 1 else f"{rate:.1f}".removesuffix(".0")
    return f"{failures:,} of {requests:,} ({shown} %)"


def evidence(log: float | None) -> str:
    """Evidence for people, from its natural logarithm: 1 says nothing, 20 is what chance does once in 20 times."""
    if log is None or math.isnan(log):
        return "none"
    if log >= math.log(1e6):
        return "1,000,000+"
    value = math.exp(log)
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else "<0.01"


def answers(step: StepResult) -> str:
    """How good the answers of a step were: `canary right 95 of 100 (95 %), ...`; empty if nobody looked."""
    canary, stable = step.canary_quality, step.stable_quality
    told = []
    for name, quality in (("canary", canary), ("stable", stable)):
        if quality and quality.labelled:
            told.append(f"{name} right {_part(quality.correct, quality.labelled)}")
    if canary and canary.compared:
        told.append(f"same answer {_part(canary.agreed, canary.compared)}")
    return ", ".join(told)


def _part(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / whole:.3g} %)"


def metric(name: str) -> str:
    """A metric's name for people: `latency_p99` is `latency p99`."""
    return plain(name.replace("_", " "), 32) or "unnamed"


def canary(record: RolloutRecord) -> str:
    """What the rollout is about: `version 3`, or the deployment where the version has no name."""
    return _version(record.canary_version, record.canary)


def stable(record: RolloutRecord) -> str | None:
    """What served before; None if nothing did."""
    return _version(record.stable_version, record.stable) if record.stable else None


def _version(version: str | None, deployment: str) -> str:
    return f"version {plain(version, 80)}" if version else f"deployment {plain(deployment, 80)}"


def headline(record: RolloutRecord) -> str:
    """One sentence that says how it ended, when, and why; or how it stands."""
    subject, outcome = canary(record), record.outcome
    if outcome == "promoted":
        went = "is back in production" if record.kind == "roll_back" else "was promoted"
    elif outcome == "rolled_back":
        went = "did not come back" if record.kind == "roll_back" else "was rolled back"
    elif outcome == "held":
        went = f"is held at {share(record.steps[-1].weight)}" if record.steps else "is held"
    else:
        went = f"is being rolled out, at {share(record.weight)} now" if record.weight else "is being prepared"
    after = f" after {duration(record.seconds)}" if outcome and record.seconds is not None else ""
    reason = plain(record.reason, 300)
    return f"{subject[0].upper()}{subject[1:]} {went}{after}" + (f": {reason}" if reason else "")


def verdict(record: RolloutRecord, seconds: float) -> str:
    """What the line of the verdict in the plots says: `proven at 14 s`; a promotion comes later than its proof."""
    promoted = record.outcome == "promoted"
    decisions = [step.decision for step in record.steps if not (promoted and baking(record, step))]
    word = "judged until"  # a person or something else decided, at some time after that
    if promoted and decisions[-1:] == ["promote"]:
        word = "proven at"
    if record.outcome == "held":
        word = "held at"
    if record.outcome == "rolled_back" and (decisions[-1:] == ["roll_back"] or record.decided_by == "deadline"):
        word = "rolled back at"
    return f"{word} {duration(seconds)}"


def baking(record: RolloutRecord, step: StepResult) -> bool:
    """Whether a result is that of the bake, which comes after the last step at a weight of its own."""
    steps = record.plan.steps
    if record.golden_set and step.step == 0:
        return False
    return not 0 <= step.step < len(steps) or step.weight != steps[step.step]


def thresholds(record: RolloutRecord) -> Mapping[str, float]:
    """Evidence from which on a canary is rolled back (`harm`) or promoted (`safe`)."""
    return {"harm": 1 / record.plan.judge.alpha, "safe": 1 / record.plan.judge.beta}


def weights(record: RolloutRecord) -> Mapping[str, float]:
    """What each metric counts in the average evidence of harm, by which the judge rolls back."""
    return {metric.name: metric.weight for metric in settings_for(record).metrics}


def latency(seconds: float) -> str:
    """`350 µs`, `12.5 ms`, `1.2 s`."""
    if not seconds:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds:,.0f} s"
