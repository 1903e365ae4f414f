"""Containers behind the gateway, with live traffic: the same flows as everywhere, and not one request lost."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from prefect_modeldeploy import (
    Autoscaling,
    DeploymentSpec,
    DeploymentTarget,
    DeploymentUpdate,
    DockerServing,
    Gateway,
    LocalServing,
    Resources,
    canary_rollout,
    clean_up_orphans,
    fleet_report,
    promote_to_production,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.errors import ProviderUnavailable
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.providers.matrix import fit
from prefect_modeldeploy.target import client_of, router_of
from prefect_modeldeploy.tasks import ascale_deployment, aset_arms, aupdate_deployment
from tests.conftest import eventually
from tests.docker.conftest import Host, ready
from tests.flows.conftest import MODELS, QUICK
from tests.traffic.load import load

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

ARMS = ("stable", "canary")
BODY = b'{"x": 1}'
USUAL = {"ERROR_RATE": "0.04"}
"""Models fail now and then: where nothing ever fails, proof of safety takes long."""


@pytest_asyncio.fixture
async def target(host: Host, tmp_path: Path) -> AsyncIterator[DeploymentTarget]:
    """Behind the gateway of a node of its own."""
    info = await ensure_node(tmp_path)
    gateway = Gateway(url=info.control_url, token=Home(tmp_path).token())
    yield DeploymentTarget(credentials=DockerServing(), model=host.model, endpoint=host.model, gateway=gateway)
    await stop_node(tmp_path)


async def url_of(target: DeploymentTarget) -> str:
    async with router_of(target) as (router, name):
        return f"{await router.url(name)}/predict"


async def arms_of(target: DeploymentTarget) -> dict[str, tuple[str, float]]:
    async with router_of(target) as (router, name):
        return {arm.name: (arm.upstream, arm.weight) for arm in (await router.get_endpoint(name)).arms}


async def served_by(url: str, requests: int = 60, what: str = "replica") -> Counter[str]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return Counter([(await http.post(url, json={})).json()[what] for _ in range(requests)])


async def test_a_good_canary_is_promoted_and_nothing_is_lost(host: Host, target: DeploymentTarget) -> None:
    two = Autoscaling(min_replicas=2)
    first = await promote_to_production(target, host.spec("1", autoscaling=two, env=USUAL))
    assert first.outcome == "promoted", first.reason
    assert len(await served_by(await url_of(target))) == 2, "every replica gets its part"
    async with load(await url_of(target), rate=150, body=BODY) as answers:
        await eventually(lambda: answers.count > 200)
        good = await canary_rollout(target, host.spec("2", autoscaling=two, env=USUAL), QUICK)
        assert good.outcome == "promoted", good.reason
        assert await arms_of(target) == {"stable": (f"{host.model}-2", 100.0)}
        assert {one.status for one in host.containers() if "-1-g1" in one.name} == {"exited"}, "stopped, not deleted"
    assert answers.by_arm["canary"] > 0
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_what_is_broken_is_rolled_back_and_leaves_nothing_behind(host: Host, target: DeploymentTarget) -> None:
    first = await promote_to_production(target, host.spec("1", env=USUAL))
    async with load(await url_of(target), rate=150, body=BODY) as answers:
        await eventually(lambda: answers.count > 200)
        bad = await canary_rollout(target, host.spec("2", env={"ERROR_RATE": "0.7"}), QUICK)
        assert (bad.outcome, bad.decided_by) == ("rolled_back", "failures"), bad.reason
        crashing = await canary_rollout(target, host.spec("3", env={"CRASH": "1"}), QUICK)
        assert crashing.outcome == "rolled_back"
        assert "no model here" in crashing.reason
        missing = await canary_rollout(target, host.spec("4", source="no/such:1"), QUICK)
        assert missing.outcome == "rolled_back"
        assert "is not on the Docker host" in missing.reason
    assert set(answers.failures) == {"status 500"}
    assert await arms_of(target) == {"stable": (first.canary, 100.0)}
    assert host.names() == ["g1-r0"]


async def test_what_serves_is_scaled_updated_and_crashes_and_nothing_is_lost(
    host: Host, target: DeploymentTarget
) -> None:
    name = (await promote_to_production(target, host.spec("1"))).canary
    url = await url_of(target)
    async with load(url, rate=150, body=BODY) as answers, client_of(target) as client:
        await eventually(lambda: answers.count > 50)
        await ascale_deployment(target, name, Autoscaling(min_replicas=3))
        assert len(await served_by(url)) == 3
        await aupdate_deployment(target, name, DeploymentUpdate(version="2", env={"VERSION": "2"}))
        assert len(await served_by(url)) == 3
        await ascale_deployment(target, name, Autoscaling(min_replicas=2))
        replicas = await served_by(url)
        assert len(replicas) == 2
        with pytest.raises(ProviderUnavailable):
            await client.predict(name, {}, path="/crash")
        seen = answers.count
        await eventually(lambda: answers.count > seen + 100)
        await ready(client, await client.get(name))
        await eventually(lambda: all_of(url, set(replicas)))
    assert answers.failures == []
    assert host.names() == ["g2-r0", "g2-r1"]

    await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")
    assert {one.status for one in host.containers()} == {"exited"}
    await wake_up([target])
    assert len(await served_by(url)) == 2, "no request wakes them, the flow does"


async def test_after_a_night_at_zero_its_settings_are_what_they_were(host: Host, target: DeploymentTarget) -> None:
    resources = Resources(cpu_millicores=500, memory_mib=256)
    spec = host.spec(autoscaling=Autoscaling(min_replicas=2), resources=resources, options={"labels": {"team": "risk"}})
    await promote_to_production(target, spec)

    async def settings() -> object:
        async with client_of(target) as client:
            now = await client.get(spec.name)
        shown = [(one.name, one.attrs["Config"], one.attrs["HostConfig"]) for one in host.containers()]
        return now.status, now.autoscaling, now.resources, now.tags, now.raw["addresses"], shown

    before = await settings()
    await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")
    assert {one.status for one in host.containers()} == {"exited"}
    await wake_up([target])
    assert await settings() == before


async def test_the_former_version_serves_again_and_what_nothing_routes_to_is_found_and_removed(
    host: Host, target: DeploymentTarget
) -> None:
    former, newer = host.spec("1", autoscaling=Autoscaling(min_replicas=2)), host.spec("2")
    for spec in (former, newer):
        record = await promote_to_production(target, spec)
        assert record.outcome == "promoted", record.reason
    url, routes = await url_of(target), f"{host.model}: stable 100 %"
    assert await served_by(url, what="version") == {"2": 60}
    async with load(url, rate=100, body=BODY) as answers:
        await eventually(lambda: answers.count > 50)
        back = await roll_back(target, note="odd answers")
        assert (back.kind, back.outcome, back.canary) == ("roll_back", "promoted", former.name), back.reason
        assert await served_by(url, what="version") == {"1": 60}
    assert answers.failures == []

    assert {row.deployment: (row.status, row.replicas, row.routes) for row in await fleet_report([target])} == {
        former.name: ("READY", 2, routes),
        newer.name: ("STOPPED", 0, None),
    }
    [kept, orphan] = await clean_up_orphans([target], older_than_seconds=0)
    assert (kept.deployment, kept.action, kept.reason) == (former.name, "kept", f"routed by {routes}")
    assert (orphan.deployment, orphan.action) == (newer.name, "orphan")
    assert orphan.reason == "nothing routes to it; it is STOPPED"
    assert host.names() == ["g1-r0", "g1-r1", "g1-r0"], "it was only reported"
    young = await clean_up_orphans([target], action="delete")
    assert {row.action for row in young} == {"kept"}, "it was in a rollout a moment ago"
    gone = await clean_up_orphans([target], action="delete", older_than_seconds=0)
    assert [(row.deployment, row.action) for row in gone] == [(former.name, "kept"), (newer.name, "deleted")]
    assert host.names() == ["g1-r0", "g1-r1"]
    assert await served_by(url, what="version") == {"1": 60}

    async with router_of(target) as (router, name):
        assert isinstance(router, NodeClient)
        await router.delete_endpoint(name)
    await clean_up_orphans([target], action="delete", older_than_seconds=0)
    assert host.containers() == [], "nothing is left once nobody needs it"


async def test_a_container_and_a_replica_of_the_node_share_an_endpoint(
    host: Host, target: DeploymentTarget, tmp_path: Path
) -> None:
    """Docker's cells of the matrix in docs/canary-across-providers.md: native, as the node's own."""
    local = LocalServing(home=tmp_path)
    source = "prefect_modeldeploy.sandbox.behaviours:echo"
    python_path = {"python_path": [str(MODELS)]}
    async with local.get_client() as client:
        await ready(
            client, await client.create(DeploymentSpec(name="mine", model="m", source=source, options=python_path))
        )
    await promote_to_production(target, host.spec("1"))
    both = target.model_copy(update={"other_credentials": local})
    assert fit(target.credentials, local) == fit(local, target.credentials) == "native"
    await aset_arms(both, {"stable": (host.spec("1").name, 50.0), "canary": ("mine", 50.0)})
    url = await url_of(target)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answers = [await http.post(url, json={"x": 1}, headers={"X-Modeldeploy-Arm": arm}) for arm in ARMS]
    assert [answer.json()["echo"] for answer in answers] == [{"x": 1}] * 2


async def all_of(url: str, replicas: set[str]) -> bool:
    return set(await served_by(url, 20)) == replicas
