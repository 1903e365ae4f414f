"""What the audit keeps is enough to go on with a rollout, and to tell of it."""

from typing import Any

from prefect_modeldeploy.rollout import Actor, Answer, Phase, StepResult, Told
from prefect_modeldeploy.tasks._audit import counted, entry_of
from tests.rollout.test_machine import T0, record, result


def start(epoch: int, cursor: str) -> dict[str, Any]:
    return entry_of(record(cursor=cursor, epoch=epoch), "start")


def verdict(epoch: int, cursor: str, step: int) -> dict[str, Any]:
    after = record(cursor=cursor, epoch=epoch, phase=Phase.ATTACHED, steps=(seen(step),))
    return entry_of(after, "observe", before=record())


def seen(step: int) -> StepResult:
    return result("continue").model_copy(update={"step": step})


def steps(*events: dict[str, Any], cursor: str) -> list[int]:
    return [each.step for each in counted(events, record(cursor=cursor, epoch=9))]


def test_the_verdicts_so_far_come_back_in_order() -> None:
    audit = start(1, "c0"), verdict(1, "c1", 0), verdict(1, "c2", 1)
    assert steps(*audit, cursor="c2") == [0, 1]
    assert counted(audit, record(cursor="c2", epoch=9))[0] == seen(0)


def test_a_verdict_that_its_driver_did_not_live_to_act_on_is_not_counted_twice() -> None:
    audit = start(1, "c0"), verdict(1, "c1", 0), verdict(1, "c2", 1)
    assert steps(*audit, cursor="c1") == [0], "who takes it up stands before the second"
    assert steps(*audit, start(2, "c1"), verdict(2, "c3", 1), cursor="c3") == [0, 1]


def test_what_a_replaced_driver_still_says_does_not_count() -> None:
    before = start(1, "c0"), verdict(1, "c1", 0), start(2, "c1")
    assert steps(*before, verdict(1, "c2", 7), verdict(2, "c3", 1), cursor="c3") == [0, 1]
    assert steps(*before, verdict(2, "c3", 1), start(1, "c1"), cursor="c3") == [0, 1], "nor that it turns back"


def test_another_rollout_of_the_endpoint_has_verdicts_of_its_own() -> None:
    other = {**verdict(1, "c1", 5), "rollout": "r0"}
    assert steps(other, start(1, "c0"), verdict(1, "c1", 0), cursor="c1") == [0]


def test_a_verdict_of_harm_is_kept_wherever_it_was_seen() -> None:
    turned = record(phase=Phase.ROLLING_BACK, steps=(seen(0),))
    assert entry_of(turned, "ask", before=record())["verdict"]["step"] == 0
    assert "verdict" not in entry_of(record(phase=Phase.SHIFTED), "shift", before=record())


def test_what_was_said_is_in_the_entry_that_came_of_it_and_where_somebody_takes_over() -> None:
    answer = Answer(gate="step 2", decision="promote", comment="go", who=Actor(name="ada"), at=T0)
    told = Told(order="skip", why="known", who=Actor(name="mira"), at=T0)
    said = record(phase=Phase.ATTACHED, answer=answer, told=told)
    for entry in (entry_of(said, "observe", before=record()), entry_of(said, "start")):
        assert (entry["answer"]["who"]["name"], entry["answer"]["comment"]) == ("ada", "go")
        assert (entry["told"]["who"]["name"], entry["told"]["order"], entry["told"]["why"]) == ("mira", "skip", "known")
    assert not {"answer", "told"} & set(entry_of(said, "shift", before=said))
