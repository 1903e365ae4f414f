"""The Foundry emulator by itself: its door, its words, and that no request, however bad, breaks it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_modeldeploy.sandbox.foundry import bodies
from prefect_modeldeploy.sandbox.foundry.inputs import misfit
from tests.conftest import eventually
from tests.sandbox.kit import RunningSandbox, running_sandbox

LIVE = "/api/v2/models/liveDeployments"
PREVIEW = {"preview": "true"}
RUNTIME = {"minReplicas": 1, "maxReplicas": 3, "sources": [], "environmentVariables": {}}


def client_of(sandbox: RunningSandbox) -> httpx.AsyncClient:
    about = sandbox["foundry"]
    return httpx.AsyncClient(
        base_url=about["base_url"],
        headers={"authorization": f"Bearer {about['token']}"},
        params=PREVIEW,
        trust_env=False,
        timeout=20,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox("foundry") as running:
        yield running


@pytest_asyncio.fixture
async def http(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    await sandbox.control.reset()
    async with client_of(sandbox) as client:
        yield client
    crashes = await sandbox.control.crashes()
    assert not crashes, crashes[0]


def test_the_ready_file_says_what_a_client_needs(sandbox: RunningSandbox) -> None:
    about = sandbox["foundry"]
    assert about.keys() == {"base_url", "token", "client_id", "client_secret", "seed"}
    assert about["seed"].keys() == {"model_rid", "model_version_rid", "branch"}


async def seeded(sandbox: RunningSandbox, http: httpx.AsyncClient) -> dict[str, Any]:
    model = sandbox["foundry"]["seed"]["model_rid"]
    [live] = (await http.get(LIVE, params={**PREVIEW, "modelRid": model})).json()["data"]
    return dict(live)


async def test_the_seeded_deployment_is_healthy_at_any_speed() -> None:
    async with running_sandbox("foundry", speed=0.001) as slow, client_of(slow) as http:
        live = await seeded(slow, http)
        assert live["status"] == {"state": "ACTIVE", "isReady": True}
        assert live["modelVersion"]["modelVersionRid"] == slow["foundry"]["seed"]["model_version_rid"]
        answer = await http.post(f"{LIVE}/{live['rid']}/transformJson", json={"input": {"x": 2}})
        assert answer.json()["output"]["sum"] == 2


async def test_a_life_takes_its_time() -> None:
    async with running_sandbox("foundry", speed=0.001) as slow, client_of(slow) as http:
        seed = slow["foundry"]["seed"]
        model = f"/api/v2/models/{seed['model_rid']}"
        copy = {"sourceModelVersionRid": seed["model_version_rid"], "branch": "b"}
        first = (await http.post(f"{model}/promoteVersion", json=copy)).json()["rid"]
        target = {"type": "direct", "modelRid": seed["model_rid"], "branch": "b"}
        body = {"deploymentType": target, "runtimeConfiguration": RUNTIME}
        made = (await http.post(LIVE, json=body)).json()

        async def now() -> tuple[str, bool, str]:
            live = (await http.get(f"{LIVE}/{made['rid']}")).json()
            return live["status"]["state"], live["status"]["isReady"], live["modelVersion"]["modelVersionRid"]

        assert await now() == ("STARTING", False, first)
        await slow.control.advance(61)
        assert await now() == ("ACTIVE", True, first)
        second = (await http.post(f"{model}/promoteVersion", json=copy)).json()["rid"]
        assert await now() == ("ACTIVE", True, first)
        await slow.control.advance(91)
        assert await now() == ("ACTIVE", True, second)
        await http.post(f"{LIVE}/{made['rid']}/disable")
        assert await now() == ("DISABLED", False, second)
        await http.post(f"{LIVE}/{made['rid']}/start")
        assert await now() == ("STARTING", False, second)


async def test_replicas_follow_the_load(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    rid = (await seeded(sandbox, http))["rid"]
    runtime = {**RUNTIME, "threadCount": 1}
    assert (await http.put(f"{LIVE}/{rid}", json={"runtimeConfiguration": runtime})).is_success
    await sandbox.control.behave(match=rid, latency_seconds=0.4)
    url = f"{LIVE}/{rid}/transformJson"
    load = [asyncio.create_task(http.post(url, json={"input": {"x": number}})) for number in range(6)]

    async def all_there() -> bool:
        await http.get(f"{LIVE}/{rid}")
        return len((await sandbox.control.table("foundry", "live"))[rid]["pool"]["started"]) == 3

    await eventually(all_there)
    assert [task.json()["output"]["sum"] for task in await asyncio.gather(*load)] == list(range(6))


async def test_a_world_outlives_its_sandbox(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with running_sandbox("foundry", state=state) as first, client_of(first) as http:
        live = await seeded(first, http)
        await http.post(f"{LIVE}/{live['rid']}/disable")
    async with running_sandbox("foundry", state=state) as again, client_of(again) as http:
        assert (await seeded(again, http))["status"]["state"] == "DISABLED"


# --- saying no ----------------------------------------------------------------------------------------------------


def assert_envelope(answer: httpx.Response, status: int, name: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"errorCode", "errorName", "errorDescription", "errorInstanceId", "parameters"}
    assert name in (None, body["errorName"])


async def test_who_may_come_in(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=http.base_url, params=PREVIEW, trust_env=False) as stranger:
        for path in (LIVE, "/nowhere", "/api/v2/models"):
            assert_envelope(await stranger.get(path), 401, "MissingCredentials")
        for scheme in ("Bearer wrong", "Basic x", "Bearer"):
            answer = await stranger.get(LIVE, headers={"authorization": scheme})
            assert_envelope(answer, 401)


async def test_only_previews_and_only_json(http: httpx.AsyncClient) -> None:
    path = f"{http.base_url}{LIVE}/x"
    async with httpx.AsyncClient(headers=http.headers, trust_env=False) as plain:
        for query in ({}, {"preview": "false"}, {"preview": ""}, {"preview": "TRUE"}):
            assert_envelope(await plain.get(path, params=query), 400, "ApiFeaturePreviewUsageOnly")
    answer = await http.post(LIVE, content=b"{}", headers={"content-type": "text/plain"})
    assert_envelope(answer, 415, "Conjure:UnsupportedMediaType")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("DELETE", LIVE, 405),
        ("DELETE", f"{LIVE}/ri.a..b.c", 405),
        ("GET", f"{LIVE}/%00%2f", 404),
        ("GET", LIVE, 400),
        ("GET", "/multipass/api/oauth2/token", 405),
    ],
)
async def test_a_bad_request_line_is_refused_in_the_vendors_words(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert_envelope(await http.request(method, path), status)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"minReplicas": None}, "Default:InvalidArgument"),
        ({"sources": None}, "Default:InvalidArgument"),
        ({"environmentVariables": None}, "Default:InvalidArgument"),
        ({"minReplicas": 4}, "Default:InvalidArgument"),
        ({"minReplicas": "1"}, "Default:InvalidArgument"),
        ({"maxReplicas": 0}, "Default:InvalidArgument"),
        ({"memory": "much"}, "Default:InvalidArgument"),
        ({"typo": 1}, "Default:InvalidArgument"),
        ({"threadCount": 257}, "ThreadCountTooHigh"),
        ({"gpu": {"count": 0, "type": "T4"}}, "InvalidGpuCount"),
        ({"gpu": {"count": 1, "type": "H100"}}, "GpuTypeNotAvailable"),
        ({"environmentVariables": {"PORT": "1"}}, "ReservedEnvironmentVariable"),
    ],
)
async def test_a_bad_configuration_is_refused_by_create_and_replace(
    sandbox: RunningSandbox, http: httpx.AsyncClient, changes: dict[str, Any], name: str
) -> None:
    live = await seeded(sandbox, http)
    runtime = {key: value for key, value in {**RUNTIME, **changes}.items() if value is not None}
    target = {"type": "direct", "modelRid": live["modelVersion"]["modelRid"], "branch": "other"}
    body = {"deploymentType": target, "runtimeConfiguration": runtime}
    assert_envelope(await http.post(LIVE, json=body), 400, name)
    assert_envelope(await http.put(f"{LIVE}/{live['rid']}", json={"runtimeConfiguration": runtime}), 400, name)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"input": []}', b"[" * 100_000])
async def test_a_bad_body_is_refused(sandbox: RunningSandbox, http: httpx.AsyncClient, content: bytes) -> None:
    live = (await seeded(sandbox, http))["rid"]
    assert_envelope(await http.post(f"{LIVE}/{live}/transformJson", content=content), 400)
    assert_envelope(await http.post(LIVE, content=content), 400)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"pageSize": "0"}, "InvalidPageSize"),
        ({"pageSize": "x"}, "InvalidPageSize"),
        ({"pageSize": "٣"}, "InvalidPageSize"),
        ({"pageToken": "x"}, "InvalidPageToken"),
        ({"pageToken": base64.urlsafe_b64encode(b"-1").decode()}, "InvalidPageToken"),
    ],
)
async def test_a_bad_page_is_refused(
    sandbox: RunningSandbox, http: httpx.AsyncClient, query: dict[str, str], name: str
) -> None:
    model = sandbox["foundry"]["seed"]["model_rid"]
    assert_envelope(await http.get(f"/api/v2/models/{model}/versions", params={**PREVIEW, **query}), 400, name)


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "scope": "api:everything"}, 400, "invalid_scope"),
    ],
)
async def test_the_token_endpoint_refuses_as_oauth2_does(
    http: httpx.AsyncClient, form: dict[str, str], status: int, error: str
) -> None:
    answer = await http.post("/multipass/api/oauth2/token", data=form)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.parametrize("speed", [0, 1, 60])
async def test_a_token_says_truly_how_long_it_lives(speed: float) -> None:
    async with running_sandbox("foundry", speed=speed) as running:
        about = running["foundry"]
        form = {name: about[name] for name in ("client_id", "client_secret")} | {"grant_type": "client_credentials"}
        async with httpx.AsyncClient(base_url=about["base_url"], trust_env=False) as http:
            answer = (await http.post("/multipass/api/oauth2/token", data=form)).json()
        assert answer["expires_in"] == 3600 / (speed or 1)


# --- inputs -------------------------------------------------------------------------------------------------------


def api(kind: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"type": "parameter", "name": "a", "dataType": kind, **fields}], "outputs": []}


@pytest.mark.parametrize(
    ("kind", "good", "bad", "word"),
    [
        ({"type": "integer"}, 1, 1.5, "typeMismatch"),
        ({"type": "integer"}, 1, True, "typeMismatch"),
        ({"type": "double"}, 1, "1", "typeMismatch"),
        ({"type": "boolean"}, False, 0, "typeMismatch"),
        ({"type": "string"}, "x", 1, "typeMismatch"),
        ({"type": "any"}, [1], None, "requiredValueMissing"),
        ({"type": "array", "itemType": {"type": "long"}}, [1, 2], [1, "x"], "typeMismatch"),
        ({"type": "array", "itemType": {"type": "long"}}, [], 1, "typeMismatch"),
        ({"type": "map", "valueType": {"type": "long"}}, {"x": 1}, [1], "invalidMapFormat"),
        ({"type": "map", "valueType": {"type": "long"}}, {"x": 1}, {"x": "1"}, "typeMismatch"),
    ],
)
def test_inputs_must_fit_the_models_api(kind: dict[str, Any], good: Any, bad: Any, word: str) -> None:
    assert misfit(api(kind), {"a": good}) is None
    wrong = misfit(api(kind), {"a": bad})
    assert wrong is not None
    assert wrong["type"] == word


def test_names_and_tables_must_fit_too() -> None:
    table = {"type": "tabular", "name": "df", "columns": [{"name": "c", "dataType": {"type": "double"}}]}
    declared = {"inputs": [table], "outputs": []}
    assert misfit(declared, {"df": [{"c": 1}]}) is None
    assert misfit({"inputs": [], "outputs": []}, {"x": 1}) is None
    expected = [
        ({"dg": []}, {"type": "unknownInputName", "inputName": "dg"}),
        ({}, {"type": "requiredValueMissing", "fieldName": "df"}),
        ({"df": {"c": 1}}, {"type": "invalidTabularFormat", "inputFieldName": "df"}),
        ({"df": [{}]}, {"type": "requiredValueMissing", "fieldName": "c"}),
    ]
    for given_input, error in expected:
        assert misfit(declared, given_input) == error
    assert misfit(api({"type": "any"}, required=False), {}) is None


# --- no request breaks it -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
MODELS = (
    bodies.Runtime, bodies.NewLive, bodies.NewVersion, bodies.NewFunction, bodies.Promotion, bodies.Transform,
    bodies.NewModel, bodies.ScalingConfiguration, bodies.Entry,
)  # fmt: skip
NAMES = sorted({name for model in MODELS for name in model.model_fields})
LIKELY = st.recursive(
    JSON | st.sampled_from(["direct", "dill", "tabular", "map", "array", "ri.a..b.c", "T4", "SECONDS", "QUJD", "1GiB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=12,
)
PATHS = [
    ("POST", LIVE), ("GET", LIVE), ("GET", f"{LIVE}/{{live}}"), ("PUT", f"{LIVE}/{{live}}"),
    ("POST", f"{LIVE}/{{live}}/start"), ("POST", f"{LIVE}/{{live}}/disable"),
    ("POST", f"{LIVE}/{{live}}/transformJson"),
    ("POST", "/api/v2/models"), ("GET", "/api/v2/models/{model}"), ("POST", "/api/v2/models/{model}/promoteVersion"),
    ("POST", "/api/v2/models/{model}/versions"), ("GET", "/api/v2/models/{model}/versions"),
    ("GET", "/api/v2/models/{model}/versions/{version}"), ("POST", "/api/v2/models/{model}/function"),
    ("GET", "/api/v2/models/{model}/function"), ("PUT", "/api/v2/models/{model}/function"),
    ("POST", "/multipass/api/oauth2/token"), ("POST", "/multipass/api/oauth2/revoke_token"),
]  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    at=st.sampled_from(PATHS),
    body=LIKELY | st.binary(max_size=30),
    query=st.dictionaries(
        st.sampled_from(["modelRid", "branch", "pageSize", "pageToken", "x"]), st.text(max_size=12), max_size=3
    ),
    known=st.booleans(),
    fitting=st.booleans(),
)
async def test_no_request_breaks_it(
    sandbox: RunningSandbox, http: httpx.AsyncClient, at: tuple[str, str], body: Any, query: dict[str, str],
    known: bool, fitting: bool,
) -> None:  # fmt: skip
    seed = sandbox["foundry"]["seed"]
    ids = {
        "model": seed["model_rid"],
        "version": seed["model_version_rid"],
        "live": (await seeded(sandbox, http))["rid"],
    }
    if not known:
        ids = dict.fromkeys(ids, "ri.a..b.c")
    if fitting and isinstance(body, dict):
        target = {"type": "direct", "modelRid": ids["model"], "branch": "master"}
        body = {**body, "deploymentType": target, "runtimeConfiguration": {**RUNTIME, **body}}
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    method, path = at
    answer = await http.request(method, path.format(**ids), params={**query, **PREVIEW}, **content)  # type: ignore[arg-type]
    assert answer.status_code < 500, (at, body, query, answer.text)
    if answer.status_code >= 400 and not path.startswith("/multipass"):
        assert_envelope(answer, answer.status_code)
