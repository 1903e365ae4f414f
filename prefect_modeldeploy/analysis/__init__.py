"""The decision engine: windows of counts in, `promote`, `roll_back` or `continue` out. Pure: no I/O, no clock.

    judge.py        Judge, Verdict            settings.py    JudgeSettings
    rules.py        what must stay the same while evidence is gathered
    metrics.py      what is compared          planner.py     how long a step must last
    evalue.py       one block's e-value       portfolio.py   many bets, one e-process
    comparison.py   yes/no outcomes           latency.py     histograms
    drift.py        predicted numbers         means.py       cost
    proportion.py   one share, one limit      quantiles.py   whole distributions, single quantiles
    dispersion.py   bursts                    split.py       does the router do what it was asked?

    thresholds.py   rules with counters       expressions.py  the language of their conditions
    points.py       Kayenta's classifier of per-interval points

Docs: `docs/how-a-rollout-is-judged.md`.
"""

from prefect_modeldeploy.analysis.dispersion import excess_dispersion
from prefect_modeldeploy.analysis.evalue import Tally
from prefect_modeldeploy.analysis.expressions import Condition
from prefect_modeldeploy.analysis.judge import Judge
from prefect_modeldeploy.analysis.metrics import (
    DEFAULT_METRICS,
    Accuracy,
    Agreement,
    Cost,
    Drift,
    Failures,
    Latency,
    Metric,
)
from prefect_modeldeploy.analysis.planner import StepPlan, plan_step
from prefect_modeldeploy.analysis.settings import JudgeSettings
from prefect_modeldeploy.analysis.threshold_judge import ThresholdJudge
from prefect_modeldeploy.analysis.thresholds import Phase, Rule
from prefect_modeldeploy.analysis.tracker import Reading
from prefect_modeldeploy.analysis.verdict import Decision, Verdict
from prefect_modeldeploy.measurements import Arm, Histogram, Moments, Quality, Window

__all__ = [
    "DEFAULT_METRICS",
    "Accuracy",
    "Agreement",
    "Arm",
    "Condition",
    "Cost",
    "Decision",
    "Drift",
    "Failures",
    "Histogram",
    "Judge",
    "JudgeSettings",
    "Latency",
    "Metric",
    "Moments",
    "Phase",
    "Quality",
    "Reading",
    "Rule",
    "StepPlan",
    "Tally",
    "ThresholdJudge",
    "Verdict",
    "Window",
    "excess_dispersion",
    "plan_step",
]
