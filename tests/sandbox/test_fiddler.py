"""The Fiddler emulator: its manners, its life cycles, and no input that it does not answer in the vendor's envelope."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox.kit import RunningSandbox, running_sandbox, sandbox_process

NIL = "00000000-0000-0000-0000-000000000000"


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[RunningSandbox]:
    """One sandbox for all tests."""
    async with running_sandbox("fiddler") as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def sandbox(running: RunningSandbox) -> RunningSandbox:
    """The first world again."""
    await running.control.reset()
    await running.control.set_speed(0)
    return running


@pytest_asyncio.fixture
async def http(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody with a token."""
    told = sandbox["fiddler"]
    headers = {"Authorization": f"Bearer {told['token']}"}
    async with httpx.AsyncClient(base_url=told["base_url"], headers=headers, trust_env=False) as client:
        yield client


def tar(*names: str) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return kept.getvalue()


def assert_envelope(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["kind"] == "ERROR"
    assert body["error"]["code"] == answer.status_code
    [detail] = body["error"]["errors"]
    assert set(detail) == {"reason", "message", "help"}
    return dict(body["error"])


# --- manners ----------------------------------------------------------------------------------------------------------


async def test_the_ready_file_says_what_is_needed(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path, "fiddler") as (sandbox, _):
        told = sandbox["fiddler"]
        assert set(told) >= {"base_url", "token", "organization", "seed"}
        assert set(told["seed"]) >= {"project_id", "project_name", "model_id", "model_name"}
        async with httpx.AsyncClient(base_url=told["base_url"], trust_env=False) as client:
            path = f"/v3/models/{told['seed']['model_id']}/deployment"
            answer = await client.get(path, headers={"Authorization": f"Bearer {told['token']}"})
        assert answer.json()["data"]["active"] is True


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}])
@pytest.mark.parametrize("path", ["/v3/server-info", "/v2/models", "/nowhere"])
async def test_without_the_token_nothing_comes_in(sandbox: RunningSandbox, header: dict[str, str], path: str) -> None:
    async with httpx.AsyncClient(base_url=sandbox["fiddler"]["base_url"], trust_env=False) as stranger:
        answer = await stranger.get(path, headers=header)
    assert answer.status_code == 401
    assert assert_envelope(answer)["errors"][0]["reason"] == "Unauthorized"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", f"/v3/models/{NIL}/deployment", None, 404, "Model not found for the given identifier"),
        ("GET", f"/v3/jobs/{NIL}", None, 404, "Job not found for the given identifier"),
        ("PATCH", "/v3/models/{model}/deployment", {"replicas": 11}, 400, "body.replicas"),
        ("PATCH", "/v3/models/{model}/deployment", {"cpu": 9}, 400, "body.cpu"),
        ("PATCH", "/v3/models/{model}/deployment", {"memory": 16385}, 400, "body.memory"),
        ("PATCH", "/v3/models/{model}/deployment", {"active": "yes"}, 400, "body.active"),
        ("POST", "/v3/models/{model}/deploy-artifact", {"file_id": NIL}, 404, "File not found"),
        ("POST", "/v3/models/{model}/deploy-surrogate", {"env_id": "{dataset}"}, 400, "already has artifact"),
        ("PUT", "/v3/models/{model}/deploy-surrogate", {"env_id": NIL}, 404, "Dataset not found"),
        ("POST", "/v3/files/upload", {}, 400, "multipart/form-data"),
        ("GET", "/v3/models?filter={{", None, 400, "filter"),
        ("GET", "/v3/models?limit=0", None, 400, "query.limit"),
        ("POST", "/v3/projects", {"name": "bank_churn"}, 409, "already exists"),
        ("DELETE", "/v3/server-info", None, 405, "Method Not Allowed"),
        ("GET", "/v2/model-deployments/acme:bank_churn:missing", None, 404, "Model not found"),
        ("PATCH", "/v2/model-deployments/acme:bank_churn:churn", {"cpu": 1}, 400, "body.cpu"),
        ("POST", "/v2/predict", {}, 400, "body.project_name"),
    ],
)
async def test_every_refusal_is_in_the_vendors_envelope(
    sandbox: RunningSandbox, http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, message: str
) -> None:
    seed = sandbox["fiddler"]["seed"]
    text = json.dumps(body).replace("{dataset}", seed["dataset_id"]) if body is not None else None
    answer = await http.request(method, path.replace("{model}", seed["model_id"]), content=text)
    assert answer.status_code == status
    assert message in assert_envelope(answer)["message"]


# --- life cycles ------------------------------------------------------------------------------------------------------


