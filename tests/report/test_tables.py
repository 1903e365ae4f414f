"""Rows for the report's tables: plain text in every cell, nothing lost."""

import json
from datetime import UTC, datetime

import pytest

from prefect_modeldeploy.report import words
from prefect_modeldeploy.report.tables import facts_table, steps_table
from prefect_modeldeploy.rollout.record import Actor, Answer, Told

from .simulated_rollouts import promoted, rolled_back, silent, without_steps


def test_steps_are_rows_of_text_that_json_can_carry() -> None:
    rows = steps_table(promoted()[0])
    assert [row["Step"] for row in rows] == ["1 of 3 at 5 %", "2 of 3 at 25 %", "3 of 3 at 50 %"]
    assert [row["Verdict"] for row in rows] == ["go on", "go on", "promote"]
    assert all(isinstance(value, str) for row in rows for value in row.values())
    assert json.loads(json.dumps(rows)) == rows


def test_a_step_names_the_metric_that_decided_and_only_then() -> None:
    assert [row["Verdict"] for row in steps_table(rolled_back()[0])] == ["roll back (failures)"]
    assert "failures" not in steps_table(promoted()[0])[0]["Verdict"]


def test_a_step_that_is_safe_before_the_last_is_no_promotion() -> None:
    rollout, _ = promoted()
    early = rollout.steps[0].model_copy(update={"decision": "promote", "decided_by": None})
    [row] = steps_table(rollout.model_copy(update={"steps": (early,)}))
    assert row["Verdict"] == "safe, go on"


def test_the_bake_is_told_from_the_steps() -> None:
    rollout, _ = promoted()
    plan = rollout.plan.model_copy(update={"bake_seconds": 60.0})
    bake = rollout.steps[-1].model_copy(update={"weight": 95.0, "decision": "continue"})
    rows = steps_table(rollout.model_copy(update={"plan": plan, "steps": (*rollout.steps, bake)}))
    assert rows[-1]["Step"] == "bake at 95 %"


def test_harm_is_the_weighted_average_and_safety_the_weakest() -> None:
    rollout, _ = rolled_back()
    harm, safe = {"failures": 2.0, "latency": 0.0}, {"failures": 4.0, "latency": 1.0}
    step = rollout.steps[0].model_copy(update={"harm": harm, "safe": safe})
    [row] = steps_table(rollout.model_copy(update={"steps": (step,)}))
    assert (row["Harm"], row["Safety"]) == ("5.79", "2.72")  # (3 e^2 + 1) / 4, and e


def test_who_approved_when_and_why_is_a_fact() -> None:
    rollout, _ = promoted()
    at = datetime(2026, 3, 29, 9, 0, tzinfo=UTC)
    answer = Answer(gate="promotion", decision="promote", comment="looks\ngood", who=Actor(name="mira"), at=at)
    approved = {row["Fact"]: row["Value"] for row in facts_table(rollout.model_copy(update={"answer": answer}))}
    assert approved["Approved by"] == (
        "mira (by their own account): promote, before promotion, 2026-03-29 09:00:00 UTC: looks good"
    )
    silence = Answer(gate="step 2", decision="roll_back", who=Actor(name="nobody", declared=False), at=at)
    refused = {row["Fact"]: row["Value"] for row in facts_table(rollout.model_copy(update={"answer": silence}))}
    assert refused["Answered by"] == "nobody: roll back, before step 2, 2026-03-29 09:00:00 UTC"
    assert not {"Approved by", "Answered by"} & {row["Fact"] for row in facts_table(rollout)}


def test_who_ordered_what_and_why_is_a_fact() -> None:
    rollout, _ = promoted()
    told = Told(order="skip", why="known\nto be good", who=Actor(name="mira"), at=datetime(2026, 3, 29, 9, tzinfo=UTC))
    facts = {row["Fact"]: row["Value"] for row in facts_table(rollout.model_copy(update={"told": told}))}
    assert facts["Ordered by"] == "mira (by their own account): skip, 2026-03-29 09:00:00 UTC: known to be good"
    assert "Ordered by" not in {row["Fact"] for row in facts_table(rollout)}


def test_no_data_is_said_in_words() -> None:
    for row in steps_table(silent()[0]):
        assert row["Canary failed"] == "no requests"
        assert (row["Harm"], row["Safety"]) == ("none", "none")
    assert steps_table(without_steps()[0]) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (1.26, "1.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (94.2, "1 min 34 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
        (None, ""),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("failures", "requests", "said"),
    [
        (0, 0, "no requests"),
        (0, 340, "0 of 340 (0 %)"),
        (12, 340, "12 of 340 (3.5 %)"),
        (3, 100_000, "3 of 100,000 (0.003 %)"),
        (340, 340, "340 of 340 (100 %)"),
    ],
)
def test_failures_are_counts_and_a_rate(failures: int, requests: int, said: str) -> None:
    assert words.failed(failures, requests) == said


@pytest.mark.parametrize(
    ("log", "said"), [(0.0, "1"), (3.0, "20.1"), (7.0, "1,097"), (900.0, "1,000,000+"), (-9.0, "<0.01"), (None, "none")]
)
def test_evidence_is_shown_as_odds_not_logarithms(log: float | None, said: str) -> None:
    assert words.evidence(log) == said


def test_a_moment_without_a_zone_is_utc() -> None:
    assert words.when(datetime(2026, 1, 2, 3, 4, 5)) == words.when(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
