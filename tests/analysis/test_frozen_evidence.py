"""Evidence outlives an upgrade: what earlier versions saved is restored, and refused only under other rules.

`evidence.json` was written by `python -m tests.analysis.test_frozen_evidence`. It is written anew only when `SCHEMA` of
the judge is raised, as it must be with the layout of the state, a default or the meaning of a rule.
"""

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefect_modeldeploy.analysis import (
    Accuracy,
    Agreement,
    Arm,
    Cost,
    Drift,
    Failures,
    Judge,
    JudgeSettings,
    Latency,
    Moments,
    Quality,
    Rule,
    ThresholdJudge,
    Window,
)
from prefect_modeldeploy.analysis.judge import SCHEMA
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout.judging import GoldenAccuracy, GoldenFailures, settings_of
from prefect_modeldeploy.rollout.plan import JudgePlan
from tests.analysis.simulation import latencies

FILE = Path(__file__).parent / "evidence.json"

SETTINGS = {
    "a rollout": settings_of(JudgePlan()),
    "another plan, with copies": settings_of(JudgePlan(margin=0.02, latency_tolerance=1.5), disagreement=0.1),
    "a golden set": settings_of(JudgePlan(), golden=True),
    "every metric": JudgeSettings(
        metrics=(Failures(), Latency(thresholds=(0.2, 0.5)), Accuracy(), Agreement(), Drift(), Cost(alpha=0.01))
    ),
}
RULES = (
    Rule(name="errors", failure="canary.error_rate > 0.05", interval_seconds=10, count=8, failure_limit=2),
    Rule(name="slow", success="canary.p90 < 1.0", interval_seconds=25, initial_delay_seconds=20),
)
HAVE_DEFAULTS = (
    JudgeSettings, Failures, Latency, Accuracy, Agreement, Drift, Cost, GoldenFailures, GoldenAccuracy, Rule,
)  # fmt: skip


def windows() -> Iterator[Window]:
    rng = np.random.default_rng(1)
    for number in range(20):
        yield Window(f"rollout/{number}", arm(rng, 60), arm(rng, 400), 5.0, share=0.13)


def arm(rng: np.random.Generator, requests: int) -> Arm:
    quality = Quality(requests, requests - 2, 40, 39, tuple(rng.standard_normal(50)))
    cost = Moments.from_values(rng.gamma(4.0, 0.25, requests))
    return Arm(requests, int(rng.binomial(requests, 0.01)), latencies(rng, requests), quality, cost)


def gathered(judge: Judge | ThresholdJudge) -> dict[str, Any]:
    """The state after the windows, and what is said then."""
    verdict = [judge.observe(window) for window in windows()][-1]
    return {"state": judge.state(), "verdict": asdict(verdict)}


def defaults() -> dict[str, dict[str, Any]]:
    """What is meant by whoever leaves a rule away."""
    return {
        kind.__name__: {f.name: f.default for f in fields(kind) if f.default is not MISSING and f.name != "metrics"}
        for kind in HAVE_DEFAULTS
    }


def frozen() -> dict[str, Any]:
    return json.loads(FILE.read_text())


@pytest.mark.parametrize("name", SETTINGS)
def test_evidence_of_earlier_versions_goes_on(name: str) -> None:
    saved = frozen()["judges"][name]
    verdict = asdict(Judge.restore(SETTINGS[name], saved["state"]).verdict())
    for what in ("decision", "reason", "windows", "canary_requests"):
        assert verdict[what] == saved["verdict"][what]
    for what in ("harm", "safe"):
        assert verdict[what] == pytest.approx(saved["verdict"][what])


def test_rules_with_thresholds_go_on() -> None:
    saved = frozen()["thresholds"]
    verdict = ThresholdJudge.restore(RULES, saved["state"]).verdict()
    assert (verdict.windows, verdict.reason) == (20, saved["verdict"]["reason"])


def test_a_default_means_what_it_meant() -> None:
    """Evidence goes on under the default of the version that restores it: another default needs another SCHEMA."""
    saved, now = frozen(), json.loads(json.dumps(defaults()))
    assert saved["schema"] == SCHEMA, "raised? then write evidence.json anew"
    for kind, of in saved["defaults"].items():
        assert {name: now[kind].get(name) for name in of} == of, kind


@dataclass(frozen=True, kw_only=True)
class NewFailures(Failures):
    """`Failures` of a version to come."""

    burst_seconds: float = 0.0


NewFailures.__name__ = "Failures"


def test_a_field_that_is_new_with_a_default_changes_nothing() -> None:
    state = Judge(JudgeSettings(metrics=(Failures(margin=0.02),))).state()
    Judge.restore(JudgeSettings(metrics=(NewFailures(margin=0.02),)), state)
    with pytest.raises(InvalidInput, match="other settings"):
        Judge.restore(JudgeSettings(metrics=(NewFailures(margin=0.02, burst_seconds=1.0),)), state)


@pytest.mark.parametrize(
    "other",
    [
        {"alpha": 0.01},
        {"beta": 0.01},
        {"margin": 0.02},
        {"split_tolerance": 0.1},
        {"metrics": (Failures(),)},
        {"metrics": (Latency(required=False), Failures())},
        {"metrics": (Failures(weight=1.0), Latency(required=False))},
        {"metrics": (GoldenFailures(), Latency(required=False))},
    ],
)
def test_other_rules_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="other settings"):
        Judge.restore(JudgeSettings(**other), Judge(JudgeSettings()).state())


@pytest.mark.parametrize("other", [{"in_flight_seconds": 60.0}, {"canary_share": 0.1}, {"min_requests": 9}])
def test_what_only_tells_of_the_measurements_or_is_asked_of_the_verdict_may_change(other: dict[str, Any]) -> None:
    Judge.restore(JudgeSettings(**other), Judge(JudgeSettings()).state())


if __name__ == "__main__":
    judges = {name: gathered(Judge(settings)) for name, settings in SETTINGS.items()}
    content = {
        "schema": SCHEMA,
        "defaults": defaults(),
        "judges": judges,
        "thresholds": gathered(ThresholdJudge(RULES)),
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")
