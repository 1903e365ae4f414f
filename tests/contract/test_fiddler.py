"""Fiddler's own clients drive the emulator: 3.14.1 (v3) and 2.5.4 (v2), and see what our client sees."""

from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.providers.fiddler import FiddlerClient
from tests.contract.venvs import VendorClient
from tests.providers.fiddler_kit import artifact, credentials, fiddler, seed, spec
from tests.sandbox.kit import RunningSandbox

pytestmark = [pytest.mark.contract, pytest.mark.timeout(900)]

V3 = VendorClient(("fiddler-client==3.14.1",))
V2 = VendorClient(("fiddler-client==2.5.4",))

CONNECT_3 = """
import fiddler as fdl
fdl.init(url=given["base_url"], token=given["token"])
def told(deployment):
    names = ["active", "replicas", "cpu", "memory", "image_uri", "artifact_type", "deployment_type"]
    return {name: getattr(deployment, name) for name in names} | {"id": str(deployment.id)}
"""

LIFE_3 = (
    CONNECT_3
    + """
from pathlib import Path
from uuid import UUID
from fiddler.entities.file import File
import pandas, shutil, tempfile

seen = {}
project = fdl.Project.from_name(given["seed"]["project_name"])
assert [p.name for p in fdl.Project.list()] == ["bank_churn"]
first = fdl.Model.from_name("churn", project_id=project.id, version="v1")
assert first.artifact_status == "user_uploaded", first.artifact_status
seen["seeded"] = told(first.deployment)
seen["datasets"] = [d.name for d in first.datasets]

second = first.duplicate(version="v2"); second.create()
assert second.artifact_status == "no_model"
try:
    fdl.ModelDeployment.of(second.id)
except Exception as error:
    seen["of without a deployment"] = type(error).__name__
try:
    first.duplicate(version="v2").create()
except fdl.Conflict as error:
    seen["twice"] = error.message
params = fdl.DeploymentParams(image_uri="md-base/python/python-311:1.0.0", replicas=1, cpu=250, memory=512)
job = second.add_artifact(given["artifact"], deployment_params=params); job.wait(interval=0.1)
seen["job"] = [job.status, job.progress, job.info["resource_name"], job.error_message]
try:
    second.add_artifact(given["artifact"])
except fdl.ApiError as error:
    seen["artifact twice"] = [error.code, error.message]
deployment = fdl.ModelDeployment.of(second.id)
seen["deployed"] = told(deployment)
deployment.replicas, deployment.cpu, deployment.memory = 3, 1000, 2048
deployment.update().wait(interval=0.1)
seen["scaled"] = told(fdl.ModelDeployment.of(second.id))
deployment.active = False
deployment.update().wait(interval=0.1)
seen["inactive"] = told(fdl.ModelDeployment.of(second.id))
try:
    second.predict(pandas.DataFrame([{"age": 1}]))
except fdl.ApiError as error:
    seen["predict when inactive"] = error.code
deployment.active = True
job = deployment.update(); job.wait(interval=0.1)
seen["verbose"] = list(fdl.Job.get(job.id, verbose=True).extras.values())[0]["status"]
deployment.replicas = 99
try:
    deployment.update()
except fdl.ApiError as error:
    seen["out of bounds"] = [error.code, error.message]
predictions = second.predict(pandas.DataFrame([{"age": 1, "balance": 2.0}, {"age": 3, "balance": 4.0}]))
seen["predictions"] = predictions["sum"].tolist()
explained = second.explain(input_data_source=fdl.RowDataSource(row={"age": 1}), method=fdl.ExplainMethod.FIDDLER_SHAP)
seen["explained"] = type(explained).__name__
second.update_artifact(given["artifact"], deployment_params=params).wait(interval=0.1)
second.download_artifact(output_dir=given["download"])
seen["downloaded"] = sorted(p.name for p in Path(given["download"]).iterdir())
second.description = "seen by the vendor's client"; second.update()
first.update_surrogate(given["seed"]["dataset_id"], fdl.DeploymentParams(cpu=250, memory=500)).wait(interval=0.1)
seen["surrogate"] = told(fdl.ModelDeployment.of(first.id))
big = Path(tempfile.mkdtemp()) / "files.tar.gz"; big.write_bytes(bytes(range(256)) * 9000)
file = File(path=big).multipart_upload(chunk_size=1_000_000)
seen["multipart"] = [file.status, len(str(file.id))]
third = first.duplicate(version="v3"); third.create()
third.add_artifact(given["artifact"], fdl.DeploymentParams(deployment_type="MANUAL")).wait(interval=0.1)
manual = fdl.ModelDeployment.of(third.id); seen["manual"] = told(manual)
manual.active = True; manual.update().wait(interval=0.1)
third.delete().wait(interval=0.1)
try:
    fdl.Model.get(third.id)
except fdl.NotFound as error:
    seen["deleted"] = error.message
seen["second"] = str(second.id)
seen["versions"] = sorted(m.version for m in fdl.Model.list(project_id=project.id, name="churn"))
extra = fdl.Project(name="scratch"); extra.create(); extra.delete()
answer(seen)
"""
)

