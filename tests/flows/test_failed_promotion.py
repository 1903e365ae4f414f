"""A promotion that fails keeps the canary, which is proven and has all requests: never back to what may be broken."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy import (
    DeploymentSpec,
    DeploymentTarget,
    LocalServing,
    canary_rollout,
    promote_to_production,
    reconcile_rollouts,
)
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually, serve
from tests.flows import arms_kit
from tests.flows.conftest import QUICK, Site
from tests.providers import baseten_kit
from tests.sandbox.kit import running_sandbox
from tests.traffic.load import Answers, load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

PLAN = QUICK.model_copy(update={"steps": (50,), "former": "keep"})

_PASSED_ON = ("authorization", "content-type")


class Door:
    """In front of a node's control API: passes on what comes. While it is shut, nobody takes the former's place."""

    def __init__(self, node: httpx.AsyncClient, former: str) -> None:
        self._node, self._former = node, former
        self.url, self.shut, self.refused = "", True, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        answer: Response
        if self.shut and request.method == "PUT" and self._is_successor(json.loads(body)):
            self.refused += 1
            answer = JSONResponse({"error": {"code": "unauthorized", "message": "the door is shut"}}, 403)
        else:
            headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
            path = f"{scope['raw_path'].decode()}?{request.url.query}"
            passed = await self._node.request(request.method, path, headers=headers, content=body)
            answer = Response(passed.content, passed.status_code, media_type=passed.headers.get("content-type"))
        await answer(scope, receive, send)

    def _is_successor(self, change: dict[str, Any]) -> bool:
        """Whether an endpoint is to have one arm alone, which is another than the former version."""
        upstreams = [arm["upstream"] for arm in change.get("arms", ())]
        return len(upstreams) == 1 and upstreams != [self._former]


@asynccontextmanager
async def door(home: Path, former: str) -> AsyncIterator[Door]:
    info = Home(home).read_node()
    assert info is not None
    async with httpx.AsyncClient(base_url=info.control_url, trust_env=False, timeout=60) as node:
        door = Door(node, former)
        async with serve(door) as door.url:
            yield door


async def the_canary_keeps_serving(
    target: DeploymentTarget, candidate: DeploymentSpec, answers: Answers, door: Door, arms: Any
) -> None:
    """Roll out behind a door that is shut to promotions, and let `reconcile_rollouts` finish it when it is open."""
    with pytest.raises(RolloutError, match=r"promote failed .*the door is shut.* stays open at BAKED"):
        await canary_rollout(target, candidate, PLAN)
    record = await _journal.load(target.endpoint)
    assert record is not None
    assert (record.phase, record.outcome, record.driver) == (Phase.BAKED, None, None), "whoever comes may take it up"
    assert await arms() == {"stable": (record.stable, 0.0), "canary": (record.canary, 100.0)}
    async with client_of(target) as client:
        assert (await client.get(record.canary)).ready
    before = dict(answers.by_arm)
    await eventually(lambda: answers.by_arm["canary"] > before["canary"] + 100)
    assert answers.by_arm["stable"] == before["stable"]

    refused, door.shut = door.refused, False
    [ended] = await reconcile_rollouts([target])
    assert refused == 1, "a no is a no: nobody asks again and again"
    assert (ended.id, ended.outcome) == (record.id, "promoted"), ended.reason
    assert await arms() == {"stable": (record.canary, 100.0)}
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_on_this_machine(site: Site, home: Path) -> None:
    async with door(home, f"{site.target.model}-1") as shut, await site.load() as answers:
        await site.history(answers)
        by_the_door = LocalServing(url=shut.url, token=Home(home).token())
        target = site.target.model_copy(update={"credentials": by_the_door})
        await the_canary_keeps_serving(target, site.spec("2"), answers, shut, site.arms)


async def test_at_a_provider_behind_our_gateway(tmp_path: Path) -> None:
    async with running_sandbox("baseten") as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        await sandbox.control.behave(error_rate=0.04)
        first = await arms_kit.deployment(site, "baseten")
        credentials = arms_kit.baseten(sandbox)
        await promote_to_production(site.target(credentials, "sandbox-model"), first)
        candidate = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "truss"))
        async with door(site.home, first) as shut, load(await site.url(), rate=200, body=b'{"x": 1}') as answers:
            await eventually(lambda: answers.count > 300)
            by_the_door = site.gateway.model_copy(update={"url": shut.url})
            target = site.target(credentials, "sandbox-model", gateway=by_the_door)
            await the_canary_keeps_serving(target, candidate, answers, shut, site.arms)
