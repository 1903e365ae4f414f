"""`modeldeploy approve`, `order` and `rollout`: what they do to a rollout, what they print, and how they refuse.

The records and their flow runs are Prefect's own; no model is served.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.input import keyset_from_paused_state
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Paused, Running, Scheduled
from prefect.variables import Variable

from prefect_modeldeploy import CanaryPlan, DeploymentTarget, LocalServing, RolloutRecord, cli
from prefect_modeldeploy.flows._approval import ApprovalAnswer
from prefect_modeldeploy.flows._signals import Signals
from prefect_modeldeploy.rollout import Actor, Decision, Driver, Order, Phase
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user

pytestmark = pytest.mark.usefixtures("prefect_server")

WHY = "as [/agreed] in [bold]JIRA-12[/]"
"""What a person types may look like anything."""


@dataclass
class Said:
    code: object
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


Terminal = Callable[..., Awaitable[Said]]


@pytest.fixture
def modeldeploy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """The command line, on the tests' server."""
    monkeypatch.setenv("COLUMNS", "60")  # narrow: nothing that is one line may become two

    async def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["modeldeploy", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            await asyncio.to_thread(cli.main)
        return Said(end.value.code or 0, *capsys.readouterr())

    return run


@flow
def rollout() -> None:
    """What drives the record, for Prefect."""


async def begun(make: Callable[[], State] = Running, **facts: Any) -> RolloutRecord:
    """A rollout that is saved, with a flow run in some state."""
    state = make()
    async with get_client() as client:
        run = await client.create_flow_run(rollout, state=Running() if state.is_paused() else state)
        if state.is_paused():  # as Prefect itself does when a flow asks
            state.state_details.run_input_keyset = keyset = keyset_from_paused_state(state)
            await client.set_flow_run_state(run.id, state)
            await ApprovalAnswer.asave(keyset, flow_run_id=run.id)
    given: dict[str, Any] = {
        "id": str(run.id),
        "provider": "local",
        "model": "fraud",
        "endpoint": f"cli-{uuid4().hex[:8]}",
        "stable": "fraud-1",
        "canary": "fraud-2",
        "who": Actor(name="ada"),
        "why": WHY,
        "plan": CanaryPlan(steps=(10, 50)),
        "started_at": datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
        "phase": Phase.READY,
        "driver": Driver(token=uuid4().hex, flow_run=str(run.id), name="r", host="h", pid=1),
    }
    return await _journal.save(RolloutRecord.model_validate(given | facts))


def waits() -> State:
    return Paused(timeout_seconds=600, pause_key=uuid4().hex)


async def state_of(record: RolloutRecord) -> State:
    async with get_client() as client:
        state = (await client.read_flow_run(UUID(record.id))).state
    assert state is not None
    return state


async def answer_in(question: State, record: RolloutRecord) -> ApprovalAnswer:
    """As the run that asked reads it."""
    keyset = question.state_details.run_input_keyset
    assert keyset is not None
    return await ApprovalAnswer.aload(keyset, flow_run_id=UUID(record.id))


@pytest.mark.parametrize(
    ("command", "choices", "more"),
    [
        ("approve", get_args(Decision), ["ENDPOINT", "--comment", "--json", "[default: promote]"]),
        ("order", get_args(Order), ["ENDPOINT WHAT", "--why", "--json"]),
        ("rollout", (), ["ENDPOINT", "--json", "Exit code 3"]),
    ],
)
async def test_the_help_is_enough_to_use_it(
    modeldeploy: Terminal, command: str, choices: tuple[str, ...], more: list[str]
) -> None:
    said = await modeldeploy(command, "--help")
    text = " ".join(said.out.replace("│", " ").split())
    for words in (*more, *(f"{choice}: " for choice in choices)):  # each choice is explained
        assert words in text


@pytest.mark.parametrize("as_json", [False, True], ids=["plain", "json"])
async def test_approve_answers_the_run_that_waits(modeldeploy: Terminal, as_json: bool) -> None:
    record = await begun(waits, phase=Phase.JUDGED)
    question = await state_of(record)
    words = ["approve", record.endpoint, "--decision", "extend", "--comment", WHY]
    said = await modeldeploy(*words, *(["--json"] if as_json else []))
    named = {"endpoint": record.endpoint, "rollout": record.id, "candidate": "fraud-2"}
    if as_json:
        assert said.json() == named | {"decision": "extend", "comment": WHY}
    else:
        assert said == Said(0, f"{record.endpoint}: extend, told to the rollout of fraud-2\n", "")
    answer = await answer_in(question, record)
    assert (answer.decision, answer.comment, answer.approver) == ("extend", WHY, this_user())
    assert not (await state_of(record)).is_paused()

    again = await modeldeploy(*words)
    assert again.code == 1
    assert "waits for nobody now" in again.err


async def test_an_order_is_heard_by_the_rollout_of_this_endpoint(modeldeploy: Terminal, tmp_path: Path) -> None:
    record, other = await begun(), await begun()
    target = DeploymentTarget(credentials=LocalServing(home=tmp_path), model="fraud", endpoint=record.endpoint)
    async with Signals.watched(target, record) as signals:
        assert (await modeldeploy("order", other.endpoint, "abort")).code == 0
        plain = await modeldeploy("order", record.endpoint, "skip", "--why", WHY)
        heard = await asyncio.wait_for(signals.next(), 60)
        assert heard.told is not None
        assert (heard.told.order, heard.reason) == ("skip", f"skip by event of {this_user()}: {WHY}")
        named = {"endpoint": record.endpoint, "rollout": record.id, "candidate": "fraud-2"}
        told = (await modeldeploy("order", record.endpoint, "promote-fully", "--json")).json()
        assert told == named | {"order": "promote-fully", "why": ""}
        then = (await asyncio.wait_for(signals.next(), 60)).told
    assert then is not None
    assert (then.order, then.who.name) == ("promote-fully", this_user())
    is_ordered = f"{record.endpoint}: skip is ordered for the rollout of fraud-2"
    assert plain == Said(0, f"{is_ordered}; see `modeldeploy rollout {record.endpoint}`\n", "")


async def test_an_abort_cancels_what_has_not_begun(modeldeploy: Terminal) -> None:
    record = await begun(Scheduled)
    assert (await modeldeploy("order", record.endpoint, "abort", "--why", WHY)).code == 0
    state = await state_of(record)
    assert state.is_cancelled() or state.is_cancelling(), state


async def test_rollout_shows_where_it_stands(modeldeploy: Terminal) -> None:
    record = await begun(phase=Phase.SHIFTED, step=1, reason="[red] alert")
    said = await modeldeploy("rollout", record.endpoint, "--json")
    assert RolloutRecord.model_validate(said.json()) == record
    plain = await modeldeploy("rollout", record.endpoint)
    assert plain.code == 0
    text = " ".join(plain.out.split())
    assert "candidate fraud-2, over fraud-1" in text
    assert "stands at SHIFTED, 50 % of the requests" in text
    assert f"started 2026-05-04 03:02:01 UTC by ada: {WHY}" in text
    assert "outcome open reason [red] alert" in text
    assert plain.err == ""


async def deleted_run() -> RolloutRecord:
    record = await begun()
    async with get_client() as client:
        await client.delete_flow_run(UUID(record.id))
    return record


async def unreadable() -> RolloutRecord:
    record = await begun()
    await Variable.aset(_journal.variable_name(record.endpoint), "{}", overwrite=True)
    return record


async def nowhere() -> RolloutRecord:
    record = await begun()
    await Variable.aunset(_journal.variable_name(record.endpoint))
    return record


over, let_go = partial(begun, phase=Phase.ENDED, outcome="promoted"), partial(begun, driver=None)
waiting, scheduled = partial(begun, waits), partial(begun, Scheduled)


@pytest.mark.parametrize(
    ("make", "words", "code", "why"),
    [
        (nowhere, ["approve", "[/red]"], 1, "endpoint='[/red]': has no open rollout"),
        (nowhere, ["rollout", "*"], 3, "has had no rollout"),
        (over, ["order", "*", "skip"], 1, "has no open rollout"),
        (begun, ["approve", "*"], 1, "waits for nobody now (at READY)"),
        (let_go, ["approve", "*"], 1, "reconcile-rollouts takes it up again"),
        (deleted_run, ["approve", "*"], 1, "reconcile-rollouts takes it up again"),
        (let_go, ["order", "*", "abort"], 1, "has no run now that could hear"),
        (deleted_run, ["order", "*", "abort"], 1, "has no run now that could hear"),
        (scheduled, ["order", "*", "skip"], 1, "about to start again"),
        (unreadable, ["rollout", "*"], 1, "holds no record that can be read (id: Field required)"),
        (waiting, ["approve", "*", "--decision", "ship-it"], 2, '"ship-it" for --decision. Choose from: "promote"'),
        (waiting, ["approve"], 2, "--endpoint requires an argument"),
        (begun, ["order", "*", "faster"], 2, '"faster" for WHAT. Choose from: "abort"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    modeldeploy: Terminal, make: Callable[[], Awaitable[RolloutRecord]], words: list[str], code: int, why: str
) -> None:
    record = await make()
    variable = _journal.variable_name(record.endpoint)
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(record.id)]))

    async def world() -> tuple[object, object]:
        async with get_client() as client:
            runs = await client.read_flow_runs(flow_run_filter=this_run)
        return await Variable.aget(variable), [run.state for run in runs]

    before = await world()
    said = await modeldeploy(*(record.endpoint if word == "*" else word for word in words))
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("error: ")
    assert why in said.err
    assert said.err.count("\n") == 1, said.err
    assert await world() == before


async def test_a_server_that_is_not_there_is_one_line_too(modeldeploy: Terminal) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        said = await modeldeploy("order", "prod", "abort")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said.err
    assert "PREFECT_API_URL" in said.err
