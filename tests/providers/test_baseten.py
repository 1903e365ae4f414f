"""Baseten in our vocabulary: the main path, against the emulator over a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Autoscaling, Capability, DeploymentStatus, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    NotFound,
    ProviderError,
)
from prefect_modeldeploy.providers.baseten import AutoscalingSettings, BasetenClient, LogQuery, MetricQuery
from tests.providers.baseten_kit import baseten, client_of, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[tuple[RunningSandbox, BasetenClient]]:
    async with baseten() as both:
        yield both


@pytest_asyncio.fixture
async def here(running: "Here") -> "Here":
    await running[0].control.reset()
    return running


Here = tuple[RunningSandbox, BasetenClient]


async def until_ready(client: BasetenClient, *ids: str) -> None:
    async for _ in client.wait(ids, lambda one: one.ready, timeout_seconds=20):
        pass


async def test_the_seeded_deployment_in_our_words(here: Here) -> None:
    sandbox, client = here
    found = await client.get(seeded(sandbox))
    assert (found.id, found.status, found.provider_status) == (seeded(sandbox), DeploymentStatus.READY, "ACTIVE")
    assert (found.ready, found.environment, found.replicas.ready) == (True, "production", 1)
    assert found.autoscaling == Autoscaling(
        min_replicas=1, max_replicas=4, target_concurrency=1, scale_down_delay_seconds=900, window_seconds=60
    )
    assert found.resources == Resources(instance_type="1x4")
    assert found.raw["is_production"] is True
    assert found.console_url == f"https://app.baseten.co/models/{found.model_id}/logs/{found.raw['id']}"
    assert await client.get(f"{found.model_id}/production") == found


async def test_deployments_are_found_by_the_models_name_and_id_and_all_of_them(here: Here) -> None:
    sandbox, client = here
    model_id = sandbox["baseten"]["seed"]["model_id"]
    expected = [seeded(sandbox)]
    assert [one.id for one in await client.find(model="sandbox-model")] == expected
    assert [one.id for one in await client.find(model=model_id)] == expected
    assert [one.id for one in await client.find()] == expected
    assert await client.find(model="nothing") == []


async def test_a_truss_is_created_served_promoted_rolled_back_and_deleted(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former = seeded(sandbox)
    created = await client.create(spec_of(make_truss(tmp_path), version="2.0"))
    assert (created.name, created.version, created.environment) == ("v2", "2.0", None)
    await until_ready(client, created.id)
    assert (await client.predict(created.id, {"x": [1, 2]}))["sum"] == 3

    promoted = await client.promote(created.id, environment="production")
    assert (promoted.id, promoted.environment, promoted.ready) == (created.id, "production", True)
    assert (await client.get(former)).environment is None

    back = await client.roll_back(former, environment="production")
    assert (back.id, back.environment) == (former, "production")
    assert (await client.roll_back(former, environment="production")).id == former

    await client.delete(created.id)
    await client.delete(created.id)
    with pytest.raises(NotFound, match="OracleVersion"):
        await client.get(created.id)


async def test_a_new_model_is_made_with_its_first_deployment_which_serves_production(
    here: Here, tmp_path: Path
) -> None:
    sandbox, client = here
    created = await client.create(spec_of(make_truss(tmp_path), "first", "brand-new"))
    assert (created.name, created.environment) == ("first", "production")
    [uploaded] = (await sandbox.control.table("baseten", "uploads")).values()
    assert uploaded["bytes"] > 100


async def test_the_same_spec_is_created_once_and_another_one_of_that_name_is_refused(
    here: Here, tmp_path: Path
) -> None:
    _, client = here
    truss = make_truss(tmp_path)
    created = await client.create(spec_of(truss))
    assert (await client.create(spec_of(truss))).id == created.id
    with pytest.raises(Conflict, match="another name"):
        await client.create(spec_of(truss, version="3"))
    (truss / "model" / "model.py").write_text("# changed")
    with pytest.raises(Conflict, match="made from another spec"):
        await client.create(spec_of(truss))


async def test_what_the_spec_says_reaches_the_vendor(here: Here, tmp_path: Path) -> None:
    _, client = here
    spec = spec_of(
        make_truss(tmp_path),
        env={"LEVEL": "debug"},
        resources=Resources(cpu_millicores=500, memory_mib=1024, gpu_type="L4"),
        options={"labels": {"git": "abc"}, "deploy_timeout_minutes": 60},
        autoscaling=Autoscaling(min_replicas=1, max_replicas=3, scale_down_delay_seconds=120),
    )
    created = await client.create(spec)
    await until_ready(client, created.id)
    config = await client.management.config(*created.id.split("/"))
    assert config["config"]["environment_variables"] == {"LEVEL": "debug"}
    assert config["config"]["resources"]["accelerator"] == "L4:1"
    assert "LEVEL: debug" in config["raw_config"]
    now = await client.get(created.id)
    assert now.raw["labels"]["git"] == "abc"
    assert now.resources == Resources(instance_type="L4:4x16")
    assert now.autoscaling is not None
    assert now.autoscaling.scale_down_delay_seconds == 120


async def test_scaling_goes_through_the_environment_for_what_serves_it(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    scaled = await client.scale(seeded(sandbox), Autoscaling(max_replicas=7))
    assert scaled.autoscaling is not None
    assert (scaled.autoscaling.min_replicas, scaled.autoscaling.max_replicas) == (1, 7)
    env = await client.management.environment(scaled.model_id, "production")
    assert env.autoscaling_settings is not None
    assert env.autoscaling_settings.max_replica == 7

    other = await client.create(spec_of(make_truss(tmp_path)))
    scaled = await client.set_autoscaling(other.id, AutoscalingSettings(max_scale_down_rate=20))
    assert scaled.raw["autoscaling_settings"]["max_scale_down_rate"] == 20
    patches = await sandbox.control.requests(method="PATCH")
    assert [one.path.rpartition("/")[2] for one in patches] == ["production", "autoscaling_settings"]


async def test_zero_and_wake() -> None:
    async with baseten() as (sandbox, client):  # of its own: a clock that has jumped cannot be set back
        this = seeded(sandbox)
        await client.predict(this, {})
        assert (await client.scale_to_zero(this)).status is DeploymentStatus.READY  # until it has been idle
        await sandbox.control.advance(901)
        asleep = await client.get(this)
        assert (asleep.status, asleep.ready, asleep.replicas.running) == (DeploymentStatus.SCALED_TO_ZERO, False, 0)
        assert (await client.wake(this)).status is DeploymentStatus.READY
        await sandbox.control.advance(901)
        assert (await client.predict(this, {"x": 1}))["sum"] == 1  # a request wakes it too
        assert (await client.get(this)).ready


async def test_stop_and_start(here: Here) -> None:
    sandbox, client = here
    this = seeded(sandbox)
    assert (await client.stop(this)).status is DeploymentStatus.STOPPED
    assert (await client.stop(this)).status is DeploymentStatus.STOPPED
    with pytest.raises(NotFound) as raised:
        await client.predict(this, {})
    assert raised.value.problem.code == "model_does_not_exist"
    with pytest.raises(InvalidInput, match="start it"):
        await client.wake(this)
    assert (await client.start(this)).status is DeploymentStatus.READY


async def test_logs_are_oldest_first_and_reach_back(here: Here) -> None:
    sandbox, client = here
    await client.stop(seeded(sandbox))
    await client.start(seeded(sandbox))
    lines = await client.logs(seeded(sandbox))
    assert lines[-2:] == ["activate: deployment-1", "model loaded"]
    assert await client.logs(seeded(sandbox), tail=1) == lines[-1:]
    query = dict((await sandbox.control.requests(path="*/logs"))[0].query)
    assert int(query["end_epoch_millis"]) - int(query["start_epoch_millis"]) == 7 * 86400 * 1000
    with pytest.raises(InvalidInput, match="tail=5000"):
        await client.logs(seeded(sandbox), tail=5000)
    typed = await client.management.logs(*seeded(sandbox).split("/"), LogQuery(includes=["loaded"], direction="asc"))
    assert {(one.level, one.message) for one in typed} == {("INFO", "model loaded")}


async def test_update_changes_what_can_be_changed_in_place_and_says_how_else(here: Here) -> None:
    sandbox, client = here
    this = seeded(sandbox)
    update = DeploymentUpdate(
        autoscaling=Autoscaling(max_replicas=2),
        options={"name": "renamed", "request_backpressure_policy": "REJECT_ON_FULL"},
    )
    changed = await client.update(this, update)
    assert changed.name == "renamed"
    assert changed.raw["request_backpressure_settings"] == {"policy": "REJECT_ON_FULL"}
    assert changed.autoscaling is not None
    assert changed.autoscaling.max_replicas == 2
    for field, value in {"source": "x", "version": "2", "environment": "e", "env": {"A": "b"}}.items():
        with pytest.raises(InvalidInput, match=f"^{field}="):
            await client.update(this, DeploymentUpdate.model_validate({field: value}))
    with pytest.raises(InvalidInput, match=r"options\.labels"):
        await client.update(this, DeploymentUpdate(options={"labels": {}}))


def test_baseten_lacks_nothing() -> None:
    assert set(Capability) == BasetenClient.capabilities


@pytest.mark.parametrize(
    ("autoscaling", "field"),
    [
        ({"window_seconds": 5}, "autoscaling.autoscaling_window"),
        ({"window_seconds": 10.5}, "autoscaling.window_seconds"),
        ({"scale_down_delay_seconds": 3601}, "autoscaling.scale_down_delay"),
        ({"min_replicas": 9}, "min_replica"),
    ],
)
async def test_settings_out_of_bounds_are_refused_by_name_before_they_are_sent(
    here: Here, autoscaling: dict[str, Any], field: str
) -> None:
    sandbox, client = here
    with pytest.raises(InvalidInput) as raised:
        await client.scale(seeded(sandbox), Autoscaling(**autoscaling))
    assert raised.value.field == field
    assert await sandbox.control.requests(method="PATCH") == []


@pytest.mark.parametrize("bad", ["", "abc", "/", "a/", "/b", "a/b/c"])
async def test_an_id_of_another_form_is_refused(here: Here, bad: str) -> None:
    with pytest.raises(InvalidInput, match="deployment_id="):
        await here[1].get(bad)


async def test_a_wrong_key_is_an_authentication_failure_and_appears_nowhere(here: Here) -> None:
    sandbox, _ = here
    planted = "planted-secret-0815"
    async with client_of(sandbox, api_key=planted) as stranger:
        with pytest.raises(AuthenticationFailed) as raised:
            await stranger.find()
        assert raised.value.problem.code == "PERMISSION_DENIED"
        with pytest.raises(AuthenticationFailed) as inferred:
            await stranger.predict(seeded(sandbox), {})
    assert planted not in "".join(repr(one) + str(one) for one in (raised.value, inferred.value, stranger))


async def test_a_model_that_fails_is_told_with_its_words(here: Here) -> None:
    sandbox, client = here
    await sandbox.control.behave(callable="math:sqrt")
    with pytest.raises(ProviderError) as raised:
        await client.predict(seeded(sandbox), {"not": "a number"})
    assert raised.value.problem.status_code == 500
    assert raised.value.problem.code == "application_error"


async def test_metrics_count_requests_by_status(here: Here) -> None:
    sandbox, client = here
    for number in range(3):
        await client.predict(seeded(sandbox), number)
    found = await client.metrics(seeded(sandbox), MetricQuery(mode="SUMMARY"))
    by_name = dict(zip([one.name for one in found.metric_descriptors], found.metric_values[0].values, strict=True))
    assert by_name["baseten_inference_requests_total"] == [3.0, 0.0, 0.0]
    with pytest.raises(ProviderError, match="Unknown metrics"):
        await client.metrics(seeded(sandbox), MetricQuery(metrics=["typo"]))


async def test_every_row_of_the_capability_table_works(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former, truss = seeded(sandbox), make_truss(tmp_path)
    made = (await client.create(spec_of(truss, "row"))).id
    rows: dict[Capability, Callable[[], Awaitable[Any]]] = {
        Capability.CREATE: lambda: client.create(spec_of(truss, "another")),
        Capability.UPDATE: lambda: client.update(made, DeploymentUpdate(options={"name": "renamed"})),
        Capability.LIST: lambda: client.find(model="sandbox-model"),
        Capability.SCALE: lambda: client.scale(made, Autoscaling(max_replicas=3)),
        Capability.SCALE_TO_ZERO: lambda: client.scale_to_zero(made),
        Capability.WAKE: lambda: client.wake(made),
        Capability.STOP: lambda: client.stop(made),
        Capability.START: lambda: client.start(made),
        Capability.PROMOTE: lambda: client.promote(made, environment="production"),
        Capability.ROLL_BACK: lambda: client.roll_back(former, environment="production"),
        Capability.PREDICT: lambda: client.predict(made, {}),
        Capability.LOGS: lambda: client.logs(made),
        Capability.METRICS: lambda: client.idle_seconds(made),
        Capability.TRAFFIC: lambda: client.router("sandbox-model").get_endpoint("fraud"),
        Capability.DELETE: lambda: client.delete(made),
    }
    assert set(rows) == set(client.capabilities)
    for call in rows.values():
        await call()
    assert [one.name for one in await client.find(model="sandbox-model")] == ["deployment-1", "another"]
