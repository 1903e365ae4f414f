"""Baseten's rolling promotion as a router: the vendor's own steps, paused and resumed, called off or let go on."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, StaleEpoch
from prefect_modeldeploy.providers.baseten import BasetenClient, metrics
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from prefect_modeldeploy.traffic.router import SteppedRouter
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox

pytestmark = pytest.mark.slow

Here = tuple[RunningSandbox, BasetenClient]
FAST, WATCHABLE = 1000.0, 20.0
"""Speeds of the sandbox: one step of a promotion, 20 s, takes 20 ms or 1 s."""


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Here]:
    async with baseten(FAST, visible_seconds=0.5) as both:
        yield both


@pytest_asyncio.fixture
async def here(running: Here, tmp_path: Path) -> AsyncIterator[tuple[RunningSandbox, BasetenClient, Deployment]]:
    """The seeded model, and a second deployment that is up; from then on slow enough to be watched."""
    sandbox, client = running
    await sandbox.control.reset()
    await sandbox.control.set_speed(FAST)
    created = await client.create(spec_of(make_truss(tmp_path)))
    async for [new] in client.wait([created.id], lambda one: one.ready, timeout_seconds=20):  # noqa: B007
        pass
    await sandbox.control.set_speed(WATCHABLE)
    yield sandbox, client, new


def router_of(client: BasetenClient) -> SteppedRouter:
    router = client.router("sandbox-model", "production")
    assert isinstance(router, SteppedRouter)
    return router


def arms(stable: str, canary: str | None = None, share: float = 0.0) -> Endpoint:
    made = [EndpointArm(name="stable", upstream=stable, weight=100 - share)]
    if canary:
        made.append(EndpointArm(name="canary", upstream=canary, weight=share))
    return Endpoint(name="fraud", arms=tuple(made))


def shown(endpoint: Endpoint) -> dict[str, tuple[str, float]]:
    return {arm.name: (arm.upstream, arm.weight) for arm in endpoint.arms}


async def controls(sandbox: RunningSandbox) -> list[str]:
    sent = await sandbox.control.requests(method="POST", path="*promot*")
    return [one.path.rpartition("/")[2].removesuffix("_promotion") for one in sent]


Three = tuple[RunningSandbox, BasetenClient, Deployment]


async def test_an_environment_at_rest_has_one_arm(here: Three) -> None:
    sandbox, client, _ = here
    endpoint = await router_of(client).get_endpoint("fraud")
    assert shown(endpoint) == {"stable": (seeded(sandbox), 100.0)}
    assert await router_of(client).claim("fraud") == endpoint.epoch == 1
    assert (await router_of(client).url("fraud")).endswith("/environments/production")
    with pytest.raises(NotFound):
        await client.router("no-such-model").get_endpoint("fraud")


async def test_a_canary_is_attached_moved_step_by_step_and_brought_to_the_end(here: Three) -> None:
    sandbox, client, new = here
    router, former = router_of(client), seeded(sandbox)
    attached = await router.put_endpoint(arms(former, new.id), expected_epoch=1)
    assert shown(attached)["canary"][1] in (0, 25)  # a pause counts at the end of a step
    for share in (25.0, 75.0):
        moved = await router.set_weights("fraud", {"stable": 100 - share, "canary": share}, expected_epoch=1)
        assert shown(moved) == {"stable": (former, 100 - share), "canary": (new.id, share)}
    again = await router.set_weights("fraud", {"stable": 25, "canary": 75})
    assert shown(again) == shown(moved)
    with pytest.raises(InvalidInput, match="only goes forward"):
        await router.set_weights("fraud", {"stable": 75, "canary": 25})
    await sandbox.control.set_speed(FAST)
    full = await router.put_endpoint(arms(former, new.id, 100.0))
    assert shown(full) == {"stable": (new.id, 100.0)}
    assert shown(await router.put_endpoint(arms(new.id))) == shown(full)
    assert (await client.get(new.id)).environment == "production"
    assert set(await controls(sandbox)) == {"promote", "pause", "resume"}
    assert (await controls(sandbox)).count("promote") == 1


async def test_a_share_of_zero_calls_the_promotion_off(here: Three) -> None:
    sandbox, client, new = here
    router, former = router_of(client), seeded(sandbox)
    await router.put_endpoint(arms(former, new.id, 25.0))
    await sandbox.control.set_speed(FAST)
    back = await router.put_endpoint(arms(former, new.id, 0.0))
    assert shown(back) == {"stable": (former, 100.0)}
    assert "cancel" in await controls(sandbox)
    assert shown(await router.put_endpoint(arms(former))) == shown(back)
    with pytest.raises(Conflict, match="attach a canary first"):
        await router.set_weights("fraud", {"stable": 75, "canary": 25})


async def test_what_was_brought_to_the_end_is_taken_back_by_promoting_the_former_one(here: Three) -> None:
    sandbox, client, new = here
    router, former = router_of(client), seeded(sandbox)
    await sandbox.control.set_speed(FAST)
    await router.put_endpoint(arms(former, new.id, 100.0))
    assert shown(await router.put_endpoint(arms(former, new.id, 0.0))) == {"stable": (former, 100.0)}


async def test_steps_that_are_not_the_vendors_are_refused_before_anything_changes(here: Three) -> None:
    sandbox, client, _ = here
    await router_of(client).check("fraud", (25.0, 50.0))
    with pytest.raises(InvalidInput, match=r"plan\.steps=\[5\.0\].*\[25\.0, 50\.0, 75\.0\]"):
        await router_of(client).check("fraud", (5.0, 25.0))
    assert await controls(sandbox) == []


async def test_a_promotion_that_runs_keeps_a_rollout_from_starting(here: Three) -> None:
    sandbox, client, new = here
    await router_of(client).put_endpoint(arms(seeded(sandbox), new.id))
    with pytest.raises(Conflict, match="runs already"):
        await router_of(client).check("fraud", (25.0,))


async def test_a_writer_that_knows_neither_what_serves_nor_what_comes_changes_nothing(here: Three) -> None:
    sandbox, client, new = here
    await sandbox.control.set_speed(FAST)
    await client.promote(new.id, environment="production")
    before = await controls(sandbox)
    with pytest.raises(StaleEpoch, match="none of the arms"):
        await router_of(client).put_endpoint(arms(seeded(sandbox)))
    with pytest.raises(StaleEpoch, match="always 1"):
        await router_of(client).put_endpoint(arms(new.id), expected_epoch=7)
    assert await controls(sandbox) == before


async def test_a_copy_is_shown_as_what_was_asked_for(here: Three) -> None:
    sandbox, client, new = here
    await client.management.create_environment(new.model_id, "staging")
    await sandbox.control.set_speed(FAST)
    await client.promote(new.id, environment="staging")  # so that production gets a copy
    await sandbox.control.set_speed(WATCHABLE * 5)
    former = seeded(sandbox)
    attached = await router_of(client).put_endpoint(arms(former, new.id))
    assert shown(attached)["canary"][0] == new.id
    await sandbox.control.set_speed(FAST)
    full = await router_of(client).put_endpoint(arms(former, new.id, 100.0))
    assert shown(full)["stable"][0] not in (former, new.id)
    assert shown(await router_of(client).put_endpoint(arms(new.id))) == shown(full)


@pytest.mark.parametrize("control", ["pause", "resume"])
async def test_a_control_whose_answer_is_lost_is_looked_up(here: Three, control: str) -> None:
    sandbox, client, new = here
    router, former = router_of(client), seeded(sandbox)
    await sandbox.control.fault(kind="lost_answer", method="POST", path=f"*{control}_promotion", times=1)
    await router.put_endpoint(arms(former, new.id))
    moved = await router.set_weights("fraud", {"stable": 50, "canary": 50})
    assert shown(moved)["canary"] == (new.id, 50.0)


async def test_windows_are_whole_minutes_of_both_arms(here: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, client, new = here
    router, former = router_of(client), seeded(sandbox)
    await router.put_endpoint(arms(former, new.id, 50.0))
    start = time.time() - 60
    for _ in range(40):
        await client.inference.predict(new.model_id, "environments/production", {"x": 1})
    assert (await router.windows("fraud", since=start))[0] == []  # not settled yet
    await sandbox.control.advance(300)  # for the sandbox the three minutes are over
    monkeypatch.setattr(metrics, "LAG_SECONDS", -120)
    windows, cursor = await router.windows("fraud", since=start)
    both = [window for window in windows if "canary" in window.arms]
    assert both
    assert sum(arm.requests for window in windows for arm in window.arms.values()) == 40
    assert all(window.weights == {"stable": 50.0, "canary": 50.0} for window in both)
    assert all(found.share is None for window in both if (found := window.to_window()))
    assert await router.windows("fraud", after=cursor) == ([], cursor)
