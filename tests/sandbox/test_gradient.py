"""The Gradient emulator: its life cycle, its refusals, and that nothing at all makes it crash."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_modeldeploy.sandbox.gradient.query import BadQuery, parse
from tests.conftest import eventually
from tests.providers.gradient_kit import shared_sandbox
from tests.sandbox.kit import RunningSandbox, running_sandbox

V1 = {"apiVersion": "v1", "name": "demo", "image": "nginx", "resources": {"machineType": "C4", "ports": [80]}}
GONE = "00000000-0000-4000-8000-000000000000"
Json = dict[str, Any]


def http_of(sandbox: RunningSandbox) -> httpx.AsyncClient:
    ready = sandbox["gradient"]
    return httpx.AsyncClient(
        base_url=ready["base_url"].removesuffix("/v1"),
        headers={"authorization": f"Bearer {ready['api_key']}", "x-api-key": ready["api_key"]},
        trust_env=False,
    )


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with shared_sandbox() as running:
        yield running


@pytest_asyncio.fixture
async def http(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with http_of(sandbox) as client:
        yield client


@pytest.fixture
def project(sandbox: RunningSandbox) -> str:
    return str(sandbox["gradient"]["seed"]["project_id"])


async def up(http: httpx.AsyncClient, project: str, config: Json | None = None, **more: Any) -> str:
    answer = await http.post("/v1/deployments", json={"projectId": project, "config": config or V1, **more})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["deploymentId"])


async def see(http: httpx.AsyncClient, deployment: str, what: str = "") -> Any:
    return (await http.get(f"/v1/deployments/{deployment}{what}")).json()


async def ask(http: httpx.AsyncClient, query: str, **variables: Any) -> Json:
    answer = await http.post("/graphql", json={"query": query, "variables": variables})
    assert answer.status_code == 200
    return dict(answer.json())


# --- the world --------------------------------------------------------------------------------------------------------


async def test_the_ready_file_says_what_the_clients_need(sandbox: RunningSandbox) -> None:
    ready = sandbox["gradient"]
    assert set(ready) == {"base_url", "graphql_url", "api_key", "seed"}
    assert set(ready["seed"]) == {"project_id"}


async def test_an_upsert_goes_through_its_life() -> None:
    async with running_sandbox("gradient", speed=0.001) as sandbox, http_of(sandbox) as http:
        made = await up(http, sandbox["gradient"]["seed"]["project_id"])

        async def signs() -> tuple[bool, bool, list[str]]:
            spec = (await see(http, made))["latestSpec"]
            states = [i["state"] for run in await see(http, made, "/runs") for i in run["instances"]]
            return spec["externalApplied"] is not None, spec["dtHealthy"] is not None, states

        assert await signs() == (False, False, [])
        await sandbox.control.advance(10)
        assert await signs() == (True, False, ["pending"])
        await sandbox.control.advance(60)
        assert await signs() == (True, True, ["healthy"])
        await up(http, sandbox["gradient"]["seed"]["project_id"], {**V1, "image": "nginx:2"})
        await sandbox.control.advance(10)
        assert await signs() == (True, False, ["pending", "healthy"])
        assert (await http.post(f"/endpoints/{made}", json=[1])).status_code == 200, "the former version serves on"
        await up(http, sandbox["gradient"]["seed"]["project_id"], {**V1, "enabled": False})
        await sandbox.control.advance(10)
        assert await signs() == (True, False, [])
        assert (await http.post(f"/endpoints/{made}", json=[1])).status_code == 503


async def test_an_upsert_finds_its_deployment_by_name_or_id(http: httpx.AsyncClient, project: str) -> None:
    made = await up(http, project)
    assert await up(http, project, {**V1, "image": "nginx:2"}) == made
    assert await up(http, project, {**V1, "name": "renamed"}, deploymentId=made) == made
    assert (await see(http, made))["name"] == "renamed"
    other = await up(http, project)
    assert other != made
    taken = await http.post("/v1/deployments", json={"projectId": project, "config": V1, "deploymentId": made})
    assert (taken.status_code, taken.json()["code"]) == (409, "CONFLICT")
    assert len((await see(http, made, "/history"))["items"]) == 3


async def test_pages(http: httpx.AsyncClient, project: str) -> None:
    for number in range(5):
        await up(http, project, {**V1, "name": f"d-{number}"})
    names, after = [], None
    while True:
        params = {"limit": 2, "order": "asc"} | ({"after": after} if after else {})
        page = (await http.get(f"/v1/projects/{project}/deployments", params=params)).json()
        names += [item["name"] for item in page["items"]]
        after = page["nextPage"]
        if not page["hasMore"]:
            break
    assert names == [f"d-{number}" for number in range(5)]


async def test_git_headers_are_kept_with_the_spec(http: httpx.AsyncClient, project: str) -> None:
    body = {"projectId": project, "config": V1}
    made = (await http.post("/v1/deployments", json=body, headers={"x-git-sha": "abc"})).json()["deploymentId"]
    assert (await see(http, made))["latestSpec"]["metadata"] == {"gitHeaders": {"x-git-sha": "abc"}}


async def test_a_new_version_is_seen_late_when_told_to(
    sandbox: RunningSandbox, http: httpx.AsyncClient, project: str
) -> None:
    made = await up(http, project)
    await sandbox.control.fate(match="demo", outcome="late", reads=2)
    await up(http, project, {**V1, "image": "nginx:2"})
    images = [(await see(http, made))["latestSpec"]["data"]["image"] for _ in range(3)]
    assert images == ["nginx", "nginx", "nginx:2"]


async def test_the_autoscaler_follows_the_load() -> None:
    async with running_sandbox("gradient") as sandbox, http_of(sandbox) as http:
        scaling = {"maxReplicas": 3, "metrics": [{"metric": "cpu", "summary": "average", "value": 50}]}
        resources = {"machineType": "C4", "ports": [80], "autoscaling": scaling}
        made = await up(http, sandbox["gradient"]["seed"]["project_id"], {**V1, "resources": resources})
        await sandbox.control.behave(match="demo", latency_seconds=0.5)
        load = [asyncio.create_task(http.post(f"/endpoints/{made}", json=1)) for _ in range(12)]

        async def counts() -> tuple[int, int]:
            [run] = await see(http, made, "/runs")
            return run["replicas"], run["readyReplicas"]

        async def grown() -> bool:
            return await counts() == (3, 3)

        await eventually(grown)
        assert {answer.status_code for answer in await asyncio.gather(*load)} == {200}
        await sandbox.control.advance(400)
        assert await counts() == (1, 1)


async def test_a_secret_protects_an_endpoint(http: httpx.AsyncClient, project: str) -> None:
    secret = await http.post(f"/v1/projects/{project}/secrets", json={"name": "my_secret", "value": "password"})
    assert secret.status_code == 200
    made = await up(http, project, {**V1, "basicAuthKey": "secret:my_secret"})
    tries = [None, ("paperspace", "wrong"), ("someone", "password"), ("paperspace", "password")]
    async with httpx.AsyncClient(base_url=http.base_url, trust_env=False) as visitor:
        codes = [(await visitor.post(f"/endpoints/{made}", json=1, auth=auth)).status_code for auth in tries]
    assert codes == [401, 401, 401, 200]
    projects = await http.get("/v1/projects")
    assert "password" not in projects.text


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/v1/nowhere", None, 404, "NOT_FOUND"),
        ("PUT", "/v1/deployments", None, 405, "METHOD_NOT_SUPPORTED"),
        ("GET", f"/v1/deployments/{GONE}", None, 404, "NOT_FOUND"),
        ("GET", "/v1/deployments/no-uuid", None, 400, "BAD_REQUEST"),
        ("DELETE", f"/v1/deployments/{GONE}", None, 404, "NOT_FOUND"),
        ("GET", "/v1/deployments?limit=121", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/deployments?limit=0", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/deployments?order=up", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/deployments?after=nothing", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/projects/none/deployments", None, 404, "NOT_FOUND"),
        ("POST", "/v1/deployments", b"", 400, "BAD_REQUEST"),
        ("POST", "/v1/deployments", b"[1]", 400, "BAD_REQUEST"),
        ("POST", "/v1/deployments", b"\xff", 400, "BAD_REQUEST"),
        ("POST", "/v1/deployments", b'{"projectId": "p", "config": {}}', 400, "BAD_REQUEST"),
        ("GET", "/endpoints/none", None, 404, "NOT_FOUND"),
    ],
)
async def test_a_bad_request_gets_the_vendors_envelope(
    http: httpx.AsyncClient, method: str, path: str, content: bytes | None, status: int, code: str
) -> None:
    answer = await http.request(method, path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) <= {"code", "message", "issues"}


async def test_an_issue_names_the_path(http: httpx.AsyncClient, project: str) -> None:
    config = {**V1, "resources": {"machineType": "C4", "ports": [0], "gpu": 1}}
    answer = await http.post("/v1/deployments", json={"projectId": project, "config": config})
    paths = [issue["path"] for issue in answer.json()["issues"]]
    assert paths == [["config", "resources", "ports", 0], ["config", "resources", "gpu"]]


async def test_nobody_comes_in_without_a_key(sandbox: RunningSandbox) -> None:
    async with http_of(sandbox) as known, httpx.AsyncClient(base_url=known.base_url, trust_env=False) as stranger:
        assert (await stranger.get("/v1/health")).json() == "HEALTHY"
        for path in ("/v1/deployments", "/v1/nowhere", "/jobs/logs", "/"):
            answer = await stranger.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
        told = (await stranger.post("/graphql", json={"query": "{ deployments(first: 1) { nodes { id } } }"})).json()
        assert told["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ deployment(id: 5) { id } }", "BAD_USER_INPUT"),
        ("{ deployments(first: -1) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ nothing { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ deployments { nodes { colour } } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ deployments { nodes } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ deployments(colour: 1) { nodes { id } } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ deployments { nodes { id { x } } } }", "GRAPHQL_VALIDATION_FAILED"),
        ("mutation { deployments { nodes { id } } }", "GRAPHQL_VALIDATION_FAILED"),
        ("query q { deployments { nodes { id } } } fragment f on X { id }", "GRAPHQL_VALIDATION_FAILED"),
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ }", "GRAPHQL_PARSE_FAILED"),
        ("subscription { x }", "GRAPHQL_PARSE_FAILED"),
        ("{ a ~ }", "GRAPHQL_PARSE_FAILED"),
        ("{a" * 500, "GRAPHQL_PARSE_FAILED"),
        ('mutation { deleteDeployment(input: {id: "x"}) { deployment { id } } }', "BAD_USER_INPUT"),
        (f'mutation {{ deleteDeployment(input: {{id: "{GONE}"}}) {{ deployment {{ id }} }} }}', "NOT_FOUND"),
    ],
)
async def test_a_bad_query_is_a_graphql_error(http: httpx.AsyncClient, project: str, query: str, code: str) -> None:
    await up(http, project)
    told = await ask(http, query)
    assert told["errors"][0]["extensions"]["code"] == code
    assert told["data"] is None


async def test_graphql_answers_only_what_was_asked(http: httpx.AsyncClient, project: str) -> None:
    made = await up(http, project)
    specs = "deploymentSpecs(first: 1) { nodes { data { port } data { image } } }"
    query = f"query q($id: UUID!) {{ deployment(id: $id) {{ __typename name {specs} }} }}"
    told = await ask(http, query, id=made)
    assert told["data"]["deployment"] == {
        "__typename": "deployment", "name": "demo",
        "deploymentSpecs": {"nodes": [{"data": {"port": 80, "image": "nginx"}}]},
    }  # fmt: skip


# --- nothing makes it crash -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_WORDS = st.sampled_from(
    ["demo", "secret:x", "v1", "v0alpha0", "C4", "Free-A4000", "TOASTER", "cpu", "average", "s3", ""]
)
VALUES = _WORDS | st.sampled_from([0, 1, 26, 80, 65536, 10**12, -1, 0.5, True, None, [], {}]) | JSON
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "machineType": VALUES, "instanceType": VALUES, "ports": st.lists(VALUES, max_size=2) | VALUES,
        "replicas": VALUES,
        "autoscaling": st.fixed_dictionaries(
            {},
            optional={
                "enabled": VALUES, "maxReplicas": VALUES,
                "metrics": st.lists(
                    st.fixed_dictionaries({}, optional={"metric": VALUES, "summary": VALUES, "value": VALUES})
                ),
            },
        ),
    },
)  # fmt: skip
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": st.sampled_from(["v1", "v0alpha0", "latest"]) | VALUES, "name": _WORDS, "image": VALUES,
        "enabled": VALUES, "port": VALUES, "env": VALUES | st.lists(st.dictionaries(_WORDS, VALUES), max_size=2),
        "healthChecks": VALUES, "integrations": st.lists(st.fixed_dictionaries({}, optional={"type": VALUES})),
        "models": VALUES, "basicAuthKey": VALUES, "resources": RESOURCES | VALUES,
    },
)  # fmt: skip
VALID = st.builds(
    lambda version, replicas, enabled, machine, most: {
        "apiVersion": version, "name": "demo", "image": "nginx", "enabled": enabled,
        "resources": {
            "machineType": machine, "ports": [80], "replicas": replicas,
            "autoscaling": {"maxReplicas": most, "metrics": []},
        },
    },
    st.sampled_from(["v1", "latest"]), st.sampled_from([0, 1, 3, 10**12]), st.booleans(),
    st.sampled_from(["C4", "TOASTER"]), st.integers(1, 25),
)  # fmt: skip
PATHS = ["", "/runs", "/history", "/logs", "/metrics"]
_PARAMETERS = ("limit", "after", "order", "orderBy", "metric", "timeframe", "name", "instanceId", "line", "first")
_GIVEN = ("1", "0", "120", "-1", "x", "", "asc", "cpu", "requests_total", "requests_per_second", "hour", "2_weeks")
QUERIES = st.dictionaries(st.sampled_from(_PARAMETERS), st.sampled_from(_GIVEN) | st.text(max_size=5), max_size=4)
FIELDS = st.sampled_from(
    ["deployment", "deployments", "createDeployment", "updateDeployment", "deleteDeployment", "nodes", "edges", "node",
     "cursor", "deploymentSpecs", "deploymentRuns", "deploymentRunInstances", "data", "resources", "autoscaling",
     "metrics", "env", "id", "name", "pageInfo", "__typename"]
)  # fmt: skip
_ARGUMENTS = ("id: $id", "first: $first", "first: 1", 'name: "x"', "input: $input", "after: null", "input: {id: $id}")
ARGUMENTS = st.lists(st.sampled_from(_ARGUMENTS), max_size=3).map(
    lambda items: f"({', '.join(items)})" if items else ""
)
SELECTION = st.recursive(
    FIELDS,
    lambda inner: st.tuples(FIELDS, ARGUMENTS, st.lists(inner, min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]}{parts[1]} {{ {' '.join(parts[2])} }}"
    ),
    max_leaves=10,
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def say_no(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text


@pytest.fixture
def sync_http(sandbox: RunningSandbox) -> Any:
    ready = sandbox["gradient"]
    with httpx.Client(
        base_url=ready["base_url"].removesuffix("/v1"), trust_env=False,
        headers={"authorization": f"Bearer {ready['api_key']}", "x-api-key": ready["api_key"]},
    ) as client:  # fmt: skip
        yield client


def test_no_upsert_crashes_it(sync_http: httpx.Client, sandbox: RunningSandbox, project: str) -> None:
    @FUZZ
    @given(CONFIG | VALID | JSON, QUERIES, st.sampled_from(PATHS))
    def fuzz(config: Any, query: dict[str, str], path: str) -> None:
        body = json.dumps({"projectId": project, "config": config})
        answer = sync_http.post("/v1/deployments", content=body)
        say_no(answer)
        target = answer.json().get("deploymentId", GONE)
        say_no(sync_http.get(f"/v1/deployments/{target}{path}", params=query))
        say_no(sync_http.get(f"/v1/projects/{project}/deployments", params=query))
        say_no(sync_http.get(f"/v1/projects/{project}/activity", params=query))
        say_no(sync_http.get("/jobs/logs", params={**query, "gradientDeploymentId": target}))

    fuzz()


def test_no_body_and_no_path_crashes_it(sync_http: httpx.Client) -> None:
    @FUZZ
    @given(
        st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
        st.sampled_from(["/v1/deployments", "/graphql", "/jobs/logs", "/v1/projects", "/endpoints/x", "/"]),
        st.text(max_size=10), st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()),
    )  # fmt: skip
    def fuzz(method: str, path: str, rest: str, content: bytes) -> None:
        say_no(sync_http.request(method, f"{path}/{quote(rest, safe='')}" if rest else path, content=content))

    fuzz()


def test_no_query_crashes_it(sync_http: httpx.Client, project: str) -> None:
    spec = {"image": "nginx", "resources": {"instanceType": "C4", "replicas": 1}}

    @FUZZ
    @given(
        st.sampled_from(["query", "mutation"]), st.lists(SELECTION, min_size=1, max_size=2),
        st.sampled_from([GONE, "x", None]) | JSON, VALUES, CONFIG | JSON,
    )  # fmt: skip
    def fuzz(kind: str, fields: list[str], one: Any, first: Any, config: Any) -> None:
        given_input = {"id": one, "name": "demo", "projectId": project, "spec": config if first else spec}
        variables = {"id": one, "first": first, "input": given_input if one != "x" else config}
        query = f"{kind} q($id: UUID!) {{ {' '.join(fields)} }}"
        say_no(sync_http.post("/graphql", content=json.dumps({"query": query, "variables": variables})))

    fuzz()


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text(alphabet='{}()[]:!=$@" \n#.,aq1-'))
def test_reading_a_document_ends_or_says_why(text: str) -> None:
    with contextlib.suppress(BadQuery):
        assert parse(text, {}).selection
