"""Scale to zero while others are at work on the same deployment: no moment is bad for its settings, or for a rollout.

A client at a provider's place, and a dict at that of Prefect's variables, make every moment reachable: before each
single request of one run, the other one runs.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from prefect.variables import Variable
from pydantic import SecretStr

from prefect_modeldeploy import CanaryPlan, DeploymentTarget, FiddlerCredentials, RolloutRecord
from prefect_modeldeploy.deployments import Autoscaling, Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.rollout import Actor, Phase
from prefect_modeldeploy.tasks import _journal, _notes, _surroundings, _variables, fleet, waking
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes

SETTINGS = Autoscaling(min_replicas=2, max_replicas=3)

Run = Callable[[DeploymentTarget], Awaitable[object]]


class Shelf(ServingClient):
    """A provider with one deployment. It never rests, as if requests came all night."""

    provider: ClassVar[str] = "shelf"
    capabilities = frozenset({Capability.SCALE, Capability.SCALE_TO_ZERO, Capability.METRICS})

    def __init__(self) -> None:
        self.one = Deployment(
            id="fraud-1",
            name="fraud-1",
            provider="shelf",
            model_id="fraud",
            status=DeploymentStatus.READY,
            environment="production",
            autoscaling=SETTINGS,
        )
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Awaited before each request, with what it is."""

    @property
    def settings(self) -> Autoscaling | None:
        return self.one.autoscaling

    async def get(self, deployment_id: str) -> Deployment:
        await self.comes("get")
        return self.one

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        await self.comes("find")
        return [self.one]

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        await self.comes("scale")
        self.one = self.one.model_copy(update={"autoscaling": autoscaling})
        return self.one

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        await self.comes("scale_to_zero")
        self.one = self.one.model_copy(update={"autoscaling": SETTINGS.model_copy(update={"min_replicas": 0})})
        return self.one

    async def idle_seconds(self, deployment_id: str) -> float | None:
        await self.comes("idle_seconds")
        return 3600.0

    async def comes(self, what: str) -> None:
        if self.before is not None:
            await self.before(what)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()

    @asynccontextmanager
    async def client_of(_: DeploymentTarget) -> AsyncIterator[Shelf]:
        yield shelf

    saved = dict[str, Any]()

    async def put(name: str, value: Any) -> None:
        await shelf.comes("put")
        saved[name] = value

    async def unset(name: str) -> None:
        await shelf.comes("unset")
        saved.pop(name, None)

    async def aget(name: str) -> Any:
        return saved.get(name)

    async def variables(prefix: str) -> dict[str, Any]:
        await shelf.comes("variables")
        return {name: saved[name] for name in sorted(saved) if name.startswith(prefix)}

    for module in (fleet, waking):
        monkeypatch.setattr(module, "client_of", client_of)
    for module in (_notes, _surroundings):
        monkeypatch.setattr(module, "variables", variables)
    monkeypatch.setattr(_variables, "put", put)
    monkeypatch.setattr(Variable, "aunset", unset)
    monkeypatch.setattr(Variable, "aget", aget)
    return shelf


def new_target() -> DeploymentTarget:
    nowhere = FiddlerCredentials(base_url="http://127.0.0.1:9", token=SecretStr("none"))
    return DeploymentTarget(
        credentials=nowhere, model="fraud", endpoint=f"e{uuid4().hex[:8]}", price_per_replica_hour=1.0
    )


async def zero(target: DeploymentTarget) -> None:
    [row] = await fleet.ascale_target_to_zero.fn(target)
    assert row.action == "scaled_to_zero", row


async def wake(target: DeploymentTarget) -> None:
    rows = await waking.awake_target.fn(target)
    assert {row.action for row in rows} <= {"restored", "kept"}, rows
    await waking.asettle_target.fn(target, rows)


@pytest.mark.parametrize("asleep", [False, True], ids=["in the day", "in the night"])
@pytest.mark.parametrize(("first", "second"), [(zero, wake), (wake, zero), (zero, zero)])
async def test_settings_survive_a_run_within_a_run(shelf: Shelf, first: Run, second: Run, asleep: bool) -> None:
    interrupted, at = True, 0
    while interrupted:
        target, requests, interrupted = new_target(), list[str](), False
        shelf.before, shelf.one = None, shelf.one.model_copy(update={"autoscaling": SETTINGS})
        if asleep:
            await zero(target)

        async def before(
            what: str, target: DeploymentTarget = target, requests: list[str] = requests, at: int = at
        ) -> None:
            nonlocal interrupted
            requests.append(what)
            if len(requests) == at + 1:
                interrupted, shelf.before = True, None
                await second(target)

        shelf.before = before
        await first(target)
        shelf.before = None
        note = (await Notes(LetGo, target.endpoint).all()).get("fraud-1")
        remembered = note.autoscaling if note else None
        assert SETTINGS in (shelf.settings, remembered), f"lost before {requests[-1]} (request {at})"
        await wake(target)
        assert shelf.settings == SETTINGS
        assert await Notes(LetGo, target.endpoint).all() == {}
        at += 1
    assert at > 3, "there are several moments"


async def test_a_wake_up_forgets_nothing_that_was_let_go_while_it_waited(shelf: Shelf) -> None:
    target = new_target()
    await zero(target)
    rows = await waking.awake_target.fn(target)
    await zero(target)
    await waking.asettle_target.fn(target, rows)
    assert shelf.settings is not None
    assert shelf.settings.min_replicas == 0, "the later one counts"
    await wake(target)
    assert shelf.settings == SETTINGS


@pytest.mark.parametrize("what", ["a rollout", "its end"])
async def test_what_begins_while_the_idleness_is_asked_for_keeps_its_deployments_awake(shelf: Shelf, what: str) -> None:
    target, now = new_target(), datetime.now(UTC)
    record = RolloutRecord(
        id="r",
        provider="fiddler",
        model="fraud",
        endpoint=target.endpoint,
        stable="fraud-1",
        canary="fraud-2",
        who=Actor(name="ada"),
        plan=CanaryPlan(),
        started_at=now,
        phase=Phase.SHIFTED,
    )

    async def before(request: str) -> None:
        if request != "idle_seconds":
            return
        shelf.before = None
        if what == "a rollout":
            await _variables.put(_journal.variable_name(target.endpoint), record.model_dump_json())
        else:
            await Notes(Former, target.endpoint).put(
                Former(deployment="fraud-1", rollout="r", zero_at=now + timedelta(hours=1))
            )

    shelf.before = before
    [row] = await fleet.ascale_target_to_zero.fn(target, only_if_idle_seconds=300)
    assert row.action == "kept"
    assert row.reason.startswith(
        f"{target.endpoint} has a rollout at SHIFTED" if what == "a rollout" else "kept warm for a roll-back"
    )
    assert shelf.settings == SETTINGS
    assert await Notes(LetGo, target.endpoint).all() == {}


async def test_nothing_is_idle_for_longer_than_it_exists(shelf: Shelf) -> None:
    """What had its name before may have been measured."""
    target = new_target()
    shelf.one = shelf.one.model_copy(update={"created_at": datetime.now(UTC) - timedelta(seconds=100)})
    [row] = await fleet.ascale_target_to_zero.fn(target, only_if_idle_seconds=300)
    assert row.action == "kept"
    assert row.reason.startswith("was idle for only 10")
    [row] = await fleet.ascale_target_to_zero.fn(target, only_if_idle_seconds=60)
    assert row.action == "scaled_to_zero"