LIFE_2 = """
import fiddler as fdl
api = fdl.FiddlerApi(url=given["base_url"], org_id=given["organization"], auth_token=given["token"])
def told(deployment):
    return {k: v for k, v in deployment.dict().items() if k in ("active", "replicas", "cpu", "memory", "artifact_type")}
project, model, seen = "bank_churn", "churn", {}
seen["models"] = api.list_models(project_id=project)
seen["seeded"] = api.get_model_deployment(project_id=project, model_id=model).dict()
changed = api.update_model_deployment(project_id=project, model_id=model, replicas=3, cpu=500, wait=True)
seen["scaled"] = told(changed)
seen["inactive"] = told(api.update_model_deployment(project_id=project, model_id=model, active=False, wait=True))
seen["active"] = told(api.update_model_deployment(project_id=project, model_id=model, active=True, wait=True))
params = fdl.DeploymentParams(image_uri="md-base/python/machine-learning:1.1.0", replicas=1, cpu=250, memory=512)
seen["job"] = api.update_model_artifact(
    project_id=project, model_id=model, model_dir=given["artifact"], deployment_params=params, wait=True
)
seen["replaced"] = told(api.get_model_deployment(project_id=project, model_id=model))
try:
    api.add_model_artifact(project_id=project, model_id=model, model_dir=given["artifact"], wait=True)
except Exception as error:
    seen["twice"] = [type(error).__name__, str(error)]
params = fdl.DeploymentParams(cpu=250)
api.update_model_surrogate(project_id=project, model_id=model, deployment_params=params, is_sync=True)
seen["surrogate"] = told(api.get_model_deployment(project_id=project, model_id=model))
import pandas
rows = pandas.DataFrame([{"age": 2}])
seen["predictions"] = api.get_predictions(model_id=model, project_id=project, input_df=rows)["sum"].tolist()
seen["status"] = api.get_job(uuid=seen["job"]).status
try:
    api.get_model_deployment(project_id=project, model_id="missing")
except Exception as error:
    seen["missing"] = type(error).__name__
api.delete_model(project_id=project, model_id=model)
seen["left"] = api.list_models(project_id=project)
answer(seen)
"""


def given(sandbox: RunningSandbox, tmp_path: Path) -> dict[str, Any]:
    return {
        **sandbox["fiddler"],
        "artifact": str(artifact(tmp_path / "artifact")),
        "download": str(tmp_path / "downloaded"),
    }


