"""Webhooks as gates, over real HTTP: what counts as yes, as no, and as no answer; and rollouts that wait for them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy import CanaryPlan, WebhookGate, canary_rollout
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows._webhooks import GateClosed, opens, until_open
from prefect_modeldeploy.rollout import Actor, Phase, RolloutRecord
from tests.conftest import eventually, serve
from tests.flows.conftest import QUICK, Site

pytestmark = pytest.mark.usefixtures("prefect_server")
LOGGER = logging.getLogger(__name__)


class Judge:
    """A program that is asked. It answers with what is in `answers`, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Response | None] = [Response()]
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.append(json.loads(await request.body()))
        self.tokens.append(request.headers.get("authorization"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await asyncio.sleep(5)
        await (answer or Response())(scope, receive, send)

    def gate(self, **changes: Any) -> WebhookGate:
        return WebhookGate(url=self.url, again_seconds=0.05, timeout_seconds=5, **changes)


@pytest_asyncio.fixture
async def judge() -> AsyncIterator[Judge]:
    judge = Judge()
    async with serve(judge) as judge.url:
        yield judge


def no(reason: str = "not today") -> Response:
    return JSONResponse({"allow": False, "reason": reason})


def record(**changes: Any) -> RolloutRecord:
    facts: dict[str, Any] = {
        "id": "r1",
        "provider": "local",
        "model": "fraud",
        "endpoint": "fraud",
        "canary": "fraud-2",
    }
    facts |= {"who": Actor(name="ada"), "plan": CanaryPlan(), "stable": "fraud-1", "started_at": datetime.now(UTC)}
    return RolloutRecord(**facts, phase=Phase.ATTACHED).model_copy(update=changes)


@pytest.mark.parametrize(
    ("answer", "opened"),
    [
        (Response(), True),
        (Response("fine by me"), True),
        (JSONResponse({"allow": True}), True),
        (JSONResponse(["anything"]), True),
        (no(), False),
        (Response(status_code=403), False),
        (Response(status_code=302, headers={"location": "https://elsewhere.example"}), False),
        (Response(status_code=503), False),
    ],
)
async def test_any_2xx_is_a_yes_unless_it_says_otherwise(judge: Judge, answer: Response, opened: bool) -> None:
    judge.answers = [answer]
    assert await opens(judge.gate(), "step", record(), LOGGER) is opened


@pytest.mark.parametrize("answer", [no("budget is spent"), Response(status_code=404)])
async def test_a_no_turns_the_rollout_back_if_the_plan_wants_that(judge: Judge, answer: Response) -> None:
    judge.answers = [answer]
    with pytest.raises(GateClosed, match=r"127\.0\.0\.1 said no: (budget is spent|status 404)"):
        await opens(judge.gate(on_no="roll_back"), "step", record(), LOGGER)


async def test_no_answer_is_never_a_no_and_is_asked_for_again(judge: Judge) -> None:
    judge.answers = [Response(status_code=500), None, Response(status_code=429), Response()]
    gate = judge.gate(on_no="roll_back").model_copy(update={"timeout_seconds": 0.5})
    assert not await opens(gate, "step", record(), LOGGER)
    await until_open(gate, "step", record(), LOGGER)
    assert len(judge.asked) == 4


async def test_a_gate_that_stays_closed_for_too_long_turns_the_rollout_back(judge: Judge) -> None:
    judge.answers = [no()]
    with pytest.raises(GateClosed, match="did not open"):
        await until_open(judge.gate(hold_seconds=0.3), "step", record(), LOGGER)


async def test_it_is_told_what_it_decides_about_and_who_asks(judge: Judge) -> None:
    await Secret(value="s3cret").save("gate-token", overwrite=True)  # type: ignore[arg-type]
    gate = judge.gate(token_secret="gate-token")
    await opens(gate, "step", record(step=1), LOGGER)
    await opens(gate, "promotion", record(phase=Phase.APPROVED, step=2), LOGGER)
    first, second = judge.asked
    assert (first["before"], first["step"], first["weight"], first["next_weight"]) == ("step", 2, 5, 25)
    assert (second["before"], second["weight"], second["next_weight"]) == ("promotion", 50, 100)
    assert (first["rollout"], first["endpoint"], first["canary"], first["started_by"]) == (
        "r1",
        "fraud",
        "fraud-2",
        "ada",
    )
    assert judge.tokens == ["Bearer s3cret"] * 2
    assert "s3cret" not in gate.model_dump_json()


async def test_a_token_that_cannot_be_read_now_is_no_answer(judge: Judge) -> None:
    """A blip of Prefect's server turns no rollout back."""
    await Secret(value="s3cret").save("gate-token", overwrite=True)  # type: ignore[arg-type]
    gate = judge.gate(token_secret="gate-token", on_no="roll_back")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not await opens(gate, "step", record(), LOGGER)
    assert judge.asked == []
    await until_open(gate, "step", record(), LOGGER)
    assert judge.tokens == ["Bearer s3cret"]


@pytest.mark.parametrize("url", ["http://gates.example/ask", "ftp://gates.example", "https://ada:pw@gates.example"])
def test_an_address_that_would_give_secrets_away_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        WebhookGate(url=url)


@pytest.mark.slow
async def test_a_rollout_without_the_gates_secret_does_not_begin(site: Site, judge: Judge) -> None:
    plan = QUICK.model_copy(update={"gates": (judge.gate(token_secret="never-saved"),)})
    with pytest.raises(InvalidInput, match="never-saved"):
        await canary_rollout(site.target, site.spec("2"), plan)
    assert f"{site.target.model}-2" not in await site.deployments()


@pytest.mark.slow
async def test_a_rollout_waits_for_its_gate_and_goes_on_when_it_opens(site: Site, judge: Judge) -> None:
    judge.answers = [Response(), no()]
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(
            canary_rollout(site.target, site.spec("2"), QUICK.model_copy(update={"gates": (judge.gate(),)}))
        )
        await eventually(lambda: len(judge.asked) > 5)
        assert {name: weight for name, (_, weight) in (await site.arms()).items()} == {"stable": 80, "canary": 20}
        judge.answers = [Response()]
        ended = await running
    assert ended.outcome == "promoted", ended.reason
    assert [each["before"] for each in (judge.asked[0], judge.asked[-1])] == ["step", "promotion"]
    assert judge.asked[-1]["evidence"]["decision"] == "promote"


@pytest.mark.slow
async def test_a_no_before_the_promotion_brings_the_traffic_back(site: Site, judge: Judge) -> None:
    gate = judge.gate(before=("promotion",), on_no="roll_back")
    judge.answers = [no("quarter end")]
    async with await site.load() as answers:
        await site.history(answers)
        ended = await canary_rollout(site.target, site.spec("2"), QUICK.model_copy(update={"gates": (gate,)}))
    assert (ended.outcome, ended.decided_by) == ("rolled_back", "webhook")
    assert "quarter end" in ended.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
