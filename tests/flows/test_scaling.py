"""Scale to zero and wake on emulators of the hosted APIs: what was let go comes back with exactly its settings."""

import asyncio
import time
from pathlib import Path
from uuid import uuid4

import pytest
import stamina
from prefect.artifacts import Artifact
from pydantic import SecretStr

from prefect_modeldeploy import DeploymentTarget, scale_to_zero, wake_up
from prefect_modeldeploy.deployments import Autoscaling, Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import FleetError
from prefect_modeldeploy.gateway import Gateway
from prefect_modeldeploy.target import client_of, register_arms
from prefect_modeldeploy.tasks._notes import LetGo, Notes
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.hosted import MAKERS, Hosted, hosted
from tests.providers.fiddler_kit import artifact, credentials, spec
from tests.sandbox.kit import running_sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

FIXED = Autoscaling(min_replicas=2, max_replicas=2)
RANGE = Autoscaling(min_replicas=2, max_replicas=3)
SETTINGS = {"fiddler": FIXED, "gradient": FIXED}


async def all_of(target: DeploymentTarget) -> dict[str, Deployment]:
    async with client_of(target) as client:
        return {one.id: one for one in await client.find(model=target.model)}


async def the_one(site: Hosted, settings: Autoscaling) -> Deployment:
    """The deployment that serves, with these settings and ready."""
    [first] = await site.production()
    async with client_of(site.target) as client:
        await client.scale(first.id, settings)
        async for _ in client.wait([first.id], lambda d: d.ready, model=site.target.model, timeout_seconds=30):
            pass
        return await client.get(first.id)


