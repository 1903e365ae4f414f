"""Our client says to Fiddler what the vendor's official clients were recorded to say: method, path, query and body.

Where it says more or less on purpose, the table says so:

| ours                                                     | the vendor's clients                                  |
|----------------------------------------------------------|-------------------------------------------------------|
| no `version-compatibility` call, no client headers       | call it at the start, and send their name and version |
| lists with `limit` and `offset`, also with a filter      | 3.x asks for one by name without them                 |
| a job is asked for without `verbose=False`               | `Job.get` says it, `Job.wait` does not                |
| `Model.create` leaves out what is null                   | sends null                                            |
| notes in the description of the model (PATCH /v3/models) | has none                                              |
| a stop is `{"active": false}`                            | 3.x repeats replicas, cpu and memory                  |
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy.deployments import Autoscaling
from prefect_modeldeploy.providers.fiddler import Api2, Api3, DeploymentParams, FiddlerClient
from prefect_modeldeploy.transport import Transport
from tests.conftest import serve
from tests.contract.recordings import Sent, calls, recorded
from tests.providers.fiddler_kit import artifact

PROJECT, MODEL, JOB, DATASET, FILE, MISSING = (f"00000000-0000-0000-0000-{n:012x}" for n in (2, 3, 6, 7, 8, 0x3E7))
PARAMS = DeploymentParams(image_uri="md-base/python/python-311:1.0.0", replicas=1, cpu=250, memory=512)
OLD = "bank_churn:m"
OLD_PARAMS = DeploymentParams(image_uri="md-base/python/machine-learning:1.1.0", replicas=1, cpu=250, memory=512)


class Recorder:
    """Answers every request with the same few facts and keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        json = request.headers.get("content-type", "") == "application/json"
        raw = await request.body()
        body = await request.json() if json and raw else {"binary": True} if raw else None
        query = tuple(sorted(request.query_params.multi_items()))
        self.sent.append(Sent(request.method, scope["raw_path"].decode(), query, body))
        about = {"id": MODEL, "name": "m", "version": "v1", "description": None, "active": True, "items": []}
        job = {"status": "SUCCESS", "job": {"id": JOB, "name": "j"}, "job_uuid": JOB, "predictions": []}
        data = {**about, **job, "server_version": "25.10.0"}
        if request.url.path == "/v3/files/upload":
            data = {"id": FILE}
        elif "environments" in request.url.path or request.url.path in ("/v3/projects", "/v3/models"):
            items = [{"id": PROJECT, "name": "bank_churn"}] if request.method == "GET" else []
            data = {"page_index": 1, "page_count": 1, "items": items} | ({"id": MODEL} if not items else {})
        await JSONResponse({"api_version": "3.0", "kind": "NORMAL", "data": data})(scope, receive, send)


@pytest_asyncio.fixture(scope="module")
async def recording() -> AsyncIterator[Recorder]:
    """One recorder for all tests."""
    recorder = Recorder()
    async with serve(recorder) as recorder.url:
        yield recorder


@pytest.fixture
def recorder(recording: Recorder) -> Recorder:
    """A recorder that has heard nothing yet."""
    recording.sent.clear()
    return recording


def create(api: Api3) -> Any:
    fields = {
        name: v for name, v in recorded("fiddler", "v3 Model.create (version v2)")[0].body.items() if v is not None
    }
    return api.create_model(fields)


V3: dict[str, Any] = {
    "fdl.init": lambda c, d: c.v3.server_info(),
    "Project.list": lambda c, d: c.v3.projects(),
    "Project.from_name": lambda c, d: c.v3.projects("bank_churn"),
    "Model.list": lambda c, d: c.v3.models(),
    "Model.get": lambda c, d: c.v3.model(MODEL),
    "Model.create (version v2)": lambda c, d: create(c.v3),
    "Model.add_artifact(deployment_params)": lambda c, d: c.deploy_artifact(MODEL, d, PARAMS),
    "Model.add_artifact(no params)": lambda c, d: c.deploy_artifact(MODEL, d),
    "Model.add_artifact(MANUAL)": lambda c, d: c.deploy_artifact(MODEL, d, DeploymentParams(deployment_type="MANUAL")),
    "Model.update_artifact": lambda c, d: c.deploy_artifact(MODEL, d, PARAMS, replace=True),
    "Model.add_surrogate": lambda c, d: c.deploy_surrogate(MODEL, DATASET, DeploymentParams(cpu=250, memory=500)),
    "Model.update_surrogate(no params)": lambda c, d: c.deploy_surrogate(MODEL, DATASET, replace=True),
    "ModelDeployment.of": lambda c, d: c.get(MODEL),
    "Model.deployment": lambda c, d: c.get(MODEL),
    "ModelDeployment.update scale": lambda c, d: c.patch_deployment(
        MODEL, active=True, replicas=3, cpu=1000, memory=2048
    ),
    "ModelDeployment.update active=False": lambda c, d: c.patch_deployment(
        MODEL, active=False, replicas=3, cpu=1000, memory=2048
    ),
    "ModelDeployment.update active=True": lambda c, d: c.patch_deployment(
        MODEL, active=True, replicas=3, cpu=1000, memory=2048
    ),
    "ModelDeployment() fresh update (active None)": lambda c, d: c.patch_deployment(MODEL, cpu=300),
    "ModelDeployment.of missing (404)": lambda c, d: c.get(MISSING),
    "ModelDeployment.update missing (404)": lambda c, d: c.start(MISSING),
    "Job.wait": lambda c, d: c.wait_for_job(JOB),
    "Job.get": lambda c, d: c.get_job(JOB),
    "Job.get verbose": lambda c, d: c.get_job(JOB, verbose=True),
    "Model.predict": lambda c, d: c.predict(MODEL, [{"f1": 0.1}, {"f1": 0.2}]),
    "Model.explain": lambda c, d: c.v3.explain(recorded("fiddler", "v3 Model.explain")[0].body),
    "Model.datasets": lambda c, d: c.v3.datasets(MODEL),
    "Model.download_artifact": lambda c, d: c.v3.download_artifact(MODEL),
    "Model.delete": lambda c, d: c.delete(MODEL),
}

