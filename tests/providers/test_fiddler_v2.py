"""Old Fiddler servers: the same words, by the v2 API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import Conflict, DeploymentFailed, InvalidInput, NotFound, UnsupportedOperation
from prefect_modeldeploy.providers.fiddler import Api2, DeploymentParams, FiddlerClient
from prefect_modeldeploy.transport import SecretHeader, Transport
from tests.providers.fiddler_kit import PACKAGE, Account, account, artifact, credentials, fiddler_sandbox, spec

__all__ = ["account", "fiddler_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")

ID = "bank_churn:churn"


@pytest_asyncio.fixture
async def old(account: Account) -> AsyncIterator[FiddlerClient]:
    """A client of a server that has only v2."""
    body = {"data": {"server_version": "23.4.0"}}
    await account.control.fault(path="/v3/server-info", kind="status", status=200, body=body)
    async with credentials(account.sandbox, delete_any_model=True).get_client() as client:
        yield client


async def test_a_deployment_is_addressed_by_names(account: Account, old: FiddlerClient) -> None:
    seen = await old.get(ID)
    assert (seen.id, seen.model_id, seen.version, seen.ready) == (ID, "churn", None, True)
    assert seen.endpoint_url == f"{account.sandbox['fiddler']['base_url']}/v2/predict"
    assert [one.id for one in await old.find(model="churn")] == [ID]
    assert await old.find(model="nothing") == []
    with pytest.raises(NotFound):
        await old.get("bank_churn:nothing")


async def test_it_is_scaled_stopped_started_and_asked(account: Account, old: FiddlerClient) -> None:
    assert (await old.scale(ID, Autoscaling(min_replicas=3))).replicas.desired == 3
    assert (await old.update(ID, DeploymentUpdate(resources=Resources(memory_mib=900)))).ready
    assert (await old.stop(ID)).status is DeploymentStatus.STOPPED
    started = await old.start(ID)
    assert (started.ready, started.replicas.ready) == (True, 3)
    assert (await old.predict(ID, {"age": 4}))[0]["sum"] == 4
    assert {one.path.split("/")[1] for one in await account.sent("PATCH")} == {"v2"}


async def test_the_last_job_is_told_by_the_server(account: Account, old: FiddlerClient) -> None:
    await account.control.fate(timeline="update", outcome="stuck")
    assert (await old.stop(ID)).status is DeploymentStatus.STOPPING
    await account.control.release()
    await account.control.fate(timeline="update", outcome="fail", reason="REVOKED")
    failed = await old.start(ID)
    assert failed.status is DeploymentStatus.FAILED
    with pytest.raises(DeploymentFailed, match="REVOKED"):
        await old.wait_for_job(failed.raw["job"]["id"])


async def test_an_artifact_is_deployed_to_a_model_that_exists(
    account: Account, old: FiddlerClient, tmp_path: Path
) -> None:
    with pytest.raises(Conflict):
        await old.create(spec(artifact(tmp_path / "a"), version="1"))
    with pytest.raises(InvalidInput, match="model='nothing'"):
        await old.create(spec(artifact(tmp_path / "a"), version="1", model="nothing"))
    body = {"name": "bare", "project_name": "bank_churn", "organization_name": "acme", "info": {}}
    assert isinstance(old.api, Api2)
    await old.api._transport.call("POST", "/v2/models", json=body)
    made = await old.create(spec(artifact(tmp_path / "a"), version="1", model="bare"))
    assert (made.id, made.ready) == ("bank_churn:bare", True)
    changed = await old.update(made.id, DeploymentUpdate(source=str(artifact(tmp_path / "b", PACKAGE + "# new\n"))))
    assert changed.ready
    kept = await old.download_artifact(made.id, tmp_path / "kept")
    assert (kept / "package.py").read_text().endswith("# new\n")
    await old.delete(made.id)
    await old.delete(made.id)
    with pytest.raises(NotFound):
        await old.get(made.id)


@pytest.mark.parametrize("kind", ["lost_answer", "lost_request"])
async def test_an_artifact_whose_answer_was_lost_is_deployed_once(
    account: Account, old: FiddlerClient, tmp_path: Path, kind: str
) -> None:
    await account.control.fault(path="*/deploy-artifacts", kind=kind, times=2)
    made = await old.deploy_artifact(ID, artifact(tmp_path), DeploymentParams(cpu=500), replace=True)
    assert made.ready
    assert made.resources is not None
    assert made.resources.cpu_millicores == 500


async def test_a_large_artifact_is_sent_in_parts(account: Account, tmp_path: Path) -> None:
    directory = artifact(tmp_path / "a")
    (directory / "weights.bin").write_bytes(bytes(range(256)) * 500)
    told, block = account.sandbox["fiddler"], credentials(account.sandbox)
    auth = SecretHeader(block.token, scheme="Bearer")
    async with Transport("fiddler", told["base_url"], auth=auth, secrets=[block.token]) as transport:
        client = FiddlerClient(Api2(transport, "acme", "bank_churn", part_bytes=30_000), told["base_url"])
        await account.control.fault(path="*/multi-part-upload", kind="lost_answer")
        made = await client.deploy_artifact(ID, directory, DeploymentParams(memory=777), replace=True)
        assert made.resources is not None
        assert (made.ready, made.resources.memory_mib) == (True, 777)
        kept = await client.download_artifact(ID, tmp_path / "kept")
    assert (kept / "weights.bin").read_bytes() == bytes(range(256)) * 500


async def test_the_rest_of_the_api_needs_v3(old: FiddlerClient) -> None:
    with pytest.raises(UnsupportedOperation, match=r"24\.4"):
        _ = old.v3