async def test_a_job_goes_through_its_words_and_the_pods_follow(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    await sandbox.control.set_speed(0.001)
    model = sandbox["fiddler"]["seed"]["model_id"]
    stopped = await http.patch(f"/v3/models/{model}/deployment", json={"active": False})
    await sandbox.control.advance(100)
    row = {"model_id": model, "data": [{"age": 1}]}
    assert (await http.post("/v3/predict", json=row)).status_code == 400
    answer = await http.patch(f"/v3/models/{model}/deployment", json={"active": True, "replicas": 2})
    job = answer.json()["data"]["job"]["id"]
    assert answer.json()["data"]["replicas"] == 2
    assert job != stopped.json()["data"]["job"]["id"]

    async def status() -> tuple[str, float]:
        data = (await http.get(f"/v3/jobs/{job}?verbose=True")).json()["data"]
        return data["status"], data["progress"]

    assert await status() == ("PENDING", 0)
    assert (await http.post("/v3/predict", json=row)).status_code == 503
    await sandbox.control.advance(3)
    assert await status() == ("STARTED", 50)
    await sandbox.control.advance(30)
    assert await status() == ("SUCCESS", 100)
    assert (await http.post("/v3/predict", json=row)).json()["data"]["predictions"][0]["sum"] == 1


async def test_pods_serve_on_while_they_are_scaled(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    model = sandbox["fiddler"]["seed"]["model_id"]
    await sandbox.control.fate(timeline="update", outcome="stuck")
    await http.patch(f"/v3/models/{model}/deployment", json={"active": None, "replicas": 3})
    answer = await http.post("/v3/predict", json={"model_id": model, "data": [{"age": 1}]})
    assert answer.status_code == 200


async def test_an_artifact_without_package_py_fails_its_job(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    model = sandbox["fiddler"]["seed"]["model_id"]
    for content, status in ((tar("./package.py"), "SUCCESS"), (tar("other.py"), "FAILURE"), (b"no tar", "FAILURE")):
        file = (await http.post("/v3/files/upload", files={"file": ("files.tar.gz", content)})).json()["data"]
        answer = await http.put(f"/v3/models/{model}/deploy-artifact", json={"file_id": file["id"]})
        job = (await http.get(f"/v3/jobs/{answer.json()['data']['job']['id']}")).json()["data"]
        assert (answer.status_code, job["status"]) == (202, status)
        assert job["error_reason"] == (None if status == "SUCCESS" else "ModelServeError")


async def test_a_deployment_is_a_real_callable_with_faults_on_demand(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    model = sandbox["fiddler"]["seed"]["model_id"]
    body = {"model_id": model, "data": [{"age": 1, "balance": 2}, {"age": 3}]}
    await sandbox.control.behave(provider="fiddler", match="churn", callable="builtins:len")
    assert (await http.post("/v3/predict", json=body)).json()["data"]["predictions"] == [{"churn": 2}, {"churn": 1}]
    await sandbox.control.behave(provider="fiddler", match="v1", error_rate=1.0)
    broken = await http.post("/v3/predict", json=body)
    assert assert_envelope(broken)["errors"][0]["reason"] == "ModelServeError"


async def test_filters_orders_and_pages(http: httpx.AsyncClient) -> None:
    for number in range(5):
        await http.post("/v3/projects", json={"name": f"p{number}"})

    async def names(**query: Any) -> list[str]:
        data = (await http.get("/v3/projects", params=query)).json()["data"]
        assert data["item_count"] == len(data["items"])
        return [item["name"] for item in data["items"]]

    def rule(operator: str, value: Any) -> str:
        return json.dumps({"condition": "OR", "rules": [{"field": "name", "operator": operator, "value": value}]})

    assert await names(ordering="-name", limit=2) == ["p4", "p3"]
    assert await names(ordering="name", limit=2, offset=4) == ["p3", "p4"]
    assert await names(filter=rule("in", ["p1", "p2"])) == ["p1", "p2"]
    assert await names(filter=rule("begins_with", "bank")) == ["bank_churn"]
    assert await names(filter=rule("less", 5)) == []
    assert await names(search="P3") == ["p3"]


async def test_a_world_with_an_artifact_outlives_its_sandbox(tmp_path: Path) -> None:
    for _ in range(2):
        async with running_sandbox("fiddler", state=tmp_path / "state.json") as sandbox:
            told = sandbox["fiddler"]
            headers = {"Authorization": f"Bearer {told['token']}"}
            async with httpx.AsyncClient(base_url=told["base_url"], headers=headers, trust_env=False) as client:
                answer = await client.get(f"/v3/models/{told['seed']['model_id']}/download-artifact")
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            assert archive.getnames() == ["package.py"]


# --- no input breaks it -----------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/v3/projects"), ("POST", "/v3/projects"), ("GET", "/v3/models"), ("POST", "/v3/models"),
    ("GET", "/v3/models/{model}"), ("PATCH", "/v3/models/{model}"), ("GET", "/v3/models/{model}/deployment"),
    ("PATCH", "/v3/models/{model}/deployment"), ("POST", "/v3/models/{model}/deploy-artifact"),
    ("PUT", "/v3/models/{model}/deploy-artifact"), ("PUT", "/v3/models/{model}/deploy-surrogate"),
    ("GET", "/v3/models/{model}/download-artifact"), ("GET", "/v3/models/{model}/environments"),
    ("GET", "/v3/environments/{any}"), ("POST", "/v3/files/upload"), ("POST", "/v3/files/multipart-init"),
    ("POST", "/v3/files/multipart-upload"), ("POST", "/v3/files/multipart-complete"), ("GET", "/v3/jobs/{any}"),
    ("POST", "/v3/predict"), ("POST", "/v3/explain"), ("DELETE", "/v3/models/{any}"), ("DELETE", "/v3/projects/{any}"),
    ("GET", "/v2/models"), ("POST", "/v2/models"), ("PATCH", "/v2/models/acme:bank_churn:churn"),
    ("GET", "/v2/model-deployments/{any}"), ("PATCH", "/v2/model-deployments/acme:bank_churn:churn"),
    ("PUT", "/v2/models/acme:bank_churn:churn/deploy-artifacts"), ("POST", "/v2/predict"),
    ("PUT", "/v2/models/acme:bank_churn:churn/deploy-artifacts/multi-part-upload"),
    ("PUT", "/v2/models/acme:bank_churn:churn/deploy-artifacts/multi-part-complete"),
    ("PUT", "/v2/models/acme:bank_churn:churn/deploy-surrogate"), ("GET", "/v2/jobs/{any}"),
    ("GET", "/get_supported_features/{any}"),
]  # fmt: skip
KEYS = [
    "active", "replicas", "cpu", "memory", "name", "project_id", "schema", "spec", "version", "file_id", "env_id",
    "deployment_params", "image_uri", "model_id", "data", "chunk_size", "input_data_source", "source_type", "row",
    "explanation_type", "parts", "number", "id", "filename", "upload_id", "model_name", "project_name",
    "organization_name", "inputs", "outputs", "task", "description", "info", "file_list",
]  # fmt: skip
KNOWN = ["{model}", "{project}", "{dataset}", "churn", "bank_churn", "acme", "v1", "SURROGATE", "MANUAL", "ROW", NIL]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(KNOWN)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=8) | values
queries = st.dictionaries(
    st.sampled_from(["limit", "offset", "ordering", "filter", "search", "project_id", "verbose", "deployment_params"]),
    st.text(max_size=30) | values.map(json.dumps),
    max_size=3,
)


requests = st.tuples(
    st.sampled_from(ROUTES),
    bodies | st.binary(max_size=60),
    queries,
    st.text(max_size=20),
    st.sampled_from(["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "x/é"]),
)


async def assert_answered(sandbox: RunningSandbox, request: tuple[Any, ...]) -> None:
    (method, path), body, query, any, kind = request
    told = sandbox["fiddler"]
    seed = told["seed"]
    known = {"{model}": seed["model_id"], "{project}": seed["project_id"], "{dataset}": seed["dataset_id"]}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    for name, value in known.items():
        content = content.replace(name.encode(), value.encode())
    url = told["base_url"] + path.replace("{model}", seed["model_id"]).replace("{any}", quote(any, safe=""))
    headers = [(b"Authorization", f"Bearer {told['token']}".encode()), (b"Content-Type", kind.encode())]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(method, url, params=query, content=content, headers=headers)
    assert answer.status_code < 500, answer.text
    if not (answer.is_success and path.endswith("download-artifact")):
        assert isinstance(answer.json(), dict)
    if answer.is_error:
        assert_envelope(answer)


SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=25, **SETTINGS)
@given(request_=requests)
async def test_no_request_gets_a_5xx_or_something_else_than_json(
    running: RunningSandbox, request_: tuple[Any, ...]
) -> None:
    await assert_answered(running, request_)


@pytest.mark.chaos
@pytest.mark.timeout(580)
@settings(max_examples=1500, **SETTINGS)
@given(request_=requests)
async def test_no_request_of_thousands_gets_a_5xx(running: RunningSandbox, request_: tuple[Any, ...]) -> None:
    await assert_answered(running, request_)