async def test_client_3_does_everything_and_our_client_sees_the_same(tmp_path: Path) -> None:
    async with fiddler() as (sandbox, ours):
        seen = await V3.run(LIFE_3, given(sandbox, tmp_path))
        assert seen["seeded"]["active"]
        assert seen["datasets"] == ["baseline"]
        assert seen["of without a deployment"] == "HTTPError"
        assert seen["twice"] == "Model already exists"
        assert seen["job"] == ["SUCCESS", 100.0, "churn", None]
        assert seen["artifact twice"][0] == 400
        assert "already has artifact" in seen["artifact twice"][1]
        assert (seen["deployed"]["cpu"], seen["scaled"]["replicas"], seen["inactive"]["active"]) == (250, 3, False)
        assert seen["predict when inactive"] == 400
        assert seen["verbose"] == "SUCCESS"
        assert seen["out of bounds"][0] == 400
        assert "replicas" in seen["out of bounds"][1]
        assert seen["predictions"] == [3, 7]
        assert seen["downloaded"] == ["package.py", "requirements.txt"]
        assert seen["surrogate"]["artifact_type"] == "SURROGATE"
        assert seen["multipart"] == ["SUCCESSFUL", 36]
        assert (seen["manual"]["active"], seen["manual"]["deployment_type"]) == (False, "MANUAL")
        assert seen["deleted"] == "Model not found for the given identifier"
        assert seen["versions"] == ["v1", "v2"]
        await _assert_the_same(ours, seen)


async def _assert_the_same(ours: FiddlerClient, seen: dict[str, Any]) -> None:
    mine = await ours.get(seen["second"])
    assert mine.status is DeploymentStatus.READY
    assert mine.raw["model"]["description"] == "seen by the vendor's client"
    assert mine.resources is not None
    assert (mine.resources.cpu_millicores, mine.resources.memory_mib) == (250, 512)
    assert mine.replicas.ready == 1


LOOK_3 = (
    CONNECT_3
    + """
model = fdl.Model.get(given["model"])
deployment = told(fdl.ModelDeployment.of(model.id))
answer({"deployment": deployment, "version": model.version, "status": model.artifact_status})
"""
)


async def test_client_3_sees_what_our_client_made(tmp_path: Path) -> None:
    async with fiddler() as (sandbox, ours):
        made = await ours.create(spec(artifact(tmp_path), options={"image_uri": "md-base/python/python-39:2.0.2"}))
        await ours.stop(made.id)
        seen = await V3.run(LOOK_3, {**sandbox["fiddler"], "model": made.id})
        assert (seen["version"], seen["status"]) == ("v2", "user_uploaded")
        assert seen["deployment"]["image_uri"] == "md-base/python/python-39:2.0.2"
        assert seen["deployment"]["active"] is False


async def test_client_2_does_everything_and_our_client_sees_the_same(tmp_path: Path) -> None:
    async with fiddler() as (sandbox, _):
        seen = await V2.run(LIFE_2, given(sandbox, tmp_path))
        assert seen["models"] == ["churn"]
        assert (seen["seeded"]["organization_name"], seen["seeded"]["model_name"]) == ("acme", "churn")
        assert (seen["scaled"]["replicas"], seen["scaled"]["cpu"]) == (3, 500)
        assert (seen["inactive"]["active"], seen["active"]["active"]) == (False, True)
        assert (seen["replaced"]["cpu"], seen["replaced"]["memory"]) == (250, 512)
        assert "already has artifact" in seen["twice"][1]
        assert seen["surrogate"]["artifact_type"] == "SURROGATE"
        assert (seen["predictions"], seen["status"], seen["missing"]) == ([2], "SUCCESS", "NotFound")
        assert seen["left"] == []
        async with credentials(sandbox, api="v2").get_client() as old:
            assert await old.find() == []


async def test_client_2_and_ours_see_the_same_deployment(tmp_path: Path) -> None:
    script = LIFE_2.partition('seen["models"]')[0] + (
        "answer(api.get_model_deployment(project_id=project, model_id=model).dict())"
    )
    async with fiddler() as (sandbox, _):
        theirs = await V2.run(script, given(sandbox, tmp_path))
        async with credentials(sandbox, api="v2").get_client() as old:
            mine = await old.get("bank_churn:churn")
        assert mine.raw["deployment"]["uuid"] == theirs["uuid"]
        assert mine.raw["deployment"]["job_uuid"] == theirs["job_uuid"]
        assert mine.resources is not None
        assert (mine.resources.cpu_millicores, mine.resources.memory_mib) == (theirs["cpu"], theirs["memory"])
        assert seed(sandbox) != mine.id
