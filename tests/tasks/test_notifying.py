"""People are told how a rollout goes, by Prefect's own blocks over real HTTP; and nothing of that can harm it."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from pydantic import SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy import Approval, CanaryPlan, DeploymentTarget, LocalServing, promote_to_production
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Actor, Phase, RolloutRecord, abort
from prefect_modeldeploy.tasks import _journal
from tests.conftest import serve
from tests.flows.conftest import Site

pytestmark = pytest.mark.usefixtures("prefect_server")


class Chat:
    """A server that people look at. Under /broken it answers 500."""

    def __init__(self) -> None:
        self.said: list[dict[str, str]] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.said.append(json.loads(await Request(scope, receive).body()))
        await Response(status_code=500 if "broken" in scope["path"] else 200)(scope, receive, send)

    @property
    def subjects(self) -> list[str]:
        return [each["subject"] for each in self.said]


@pytest_asyncio.fixture
async def chat() -> AsyncIterator[Chat]:
    chat = Chat()
    async with serve(chat) as chat.url:
        await notification(f"{chat.url}/hooks").save("ops", overwrite=True)
        await Webhook(url=SecretStr(f"{chat.url}/plain")).save("plain", overwrite=True)
        await notification(f"{chat.url}/broken/s3cret").save("broken", overwrite=True)
        yield chat


def notification(url: str) -> CustomWebhookNotificationBlock:
    return CustomWebhookNotificationBlock(name="ops", url=url, json_data={"subject": "{{subject}}", "body": "{{body}}"})


def record(endpoint: str, *notify: str, **changes: Any) -> RolloutRecord:
    return RolloutRecord.model_validate(
        {
            "id": endpoint,
            "provider": "local",
            "model": "fraud",
            "endpoint": endpoint,
            "who": Actor(name="ada"),
            "why": "fresh data",
            "plan": CanaryPlan(),
            "notify": notify,
            "stable": "fraud-1",
            "canary": "fraud-2",
            "started_at": "2026-01-01T00:00:00Z",
            **changes,
        }
    )


async def test_start_roll_back_and_end_are_told_once_each(chat: Chat) -> None:
    begun = record("told", "custom-webhook/ops")
    for each in (begun, begun, begun.model_copy(update={"phase": Phase.CLAIMED})):
        await _journal.save(each)
    back = abort(begun, "it is worse", decided_by="failures")
    for each in (back, back, back.model_copy(update={"phase": Phase.ENDED})):
        await _journal.save(each)
    assert sorted(chat.subjects) == [
        "told: canary of fraud-2 rolled back",
        "told: canary of fraud-2 rolling back",
        "told: canary of fraud-2 started",
    ]
    for part in ("started by: ada", "note: fresh data", "why: it is worse", "now serving: fraud-1"):
        assert part in chat.said[-1]["body"]


async def test_a_plain_webhook_is_as_good(chat: Chat) -> None:
    await _journal.save(record("plain", "webhook/plain", phase=Phase.ENDED, outcome="promoted"))
    assert chat.subjects == ["plain: canary of fraud-2 promoted"]
    assert "now serving: fraud-2" in chat.said[0]["body"]


async def test_what_cannot_be_told_is_logged_without_its_address_and_harms_nothing(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    await Secret(value="x").save("no-block-to-notify", overwrite=True)  # type: ignore[arg-type]
    names = ("custom-webhook/broken", "custom-webhook/gone", "secret/no-block-to-notify", "custom-webhook/ops")
    with caplog.at_level(logging.WARNING):
        await _journal.save(record("harmless", *names, phase=Phase.ENDED, outcome="held"))
    assert chat.subjects.count("harmless: canary of fraud-2 held") == 2
    said = [each.getMessage() for each in caplog.records if "was not told" in each.getMessage()]
    assert sorted(line.split()[0] for line in said) == sorted(names[:3])
    assert "s3cret" not in caplog.text


def test_a_name_without_its_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="notify"):
        DeploymentTarget.model_validate(
            {"credentials": LocalServing(), "model": "m", "endpoint": "e", "notify": ["ops"]}
        )


@pytest.mark.slow
async def test_a_real_promotion_is_told_from_its_start_to_its_end(chat: Chat, tmp_path: Any) -> None:
    site = Site(
        DeploymentTarget(
            credentials=LocalServing(home=tmp_path), model="told", endpoint="told", notify=("custom-webhook/ops",)
        )
    )
    try:
        approval = Approval(timeout_seconds=1, on_timeout="promote")
        await promote_to_production(site.target, site.spec("1"), approval=approval, return_state=True)
    finally:
        await stop_node(tmp_path)
    assert chat.subjects == [
        "told: promotion of told-1 started",
        "told: promotion of told-1 waiting for approval: promotion",
        "told: promotion of told-1 promoted",
    ]
