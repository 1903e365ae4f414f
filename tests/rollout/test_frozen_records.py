"""Open rollouts outlive an upgrade: records as earlier versions saved them are read, and gone on with.

Each file is what `saved()` of a version gave, and is never written anew. A version that changes the record adds one:

    1  the first flows (5f4d6ec)            2  ends by the provider, golden sets (a5f3b19)
    3  drivers, gates, shadows (d9a52f0)    4  webhooks, notifications, waiting, a field that is gone since (465f6c9)
    5  as many values as possible are not the defaults (8828b15)
    6  orders, places, roll-backs to a version that is named (5e9bca5)
    7  which runs a person may have answered: the version of this test
"""

import json
from pathlib import Path

import pytest

from prefect_modeldeploy.analysis.judge import SCHEMA
from prefect_modeldeploy.measurements import Arm, Window
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, finish, gate_of, next_effect
from prefect_modeldeploy.rollout.judging import judge_of, with_usable_evidence
from prefect_modeldeploy.rollout.record import SCHEMA_VERSION
from prefect_modeldeploy.tasks import _journal
from tests.rollout.test_machine import T0, record

FILES = Path(__file__).parent / "records"

NEXT = {
    "1-first-flows-shifted": (Effect.OBSERVE, 50.0),
    "1-first-flows-rolling-back": (Effect.RESTORE, 0.0),
    "2-native-end-handed-over": (Effect.PROMOTE, 100.0),
    "2-golden-set-judged": (Effect.APPROVE, 0.0),
    "3-drivers-asking": (Effect.ASK, 10.0),
    "3-drivers-extended": (Effect.OBSERVE, 10.0),
    "4-held-by-a-webhook": (Effect.APPROVE, 50.0),
    "4-native-roll-back": (Effect.DEPLOY, 0.0),
    "5-rules-shifted": (Effect.OBSERVE, 50.0),
    "5-rules-rolling-back": (Effect.RESTORE, 0.0),
    "5-rules-native-promoting": (Effect.BAKE, 100.0),
    "5-rules-undecided": (Effect.APPROVE, 0.0),
    "6-orders-shifted": (Effect.OBSERVE, 50.0),
    "6-native-roll-back-named": (Effect.DEPLOY, 0.0),
    "7-suspended-ready": (Effect.ASK, 0.0),
}
"""What comes next, and the canary's share now."""

WITH_EVIDENCE = [name for name in NEXT if not any(word in name for word in ("roll-back", "promoting", "suspended"))]


def frozen(name: str) -> str:
    return (FILES / f"{name}.json").read_text().strip()


def read(name: str) -> RolloutRecord:
    return _journal.read("modeldeploy_rollout__fraud", frozen(name))


def test_every_file_is_looked_at() -> None:
    assert {path.stem for path in FILES.glob("*.json")} == set(NEXT)


@pytest.mark.parametrize("name", NEXT)
def test_a_record_of_an_earlier_version_is_read_and_gone_on_with(name: str) -> None:
    found = read(name)
    effect = next_effect(found)
    assert (effect, found.weight) == NEXT[name]
    if effect not in (Effect.OBSERVE, Effect.ASK):
        after = finish(found, effect, T0)
        assert next_effect(after) is not None
        assert _journal.read("modeldeploy_rollout__fraud", after.saved()) == after.model_copy(update={"steps": ()})


@pytest.mark.parametrize("name", NEXT)
def test_nothing_of_it_is_lost(name: str) -> None:
    """But for one field that no version needs any more."""
    before, after = json.loads(frozen(name)), json.loads(read(name).saved())
    assert before.pop("accepted", None) in (None, name.startswith("4-held"), False)
    assert _within(before, after) == before


def _within(part: object, whole: object) -> object:
    """Those of the whole's values that the part names."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return {key: _within(value, whole.get(key)) for key, value in part.items()}
    return whole


def test_where_it_stands_is_understood() -> None:
    asking, extended = read("3-drivers-asking"), read("3-drivers-extended")
    assert gate_of(asking) == "step 2"
    assert extended.answer is not None
    assert (extended.answer.decision, extended.answer.who.name) == ("extend", "bob")
    assert read("4-held-by-a-webhook").held_since is not None
    assert read("4-native-roll-back").goal == read("6-native-roll-back-named").goal == "2"
    assert not read("6-native-roll-back-named").turns_away
    assert read("2-native-end-handed-over").serving == "q8x0d3n"


def test_every_field_is_in_a_record() -> None:
    """One that is new belongs into a record of its own, under the next number."""
    known = {field for name in NEXT for field in json.loads(frozen(name))}
    assert set(RolloutRecord.model_fields) - known == {"ended_at", "report", "steps"}, (
        "those of the end, and never saved"
    )


@pytest.mark.parametrize("name", WITH_EVIDENCE)
def test_evidence_goes_on_or_is_gathered_again(name: str) -> None:
    found = read(name)
    assert found.judge_state is not None
    usable = with_usable_evidence(found)
    judge = judge_of(usable)
    goes_on = found.judge_state["schema"] == SCHEMA and name.startswith(("5-", "6-"))
    assert (usable.judge_state is not None) is goes_on
    assert (judge.verdict().windows > 0) is goes_on
    assert judge.observe(Window("next", Arm(100, 1), Arm(100, 1), 1.0)).decision == "continue"


def test_a_record_of_a_newer_version_is_refused_and_says_so() -> None:
    newer = {**json.loads(frozen("5-rules-shifted")), "schema_version": SCHEMA_VERSION + 1, "phase": "TO_COME"}
    with pytest.raises(_journal.Unreadable, match=f"record of schema {SCHEMA_VERSION + 1}, .* upgrade it"):
        _journal.read("modeldeploy_rollout__fraud", json.dumps(newer))


def test_a_rule_that_this_version_does_not_know_is_not_left_out_of_account() -> None:
    newer = json.loads(frozen("5-rules-shifted"))
    newer["plan"]["max_cost"] = 100
    with pytest.raises(_journal.Unreadable, match=r"plan.max_cost: Extra inputs .* upgrade, if a newer version"):
        _journal.read("modeldeploy_rollout__fraud", json.dumps(newer))


def test_who_goes_on_with_a_record_saves_it_as_its_own() -> None:
    old = record(phase=Phase.SHIFTED, schema_version=0)
    assert json.loads(old.saved())["schema_version"] == SCHEMA_VERSION