@pytest.mark.slow
@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_settings_are_exactly_the_former_ones_after_the_night(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        before = await the_one(site, SETTINGS.get(provider, RANGE))
        assert before.autoscaling is not None
        zeroes = site.target.credentials.can(Capability.SCALE_TO_ZERO)
        for _ in range(2):  # the second time as a schedule does that was not paused
            await scale_to_zero([site.target], only_if_idle_seconds=None, on_no_wake="stop")
            asleep = (await all_of(site.target))[before.id]
            assert asleep.autoscaling is not None
            assert asleep.autoscaling.min_replicas == (0 if zeroes else 2)
        rows = await wake_up([site.target], timeout_seconds=30)
        [row] = [row for row in rows if row.deployment == before.id]
        after = (await all_of(site.target))[before.id]
        assert (after.autoscaling, after.ready) == (before.autoscaling, True)
        assert row.action == ("restored" if asleep.ready else "woken")
        assert row.saved_replica_hours is not None
        assert row.saved_replica_hours > 0
        assert await Notes(LetGo, site.target.endpoint).all() == {}


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["baseten", "foundry", "scale"])
async def test_what_may_sleep_by_itself_is_woken_and_may_sleep_again(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        ready = await the_one(site, RANGE)
        async with client_of(site.target) as client:
            await client.scale(ready.id, Autoscaling(min_replicas=0, max_replicas=3))
        before = (await all_of(site.target))[ready.id]
        await scale_to_zero([site.target], only_if_idle_seconds=None)
        await wake_up([site.target], timeout_seconds=30)
        assert (await all_of(site.target))[ready.id].autoscaling == before.autoscaling


async def test_money_is_told_by_the_vendors_price_list_and_by_the_target(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path) as site:
        before = await the_one(site, RANGE)
        async with client_of(site.target) as client:
            [hourly] = (await client.prices_per_replica_hour([before])).values()
        assert hourly == pytest.approx(60 * 0.00086), "the vendor's prices are those of a minute"
        [dry] = await scale_to_zero([site.target], only_if_idle_seconds=None, dry_run=True)
        assert dry.cost_per_hour == pytest.approx(dry.replicas * hourly)
        dear = site.target.model_copy(update={"price_per_replica_hour": 36.0})
        await scale_to_zero([dear], only_if_idle_seconds=None)
        began = time.time()
        [row] = await wake_up([dear], timeout_seconds=30)
        assert row.saved_replica_hours is not None
        assert row.saved_money == pytest.approx(36.0 * row.saved_replica_hours)
        assert row.saved_replica_hours < dry.replicas * (time.time() - began + 60) / 3600
        table = await Artifact.aget("wake-up")
        assert table is not None
        assert "replica hours" in str(table.description)


async def test_a_dry_run_changes_and_remembers_nothing(tmp_path: Path) -> None:
    async with hosted("scale", tmp_path) as site:
        before = await the_one(site, RANGE)
        rows = await scale_to_zero([site.target], only_if_idle_seconds=None, dry_run=True)
        assert {(row.action, row.dry_run, row.cost_per_hour) for row in rows} == {("scaled_to_zero", True, None)}
        assert (await all_of(site.target))[before.id].autoscaling == before.autoscaling
        assert await Notes(LetGo, site.target.endpoint).all() == {}


async def test_a_target_that_fails_does_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    async with hosted("scale", tmp_path) as well, hosted("fiddler", tmp_path) as broken:
        before = await the_one(well, RANGE)
        await broken.control.fault(provider="fiddler", kind="status", status=403, times=None)
        targets = [broken.target, well.target]
        with pytest.raises(FleetError, match=rf"the others are done: {broken.target.endpoint}/\*"):
            await scale_to_zero(targets, only_if_idle_seconds=None, on_no_wake="stop")
        asleep = (await all_of(well.target))[before.id].autoscaling
        assert asleep is not None
        assert asleep.min_replicas == 0
        with pytest.raises(FleetError):
            await wake_up(targets, timeout_seconds=30)
        assert (await all_of(well.target))[before.id].autoscaling == before.autoscaling


@pytest.mark.parametrize("pattern", ["fraud-v?", "production"])
async def test_what_is_excluded_by_name_or_environment_is_left_alone(pattern: str, tmp_path: Path) -> None:
    async with hosted("scale", tmp_path) as site:
        before = await the_one(site, RANGE)
        [row] = await scale_to_zero([site.target], only_if_idle_seconds=None, exclude=["other-*", pattern])
        assert (row.action, row.reason) == ("kept", f"excluded by {pattern!r}")
        assert (await all_of(site.target))[before.id].autoscaling == before.autoscaling


async def test_what_has_an_excluded_tag_is_left_alone(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path) as site:
        spec = site.candidate.model_copy(update={"options": {"labels": {"team": "risk"}}})
        async with client_of(site.target) as client:
            made = await client.create(spec)
        assert made.tags == ("team=risk",)
        rows = await scale_to_zero([site.target], only_if_idle_seconds=None, exclude=["team=*"])
        assert {row.deployment: row.reason for row in rows if row.action == "kept"}[made.id] == "excluded by 'team=*'"
        assert any(row.action != "kept" for row in rows), "the others are let go"


@pytest.mark.slow
async def test_wake_finds_what_scale_to_zero_stopped_and_leaves_what_somebody_else_did(tmp_path: Path) -> None:
    async with running_sandbox("fiddler") as sandbox:
        target = DeploymentTarget(credentials=credentials(sandbox), model="churn", endpoint=f"churn-{uuid4().hex[:8]}")
        async with client_of(target) as client:
            made = await client.create(spec(artifact(tmp_path / "artifact")))
            await client.stop(made.id)
        before = {id: one.status for id, one in (await all_of(target)).items()}
        assert sorted(before.values()) == [DeploymentStatus.READY, DeploymentStatus.STOPPED]
        await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")
        assert {one.status for one in (await all_of(target)).values()} == {DeploymentStatus.STOPPED}
        await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")  # as a schedule does
        [row] = await wake_up([target], timeout_seconds=30)
        assert (row.action, row.endpoint) == ("woken", target.endpoint)
        assert {id: one.status for id, one in (await all_of(target)).items()} == before
        assert await wake_up([target]) == []


async def test_what_nobody_can_tell_the_idleness_of_is_kept(tmp_path: Path) -> None:
    async with hosted("fiddler", tmp_path) as site:
        assert not site.target.credentials.can(Capability.METRICS)
        [row] = await scale_to_zero([site.target], only_if_idle_seconds=300, on_no_wake="stop")
        assert (row.action, row.reason) == ("kept", "nobody knows how long it has been idle")
        assert {one.status for one in (await all_of(site.target)).values()} == {DeploymentStatus.READY}
        assert await Notes(LetGo, site.target.endpoint).all() == {}


@pytest.mark.slow
async def test_where_the_provider_measures_nothing_the_gateway_knows_how_idle_its_arms_are(tmp_path: Path) -> None:
    async with running_sandbox("scale") as sandbox, arms_kit.site(tmp_path, sandbox) as site:
        target = site.target(
            arms_kit.credentials(site, "scale"), sandbox["scale"]["seed"]["model_instance_id"], f"e{uuid4().hex[:8]}"
        )
        [arm] = await all_of(target)
        await register_arms(target, [arm])
        stable = EndpointArm(name="stable", upstream=arm, weight=100)
        await site.node.put_endpoint(Endpoint(name=target.endpoint, arms=(stable,)))

        async def idle() -> bool:
            await asyncio.sleep(0.1)
            return (await site.node.arm_idle_seconds(arm) or 0.0) > 0.3

        [row] = await scale_to_zero([target], only_if_idle_seconds=300)
        assert (row.action, row.reason[:17]) == ("kept", "was idle for only")
        away = target.model_copy(update={"gateway": Gateway(url="http://127.0.0.1:1", token=SecretStr("t" * 32))})
        with pytest.raises(FleetError), stamina.set_testing(True):  # one that cannot be asked says nothing
            await scale_to_zero([away], only_if_idle_seconds=0.0)
        assert (await all_of(target))[arm].status is DeploymentStatus.READY
        await eventually(idle)  # though it never had a request
        [row] = await scale_to_zero([target], only_if_idle_seconds=0.3, dry_run=True)
        assert row.action == "scaled_to_zero"

        answer = await site.ask(await site.url(target.endpoint), {"x": 1})
        assert answer.status_code == 200, answer.text
        [row] = await scale_to_zero([target], only_if_idle_seconds=300)
        assert row.reason.startswith("was idle for only")

        await eventually(idle)
        [row] = await scale_to_zero([target], only_if_idle_seconds=0.3)
        assert (row.action, row.reason) == ("scaled_to_zero", "idle")
