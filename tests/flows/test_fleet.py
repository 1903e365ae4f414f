"""Many deployments at once: what there is, what nothing routes to, and what is due for versions that were replaced."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from prefect import flow
from prefect.artifacts import Artifact
from pydantic import SecretStr

from prefect_modeldeploy import (
    CanaryPlan,
    DeploymentSpec,
    DeploymentTarget,
    LocalServing,
    RolloutRecord,
    clean_up_orphans,
    fleet_report,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.flows._start import run_rollout
from prefect_modeldeploy.local.autostart import ensure_node
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.rollout.record import Actor
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes
from prefect_modeldeploy.tasks._rows import FleetRow
from prefect_modeldeploy.tasks._surroundings import Surroundings
from prefect_modeldeploy.tasks.cleaning import _Clean
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Shadow
from tests.conftest import eventually
from tests.flows.conftest import Site

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow
async def promote(target: DeploymentTarget, candidate: DeploymentSpec, plan: CanaryPlan) -> RolloutRecord:
    """A promotion without steps, with a plan for its end."""
    return await run_rollout(target, candidate, plan, kind="promotion")


async def create(site: Site, *versions: str) -> None:
    async with client_of(site.target) as client:
        made = [(await client.create(site.spec(version, "good"))).id for version in versions]
        async for _ in client.wait(made, lambda d: d.ready):
            pass


async def route(site: Site, endpoint: str, shadow: Shadow | None = None, **arms: tuple[str, float]) -> None:
    async with client_of(site.target) as client:
        made = tuple(EndpointArm(name=name, upstream=id, weight=weight) for name, (id, weight) in arms.items())
        await client.router().put_endpoint(Endpoint(name=endpoint, arms=made, shadow=shadow))  # type: ignore[call-arg]


def record_of(site: Site, phase: Phase, **names: Any) -> RolloutRecord:
    target = site.target
    fields = {"provider": "local", "model": target.model, "endpoint": target.endpoint, "who": Actor(name="a person")}
    return RolloutRecord(id="r", plan=CanaryPlan(), started_at=datetime.now(UTC), phase=phase, **fields, **names)  # type: ignore[arg-type]


async def own(site: Site) -> dict[str, str]:
    return {id: status for id, status in (await site.deployments()).items() if id.startswith(site.target.model)}


async def has_only(site: Site, *versions: str) -> bool:
    """Once requests in flight have been answered, what was deleted is gone."""
    return set(await own(site)) == {f"{site.target.model}-{version}" for version in versions}


def told(rows: list[FleetRow]) -> dict[str, tuple[str, str]]:
    """What was done, and why, by version."""
    return {row.deployment.rpartition("-")[2]: (row.action, row.reason) for row in rows}


@pytest_asyncio.fixture
async def former(site: Site) -> Former:
    """Version 2 has replaced version 1, which is kept warm for an hour and deleted an hour later."""
    plan = CanaryPlan(steps=(), former="scale_to_zero", former_warm_seconds=3600, former_delete_after_seconds=3600)
    record = await promote(site.target, site.spec("2", "good"), plan)
    assert record.outcome == "promoted", record.reason
    return (await Notes(Former, site.target.endpoint).all())[str(record.stable)]


@pytest.mark.slow
async def test_a_former_version_is_kept_warm_then_at_zero_then_deleted(site: Site, former: Former) -> None:
    notes, past = Notes(Former, site.target.endpoint), datetime.now(UTC) - timedelta(seconds=1)
    assert former.zero_at is not None
    assert former.delete_at == former.zero_at + timedelta(hours=1)

    rows = told(await clean_up_orphans([site.target], action="delete", older_than_seconds=0))
    assert rows["1"][0] == "kept"
    assert rows["1"][1].startswith("warm for a roll-back until")
    [kept] = [row for row in await scale_to_zero([site.target], only_if_idle_seconds=None) if "-1" in row.deployment]
    assert kept.reason.startswith("kept warm for a roll-back until")
    await wake_up([site.target])

    await notes.put(former.model_copy(update={"zero_at": past}))
    dry = await clean_up_orphans([site.target], dry_run=True)
    assert told(dry)["1"][0] == "scaled_to_zero"
    assert set((await own(site)).values()) == {"READY"}
    assert told(await clean_up_orphans([site.target]))["1"][0] == "scaled_to_zero"
    assert told(await clean_up_orphans([site.target]))["1"][1].startswith("for a roll-back until")

    await notes.put(former.model_copy(update={"zero_at": None, "delete_at": past}))
    assert told(await clean_up_orphans([site.target]))["1"][0] == "deleted"
    assert await notes.all() == {}
    await eventually(lambda: has_only(site, "2"))
    assert told(await clean_up_orphans([site.target])) == {
        "2": ("kept", f"routed by {site.target.endpoint}: stable 100 %")
    }


@pytest.mark.slow
async def test_a_former_version_that_was_rolled_back_to_is_no_former_version_any_more(
    site: Site, former: Former
) -> None:
    notes = Notes(Former, site.target.endpoint)
    await roll_back(site.target)
    assert await notes.all() == {}
    await notes.put(former.model_copy(update={"delete_at": datetime.now(UTC) - timedelta(days=1)}))
    assert told(await clean_up_orphans([site.target]))["1"][0] == "kept"
    assert await notes.all() == {}


@pytest.mark.slow
async def test_what_was_deleted_by_hand_is_forgotten(site: Site) -> None:
    notes = Notes(Former, site.target.endpoint)
    await notes.put(Former(deployment="gone-1", rollout="r", delete_at=datetime.now(UTC)))
    await clean_up_orphans([site.target], dry_run=True)
    assert set(await notes.all()) == {"gone-1"}
    await clean_up_orphans([site.target])
    assert await notes.all() == {}


@pytest.mark.slow
async def test_orphans_are_found_and_nothing_else_is_ever_touched(site: Site) -> None:
    name, model = site.target.endpoint, site.target.model
    await create(site, "2", "3", "4", "5", "6", "7")
    await route(site, f"{name}-b", stable=(f"{model}-1", 100), canary=(f"{model}-2", 0))
    shadow = Shadow(arm="canary", share=10)
    await route(site, f"{name}-c", shadow, stable=(f"{model}-1", 100), canary=(f"{model}-3", 0))
    await _journal.save(record_of(site, Phase.SHIFTED, stable=f"{model}-4", canary="other"))
    later = datetime.now(UTC) + timedelta(hours=1)
    await Notes(Former, name).put(Former(deployment=f"{model}-5", rollout="r", zero_at=later))
    await Notes(Former, f"{name}-b").put(Former(deployment=f"{model}-7", rollout="r", delete_at=datetime.now(UTC)))

    young = told(await clean_up_orphans([site.target], action="delete"))["6"]
    assert young[0] == "kept"
    assert young[1].startswith("is only")

    dear = site.target.model_copy(update={"price_per_replica_hour": 2.5})
    rows = await clean_up_orphans([dear], older_than_seconds=0)
    assert {row.cost_per_hour for row in rows} == {2.5}
    assert told(rows) == {
        "1": ("kept", f"routed by {name}: stable 100 %; {name}-b: stable 100 %; {name}-c: stable 100 %"),
        "2": ("kept", f"routed by {name}-b: canary 0 %"),
        "3": ("kept", f"routed by {name}-c: canary 0 %, shadow"),
        "4": ("kept", f"{name} has a rollout at SHIFTED"),
        "5": ("kept", f"warm for a roll-back until {later:%Y-%m-%d %H:%M} UTC"),
        "6": ("orphan", "nothing routes to it; it is READY"),
        "7": ("kept", "a rollout of another endpoint has planned when it goes"),
    }
    await clean_up_orphans([site.target], action="delete", older_than_seconds=0, dry_run=True)
    assert set((await own(site)).values()) == {"READY"}
    rows = await clean_up_orphans([site.target], action="delete", older_than_seconds=0)
    assert {version for version, (action, _) in told(rows).items() if action == "deleted"} == {"6"}
    await eventually(lambda: has_only(site, "1", "2", "3", "4", "5", "7"))
    table = await Artifact.aget("clean-up-orphans")
    assert table is not None
    assert "1 deleted" in str(table.description)


async def test_an_orphan_that_sleeps_is_not_woken_in_the_morning(site: Site) -> None:
    await create(site, "2")
    await scale_to_zero([site.target], only_if_idle_seconds=None)
    assert len(await Notes(LetGo, site.target.endpoint).all()) == 2
    await clean_up_orphans([site.target], action="scale_to_zero", older_than_seconds=0)
    assert [row.deployment for row in await wake_up([site.target])] == [f"{site.target.model}-1"]


async def test_what_is_routed_to_meanwhile_is_let_be(site: Site) -> None:
    """Between the look at all and the deed, somebody puts the orphan to use."""
    async with client_of(site.target) as client:
        first = await client.get(f"{site.target.model}-1")
        clean = _Clean(site.target, client, Surroundings([], []), {}, set(), {}, "delete", 0.0, dry_run=False)
        row = await clean(first)
    assert (row.action, row.reason) == ("kept", f"routed by {site.target.endpoint}: stable 100 %")
    assert await own(site) == {first.id: "READY"}


async def test_a_rollout_in_flight_keeps_its_deployments_awake(site: Site) -> None:
    await create(site, "2", "3")
    model = site.target.model
    await _journal.save(record_of(site, Phase.READY, stable=f"{model}-1", canary=f"{model}-2"))
    rows = told(await scale_to_zero([site.target], only_if_idle_seconds=None))
    assert {version: action for version, (action, _) in rows.items()} == {
        "1": "kept",
        "2": "kept",
        "3": "scaled_to_zero",
    }
    assert rows["1"][1] == f"{site.target.endpoint} has a rollout at READY"


async def test_what_has_requests_is_kept_awake_without_being_told(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers, 5)
        [row] = await scale_to_zero([site.target])
    assert row.action == "kept"
    assert row.reason.startswith("was idle for only ")
    assert await own(site) == {f"{site.target.model}-1": "READY"}


async def test_the_report_has_every_deployment_and_says_which_target_it_could_not_look_at(
    site: Site,
) -> None:
    await create(site, "2")
    name, model = site.target.endpoint, site.target.model
    await _journal.save(record_of(site, Phase.READY, stable=f"{model}-1", canary=f"{model}-2"))
    home = Home(site.target.credentials.home)  # type: ignore[union-attr]
    refused = LocalServing(url=(await ensure_node(home)).control_url, token=SecretStr("wrong"))
    lost = DeploymentTarget(credentials=refused, model="m", endpoint="lost")
    dear = site.target.model_copy(update={"price_per_replica_hour": 2.5})
    first, second, failed = await fleet_report([dear, lost])
    assert (first.deployment, first.status, first.replicas) == (f"{model}-1", "READY", 1)
    assert (first.routes, second.routes) == (f"{name}: stable 100 %", None)
    assert first.rollout == second.rollout == f"{name} has a rollout at READY"
    assert (first.cost_per_hour, failed.cost_per_hour) == (2.5, None)
    assert first.idle_seconds is not None
    assert (failed.deployment, failed.status) == ("*", "UNKNOWN")
    assert failed.reason
    table = await Artifact.aget("fleet-report")
    assert table is not None
    assert str(table.description) == "3 deployments, 2 replicas: 5 an hour"
