"""Fiddler in our words: every capability against the emulator, over a real socket."""

from pathlib import Path

import pytest

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentStatus,
    DeploymentUpdate,
    Resources,
)
from prefect_modeldeploy.errors import Conflict, DeploymentFailed, InvalidInput, NotFound, UnsupportedOperation
from prefect_modeldeploy.providers.fiddler import DeploymentParams, FiddlerClient
from prefect_modeldeploy.providers.fiddler.notes import read_notes
from tests.providers.fiddler_kit import (
    PACKAGE,
    Account,
    account,
    artifact,
    credentials,
    fiddler,
    fiddler_sandbox,
    seed,
    spec,
)
from tests.sandbox.kit import RunningSandbox

__all__ = ["account", "fiddler_sandbox"]


@pytest.fixture
def sandbox(account: Account) -> RunningSandbox:
    return account.sandbox


@pytest.fixture
def client(account: Account) -> FiddlerClient:
    return account.client


async def awaited(client: FiddlerClient, deployment: Deployment, seconds: float = 20.0) -> Deployment:
    async for seen in client.wait(
        [deployment.id], lambda d: d.ready, model=deployment.model_id, timeout_seconds=seconds
    ):
        deployment = seen[0]
    return deployment


# --- looking ----------------------------------------------------------------------------------------------------------