V2: dict[str, Any] = {
    "FiddlerApi()": lambda c, d: c.api.server_info(),
    "list_models": lambda c, d: c.find(),
    "get_model_deployment": lambda c, d: c.get(OLD),
    "update_model_deployment(replicas=3,wait=False)": lambda c, d: c.scale(OLD, Autoscaling(min_replicas=3)),
    "update_model_deployment(active=False,wait=False)": lambda c, d: c.stop(OLD),
    "update_model_deployment(active=True,wait=True)": lambda c, d: c.start(OLD),
    "update_model_deployment missing 404": lambda c, d: c.start("bank_churn:missing"),
    "add_model_surrogate(wait=False)": lambda c, d: c.deploy_surrogate(
        OLD, None, DeploymentParams(cpu=250, memory=500)
    ),
    "update_model_surrogate": lambda c, d: c.deploy_surrogate(OLD, replace=True),
    "add_model_artifact(wait=False)": lambda c, d: c.deploy_artifact(OLD, d, OLD_PARAMS),
    "update_model_artifact(wait=False)": lambda c, d: c.deploy_artifact(OLD, d, OLD_PARAMS, replace=True),
    "get_job": lambda c, d: c.get_job(JOB),
    "predict": lambda c, d: c.predict(OLD, {"f1": 0.1}),
    "delete_model": lambda c, d: c.delete(OLD),
}


NOT_OURS = {
    "v3 Model.from_name": "ours asks for the list in no order, since a version is unique: Model.list, Model.get",
    "v3 ModelDeployment.update replicas>10 (400)": "ours refuses 99 replicas before it sends anything",
}


def test_every_recorded_call_is_compared_or_left_out_for_a_reason() -> None:
    assert {*(f"v3 {call}" for call in V3), *(f"v2 {call}" for call in V2), *NOT_OURS} == set(calls("fiddler"))


def plain(sent: Sent) -> dict[str, Any]:
    """What a request says, without what differs on purpose (see the table)."""
    query = {name: value for name, value in sent.query if f"{name}={value}" != "verbose=False"}
    for name in ("limit", "offset"):
        query.pop(name, None)
    body = sent.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if value is not None or name == "active"}
        for file in body.get("file_list", []):
            file.update(size=0, modified=0)
    return {"method": sent.method, "path": sent.path, "query": query, "body": body}


def assert_said(recorder: Recorder, call: str) -> None:
    ours = [plain(sent) for sent in recorder.sent]
    for theirs in map(plain, recorded("fiddler", call)):
        if theirs["path"].endswith("version-compatibility"):
            continue
        assert theirs in ours, f"{theirs} is not among {ours}"


@pytest.mark.parametrize("call", V3)
async def test_v3_says_what_the_vendors_client_says(recorder: Recorder, tmp_path: Path, call: str) -> None:
    async with Transport("fiddler", recorder.url) as transport:
        project = PROJECT if call == "Model.list" else None
        await V3[call](FiddlerClient(Api3(transport, project), recorder.url, delete_any_model=True), artifact(tmp_path))
    assert_said(recorder, f"v3 {call}")


@pytest.mark.parametrize("call", V2)
async def test_v2_says_what_the_vendors_client_says(recorder: Recorder, tmp_path: Path, call: str) -> None:
    directory = artifact(tmp_path)
    (directory / "requirements.txt").unlink()
    async with Transport("fiddler", recorder.url) as transport:
        api = Api2(transport, "acme", "bank_churn")
        await V2[call](FiddlerClient(api, recorder.url, delete_any_model=True), directory)
    assert_said(recorder, f"v2 {call}")
