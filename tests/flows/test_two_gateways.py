"""Two gateways have an endpoint of the same name: the rollout of one is never driven against the other."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from prefect.variables import Variable

from prefect_modeldeploy import (
    DeploymentTarget,
    LocalServing,
    RolloutRecord,
    canary_rollout,
    plan_rollout,
    promote_to_production,
    reconcile_rollouts,
    roll_back,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import Hosted, hosted
from tests.flows.test_native import dying_at

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

HALF = QUICK.model_copy(update={"steps": (50,), "on_lost": "roll_back"})


@pytest_asyncio.fixture
async def other(site: Site, tmp_path: Path) -> AsyncIterator[Site]:
    """A second node, with an endpoint and a first version of the very same names."""
    other = Site(site.target.model_copy(update={"credentials": LocalServing(home=tmp_path / "node")}))
    try:
        async with client_of(other.target) as client:
            first = await client.create(other.spec("1", "good"))
            async for _ in client.wait([first.id], lambda deployment: deployment.ready):
                pass
            stable = EndpointArm(name="stable", upstream=first.id, weight=100)
            await client.router().put_endpoint(Endpoint(name=other.target.endpoint, arms=(stable,)))
        yield other
    finally:
        await stop_node(tmp_path / "node")


async def killed_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> RolloutRecord:
    """The record of a rollout whose process was killed just after it gave the canary half of the requests."""
    with dying_at(Phase.SHIFTED, monkeypatch), pytest.raises(KeyboardInterrupt):
        await canary_rollout(site.target, site.spec("2", "good"), HALF)
    assert await site.arms() == arms(site, canary=50.0)
    return await record_of(site.target)


async def record_of(target: DeploymentTarget) -> RolloutRecord:
    record = await _journal.load(target.endpoint)
    assert record is not None
    return record


def arms(site: Site, canary: float | None = None) -> dict[str, tuple[str, float]]:
    """Version 1 serves; version 2 has its share, or is no arm."""
    model = site.target.model
    stable = {"stable": (f"{model}-1", 100.0 - (canary or 0.0))}
    return stable if canary is None else {**stable, "canary": (f"{model}-2", canary)}


async def test_an_open_rollout_is_refused_at_the_other_gateway_whatever_is_asked_for(
    site: Site, other: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, candidate = await killed_at(site, monkeypatch), other.spec("2", "good")
    claim = await aclaim_endpoint(other.target)
    assert claim.epoch == record.epoch, "no number tells the two endpoints apart"

    here, there, name = await site.target.split_by(), await other.target.split_by(), site.target.endpoint
    assert here != there
    hint = f"{here} has an endpoint of this name too.*this target's is at {there}: give one of the two another name"
    for attempt in (
        canary_rollout(other.target, candidate, HALF),
        promote_to_production(other.target, candidate),
        roll_back(other.target),
        reconcile_rollouts([other.target]),
    ):
        with pytest.raises(InvalidInput, match=f"endpoint='{name}': {hint}"):
            await attempt
    assert any(
        hint.partition(".*")[0] in each.message for each in (await plan_rollout(other.target, candidate)).refusals
    )

    assert await record_of(site.target) == record
    assert (await site.arms(), await other.arms()) == (arms(site, canary=50.0), arms(other))
    assert (await other.endpoint()).epoch == claim.epoch


async def test_reconcile_finds_the_target_that_has_the_rollout_and_then_the_name_is_free(
    site: Site, other: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for targets in ([site.target, other.target], [other.target, site.target]):
        await killed_at(site, monkeypatch)
        [ended] = await reconcile_rollouts(targets)
        assert (ended.outcome, ended.decided_by) == ("rolled_back", "reconcile")
        assert (await site.arms(), await other.arms()) == (arms(site), arms(other))

    promoted = await promote_to_production(other.target, other.spec("2", "good"))
    assert promoted.outcome == "promoted", promoted.reason
    with pytest.raises(InvalidInput, match=r"no record of what .* served before; name the deployment"):
        await roll_back(site.target)
    assert await site.arms() == arms(site)


async def test_a_record_that_does_not_say_its_gateway_is_gone_on_with(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version wrote it."""
    record = await killed_at(site, monkeypatch)
    older = {name: value for name, value in json.loads(record.saved()).items() if name not in ("gateway", "places")}
    await Variable.aset(_journal.variable_name(record.endpoint), json.dumps(older), overwrite=True)
    assert await record_of(site.target) == record.model_copy(update={"gateway": "", "places": ()})
    [ended] = await reconcile_rollouts([site.target])
    assert (ended.outcome, await site.arms()) == ("rolled_back", arms(site))


async def test_where_no_gateway_is_in_front_the_providers_addresses_tell_two_endpoints_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted("scale", tmp_path) as site, hosted("scale", tmp_path) as elsewhere:
        target = elsewhere.target.model_copy(update={"endpoint": site.target.endpoint})
        with dying_at(Phase.READY, monkeypatch), pytest.raises(KeyboardInterrupt):
            await promote_to_production(site.target, site.candidate, mode="native")
        before, record = await elsewhere.served(), await record_of(target)
        for attempt in (promote_to_production(target, elsewhere.candidate, mode="native"), roll_back(target)):
            with pytest.raises(InvalidInput, match=f"scale {address(site)} has .* at scale {address(elsewhere)}: give"):
                await attempt
        assert (await elsewhere.served(), await record_of(target)) == (before, record)
        assert (await roll_back(site.target)).outcome == "rolled_back"


def address(site: Hosted) -> str:
    return urlsplit(site.target.credentials.base_url).netloc  # type: ignore[union-attr]