async def test_a_deployment_is_told_in_our_words_and_kept_whole(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    found = await client.get(seed(sandbox))
    assert (found.provider, found.model_id, found.version) == ("fiddler", "churn", "v1")
    assert (found.status, found.ready, found.provider_status) == (DeploymentStatus.READY, True, "ACTIVE")
    assert found.resources == Resources(cpu_millicores=100, memory_mib=256)
    assert found.autoscaling == Autoscaling(min_replicas=1, max_replicas=1)
    assert found.endpoint_url == f"{sandbox['fiddler']['base_url']}/v3/predict"
    assert found.created_by == "ada@acme.example"
    assert found.created_at is not None
    assert found.raw["deployment"]["image_uri"] == "md-base/python/python-311:1.0.0"
    assert found.raw["model"]["schema"]["columns"][0]["name"] == "age"


async def test_deployments_are_found_by_model_name_and_by_version_id(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    made = await client.create(spec(artifact(tmp_path)))
    assert {d.id for d in await client.find()} == {seed(sandbox), made.id}
    assert {d.id for d in await client.find(model="churn")} == {seed(sandbox), made.id}
    assert [d.id for d in await client.find(model=made.id)] == [made.id]
    assert await client.find(model="nothing") == []


async def test_what_is_not_there_is_not_found(client: FiddlerClient) -> None:
    with pytest.raises(NotFound) as refused:
        await client.get("00000000-0000-0000-0000-0000000003e7")
    assert refused.value.problem.code == "ObjectNotFound"
    assert "Model not found" in refused.value.problem.message


# --- creating ---------------------------------------------------------------------------------------------------------


async def test_create_makes_a_version_deploys_the_artifact_and_is_ready(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    wanted = spec(
        artifact(tmp_path),
        autoscaling=Autoscaling(min_replicas=2),
        resources=Resources(cpu_millicores=250, memory_mib=512),
        options={"image_uri": "md-base/python/python-39:2.0.2"},
    )
    ready = await awaited(client, await client.create(wanted))
    assert (ready.name, ready.version, ready.replicas.ready) == ("churn-v2", "v2", 2)
    assert ready.raw["deployment"]["image_uri"] == "md-base/python/python-39:2.0.2"
    assert ready.raw["model"]["spec"]["inputs"] == ["age", "balance"], "copied from the former version"
    [answer] = await client.predict(ready.id, {"age": 3, "balance": 4.5})
    assert answer["sum"] == 7.5
    downloaded = await client.download_artifact(ready.id, tmp_path / "back")
    assert (downloaded / "package.py").read_text() == PACKAGE


async def test_the_same_spec_is_the_same_deployment_and_another_one_is_a_conflict(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    first = await client.create(spec(artifact(tmp_path / "a")))
    assert (await client.create(spec(artifact(tmp_path / "a")))).id == first.id
    assert len(await sandbox.control.requests(method="POST", path="*/deploy-artifact")) == 1
    with pytest.raises(Conflict, match="another version"):
        await client.create(spec(artifact(tmp_path / "b", PACKAGE + "# changed\n")))
    with pytest.raises(Conflict):
        await client.create(spec(artifact(tmp_path / "a"), version="v1"))


async def test_a_model_without_a_deployment_gets_one(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    former = await client.v3.model(seed(sandbox))
    fields = {name: former.model_extra[name] for name in ("schema", "spec")}  # type: ignore[index]
    mine = await client.v3.create_model(
        {
            "name": "mine",
            "project_id": seed(sandbox, "project_id"),
            "version": "v1",
            "description": "My words.",
            **fields,
        }
    )
    with pytest.raises(InvalidInput, match=r"options\.task='regression': mine v1 exists"):
        await client.create(spec(artifact(tmp_path), version="v1", model="mine", options={"task": "regression"}))
    made = await client.create(spec(artifact(tmp_path), version="v1", model="mine", name="mine"))
    assert made.id == mine.id
    assert made.raw["model"]["description"].startswith("My words.\n\n[modeldeploy: ")
    with pytest.raises(InvalidInput, match="was not created by this package"):
        await client.delete(made.id)


async def test_a_new_model_needs_its_schema(client: FiddlerClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"options\.schema"):
        await client.create(spec(artifact(tmp_path), model="unheard-of"))
    fields = {"schema": {"schema_version": 1, "columns": []}, "spec": {"inputs": ["x"], "outputs": ["y"]}}
    made = await client.create(spec(artifact(tmp_path), model="unheard-of", options={**fields, "task": "regression"}))
    assert made.raw["model"]["task"] == "regression"


async def test_a_surrogate_is_made_from_a_dataset(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    former = await client.v3.model(seed(sandbox))
    assert [d.name for d in await client.v3.datasets(str(former.id))] == ["baseline"]
    again = await client.deploy_surrogate(
        seed(sandbox), seed(sandbox, "dataset_id"), DeploymentParams(cpu=250, memory=500), replace=True
    )
    assert again.raw["deployment"]["artifact_type"] == "SURROGATE"
    assert (await awaited(client, again)).raw["model"]["artifact_status"] == "surrogate"
    with pytest.raises(InvalidInput, match="publish the data first"):
        await client.create(spec(None, options={"dataset": "baseline"}))


async def test_a_manual_deployment_is_stopped_until_it_is_started(client: FiddlerClient, tmp_path: Path) -> None:
    made = await client.create(spec(artifact(tmp_path), options={"deployment_type": "MANUAL"}))
    assert (made.status, made.replicas.desired) == (DeploymentStatus.STOPPED, 0)
    assert (await awaited(client, await client.start(made.id))).ready


# --- changing ---------------------------------------------------------------------------------------------------------


async def test_replicas_and_resources_change(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    scaled = await client.scale(seed(sandbox), Autoscaling(min_replicas=3))
    assert scaled.replicas.desired == 3
    changed = await client.update(
        seed(sandbox), DeploymentUpdate(resources=Resources(cpu_millicores=1000, memory_mib=2048))
    )
    assert changed.resources == Resources(cpu_millicores=1000, memory_mib=2048)
    assert changed.replicas.desired == 3
    assert (await awaited(client, changed)).replicas.ready == 3


async def test_stop_and_start_keep_the_values(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    await client.scale(seed(sandbox), Autoscaling(min_replicas=3))
    stopped = await client.stop(seed(sandbox))
    assert (stopped.status, stopped.ready, stopped.replicas.running) == (DeploymentStatus.STOPPED, False, 0)
    stored = await client.scale(seed(sandbox), Autoscaling(min_replicas=4))
    assert stored.status is DeploymentStatus.STOPPED, "scaling does not start it"
    started = await awaited(client, await client.start(seed(sandbox)))
    assert started.replicas.ready == 4


async def test_a_new_artifact_takes_the_place_of_the_former_and_can_be_put_back(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    made = await client.create(spec(artifact(tmp_path / "a")))
    kept = await client.download_artifact(made.id, tmp_path / "kept")
    news = artifact(tmp_path / "b", PACKAGE + "# better\n")
    changed = await client.update(made.id, DeploymentUpdate(source=str(news), resources=Resources(memory_mib=900)))
    assert changed.resources == Resources(cpu_millicores=100, memory_mib=900)
    assert "# better" in ((await client.download_artifact(made.id, tmp_path / "c")) / "package.py").read_text()
    await awaited(client, await client.update(made.id, DeploymentUpdate(source=str(kept))))
    assert ((await client.download_artifact(made.id, tmp_path / "d")) / "package.py").read_text() == PACKAGE


async def test_promote_starts_it_and_gives_it_the_role_and_roll_back_gives_it_back(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    first = seed(sandbox)
    assert (await client.promote(first, environment="production")).environment == "production"
    second = (await client.create(spec(artifact(tmp_path)))).id
    await client.stop(second)

    async def roles() -> dict[str, str | None]:
        return {d.id: d.environment for d in await client.find(model="churn")}

    promoted = await client.promote(second, environment="production")
    assert (promoted.id, promoted.ready) == (second, True)
    assert await roles() == {first: None, second: "production"}
    assert (await client.promote(second, environment="production")).id == second, "again changes nothing"
    await client.stop(first)
    back = await client.roll_back(second, environment="production")
    assert (back.id, back.ready) == (first, True)
    assert await roles() == {first: "production", second: None}
    assert (await client.roll_back(second, environment="production")).id == first, "again changes nothing"


async def test_only_what_has_a_role_and_a_former_one_can_be_rolled_back(
    sandbox: RunningSandbox, client: FiddlerClient
) -> None:
    with pytest.raises(InvalidInput, match="no version of churn has the role"):
        await client.roll_back(seed(sandbox), environment="production")
    await client.promote(seed(sandbox), environment="production")
    with pytest.raises(InvalidInput, match="is the first one"):
        await client.roll_back(seed(sandbox), environment="production")


async def test_what_does_not_have_the_role_any_more_is_not_rolled_back(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    ids = [seed(sandbox)] + [
        (await client.create(spec(artifact(tmp_path), version=version))).id for version in ("v2", "v3")
    ]
    for id in ids:
        await client.promote(id, environment="production")
    assert (await client.roll_back(ids[1], environment="production")).id == ids[2]
    assert (await client.roll_back(ids[2], environment="production")).id == ids[1]
    assert (await client.roll_back(ids[1], environment="production")).id == ids[0], "twice goes back by two"


async def test_of_two_claims_that_a_killed_promotion_left_the_later_one_counts(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    second = (await client.create(spec(artifact(tmp_path)))).id
    await client.promote(seed(sandbox), environment="production")
    first = await client.v3.model(seed(sandbox))
    await client.promote(second, environment="production")
    await client.v3.note(await client.v3.model(seed(sandbox)), read_notes(first.description))
    roles = {d.id: d.environment for d in await client.find(model="churn")}
    assert roles == {seed(sandbox): None, second: "production"}
    assert (await client.roll_back(second, environment="production")).id == seed(sandbox)


async def test_a_version_that_does_not_start_is_not_promoted(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    await client.stop(seed(sandbox))
    await sandbox.control.fate(provider="fiddler", timeline="update", outcome="fail", reason="OOM")
    with pytest.raises(DeploymentFailed, match="ModelServeError: OOM"):
        await client.promote(seed(sandbox), environment="production")
    assert (await client.get(seed(sandbox))).environment is None


async def test_a_version_that_never_gets_ready_is_given_no_role(sandbox: RunningSandbox, tmp_path: Path) -> None:
    """Said as a failure: a promotion that merely took too long might have happened, and would be brought to its end."""
    async with credentials(sandbox, job_timeout_seconds=0.2).get_client() as client:
        await client.promote(seed(sandbox), environment="production")
        second = (await client.create(spec(artifact(tmp_path)))).id
        await client.stop(second)
        await sandbox.control.fate(provider="fiddler", timeline="update", outcome="stuck")
        with pytest.raises(DeploymentFailed, match="job_timeout_seconds"):
            await client.promote(second, environment="production")
        roles = {d.id: d.environment for d in await client.find(model="churn")}
        assert roles == {seed(sandbox): "production", second: None}


async def test_delete_takes_only_what_this_package_made(
    sandbox: RunningSandbox, client: FiddlerClient, tmp_path: Path
) -> None:
    made = await client.create(spec(artifact(tmp_path)))
    await client.delete(made.id)
    await client.delete(made.id)
    with pytest.raises(NotFound):
        await client.get(made.id)
    with pytest.raises(InvalidInput, match="delete_any_model"):
        await client.delete(seed(sandbox))
    assert (await client.get(seed(sandbox))).ready


async def test_any_model_is_deleted_when_the_block_allows_it() -> None:
    async with fiddler(delete_any_model=True) as (sandbox, client):
        await client.delete(seed(sandbox))
        assert await client.find() == []


async def test_predict_takes_a_row_or_rows(sandbox: RunningSandbox, client: FiddlerClient) -> None:
    answers = await client.predict(seed(sandbox), [{"age": 1}, {"age": 2}], chunk_size=1)
    assert [answer["sum"] for answer in answers] == [1, 2]
    for bad in ([], "text", [1], None):
        with pytest.raises(InvalidInput, match="payload"):
            await client.predict(seed(sandbox), bad)
    with pytest.raises(InvalidInput, match="path"):
        await client.predict(seed(sandbox), {"age": 1}, path="/other")


# --- the capability table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", sorted(set(Capability) - FiddlerClient.capabilities))
async def test_what_fiddler_lacks_is_refused_before_any_request(
    sandbox: RunningSandbox, client: FiddlerClient, capability: Capability
) -> None:
    await sandbox.control.forget_requests()
    calls = {
        Capability.SCALE_TO_ZERO: lambda: client.scale_to_zero("x"),
        Capability.WAKE: lambda: client.wake("x"),
        Capability.LOGS: lambda: client.logs("x"),
        Capability.METRICS: lambda: client.idle_seconds("x"),
        Capability.TRAFFIC: client.router,
    }
    with pytest.raises(UnsupportedOperation, match=f"fiddler does not support {capability.lower()}"):
        await calls[capability]()  # type: ignore[misc]
    assert await sandbox.control.requests() == []
