"""What users of Gradient fell over, and what lost answers do: each test fails without its guard."""

import asyncio
import logging
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    DeploymentFailed,
    InvalidInput,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from prefect_modeldeploy.providers.gradient.graph import GraphApi
from prefect_modeldeploy.providers.gradient.problems import STATUS_OF, read_error
from prefect_modeldeploy.providers.gradient.rest import RestApi
from prefect_modeldeploy.transport import SecretHeader, Transport
from tests.conftest import eventually
from tests.providers.gradient_kit import QUICK, a_spec, block, gradient, graph, graph_spec
from tests.sandbox.storm import all_done, storm, struck

GONE = "00000000-0000-4000-8000-000000000000"
Json = dict[str, Any]

# --- never two deployments, never two spec versions -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lost_answer", "lost_request", "reset"])
@pytest.mark.parametrize("api", ["rest", "graphql"])
async def test_a_lost_answer_to_a_create_makes_no_second_deployment(api: str, kind: str) -> None:
    make, spec = (gradient, a_spec) if api == "rest" else (graph, graph_spec)
    async with make(settle_seconds=0.2) as (sandbox, client):
        path = "/v1/deployments" if api == "rest" else "/graphql"
        skip = 0 if api == "rest" else 1  # the first POST of GraphQL is the look-up by name
        await sandbox.control.fault(method="POST", path=path, kind=kind, skip=skip)
        made = await client.create(spec())
        deployments = await sandbox.control.table("gradient", "deployments")
        assert list(deployments) == [made.id]
        assert len(deployments[made.id]["specs"]) == 1


async def test_what_was_created_but_is_not_seen_yet_is_waited_for() -> None:
    async with gradient(settle_seconds=5) as (sandbox, client):
        await sandbox.control.fault(method="POST", path="/v1/deployments", kind="lost_answer")
        await sandbox.control.fate(match="fraud", outcome="late", reads=3)
        await client.create(a_spec())
        posts = await sandbox.control.requests(method="POST", path="/v1/deployments")
        assert len(posts) == 1
        assert len(await sandbox.control.table("gradient", "deployments")) == 1


async def test_not_found_just_after_creation_is_no_failure() -> None:
    async with gradient(settle_seconds=5) as (sandbox, client):
        await sandbox.control.fault(method="GET", path="/v1/deployments/*", kind="status", status=404, times=2)
        assert (await client.create(a_spec())).status is DeploymentStatus.READY


async def test_a_lost_answer_to_an_update_makes_no_second_spec_version() -> None:
    """A repeated upsert would replace all pods once more."""
    async with gradient() as (sandbox, client):
        made = await client.create(a_spec())
        await sandbox.control.fault(method="POST", path="/v1/deployments", kind="lost_answer")
        updated = await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2"))
        assert updated.version == "2"
        assert len(await client.history(made.id)) == 2


async def test_two_creates_of_one_name_at_once_make_one() -> None:
    async with gradient() as (sandbox, client):
        made = await asyncio.gather(*(client.create(a_spec()) for _ in range(4)))
        assert len({d.id for d in made}) == 1
        assert len(await sandbox.control.table("gradient", "deployments")) == 1
        assert len(await sandbox.control.requests(method="POST")) == 1


# --- whole-spec upserts must not lose fields --------------------------------------------------------------------------


async def test_changes_at_once_do_not_lose_each_other() -> None:
    async with gradient() as (_, client):
        made = await client.create(a_spec())
        await asyncio.gather(
            client.scale(made.id, Autoscaling(min_replicas=3)),
            client.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2")),
            client.update(made.id, DeploymentUpdate(env={"MODE": "b"})),
            client.update(made.id, DeploymentUpdate(options={"command": ["serve"]})),
        )
        data = (await client.history(made.id))[0].data
        assert data is not None
        assert (data["image"], data["resources"]["replicas"], data["command"]) == (
            "registry.example/fraud:2", 3, ["serve"],
        )  # fmt: skip
        assert {"name": "MODE", "value": "b"} in data["env"]


async def test_somebody_elses_change_between_our_read_and_our_write_survives() -> None:
    async with gradient() as (sandbox, ours), block(sandbox).get_client(policy=QUICK) as theirs:
        made = await ours.create(a_spec())
        # Our write is held until theirs is through.
        await sandbox.control.fault(method="POST", path="/v1/deployments", kind="delay", seconds=1.0)
        change = asyncio.create_task(ours.scale(made.id, Autoscaling(min_replicas=3)))
        await eventually(lambda: _sent(sandbox.control, 2))
        await theirs.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2"))
        assert (await change).version == "2"
        first, second, *_ = await ours.history(made.id)
        assert first.data is not None
        assert second.data is not None
        assert (first.data["image"], first.data["resources"]["replicas"]) == ("registry.example/fraud:2", 3)
        assert second.data["image"] == "registry.example/fraud:1", "theirs was overwritten for a moment"


async def _sent(control: Any, count: int) -> bool:
    return len(await control.requests(method="POST", path="/v1/deployments")) >= count


async def test_a_spec_that_somebody_wrote_by_hand_keeps_every_field() -> None:
    config: Json = {
        "apiVersion": "latest", "name": "theirs", "image": "nginx:1", "region": "ny2", "command": ["x"],
        "containerRegistry": "mine", "basicAuthKey": "secret:K", "integrations": [{"type": "volume", "name": "v"}],
        "healthchecks": {"liveness": {"path": "/"}},
        "resources": {
            "machineType": "C4", "ports": [80, 81], "replicas": 1,
            "autoscaling": {"maxReplicas": 4, "metrics": [{"metric": "memory", "summary": "average", "value": 70}]},
        },
    }  # fmt: skip
    async with gradient() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        made = await client.create_deployment("theirs", project, config)
        await client.scale(made.id, Autoscaling(min_replicas=2, max_replicas=6))
        await client.stop(made.id)
        await client.start(made.id)
        await client.update(made.id, DeploymentUpdate(source="nginx:2"))
        data = (await client.history(made.id))[0].data
        expected = {**config, "image": "nginx:2", "enabled": True, "resources": {**config["resources"], "replicas": 2}}
        expected["resources"]["autoscaling"] = {
            **config["resources"]["autoscaling"], "enabled": True, "maxReplicas": 6,
        }  # fmt: skip
        assert data == expected


async def test_without_a_readable_spec_nothing_is_sent_but_a_whole_one_may_be() -> None:
    async with gradient() as (sandbox, client):
        made = await client.create(a_spec())
        data = (await client.history(made.id))[0].data
        assert data is not None
        blind = {**made.raw, "latestSpec": None}
        path = f"/v1/deployments/{made.id}"
        await sandbox.control.fault(method="GET", path=path, kind="status", status=200, body=blind)
        with pytest.raises(Conflict, match="no valid spec"):
            await client.stop(made.id)
        assert len(await client.history(made.id)) == 1
        await sandbox.control.fault(method="GET", path=path, kind="status", status=200, body=blind)
        assert (await client.upsert(made.id, {**data, "enabled": False})).status is DeploymentStatus.STOPPED


# --- ready is ready ---------------------------------------------------------------------------------------------------


async def test_healthy_belongs_to_one_spec_version() -> None:
    async with gradient(speed=0.001) as (sandbox, client):
        made = await client.create(a_spec())
        await sandbox.control.advance(70)
        assert (await client.get(made.id)).ready
        await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2"))
        await sandbox.control.advance(10)
        updating = await client.get(made.id)
        assert (updating.ready, updating.status) == (False, DeploymentStatus.UPDATING)
        assert updating.replicas.ready == 1, "the counts alone would have said ready"
        assert [d.ready for d in await client.find()] == [False]
        await sandbox.control.advance(60)
        assert (await client.get(made.id)).ready


async def test_the_former_version_that_is_still_shown_does_not_make_the_new_one_ready() -> None:
    async with gradient(settle_seconds=5) as (sandbox, client):
        made = await client.create(a_spec())
        assert made.ready
        await sandbox.control.fate(match="fraud", outcome="late", reads=3)
        updated = await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2"))
        assert updated.version == "2"
        await sandbox.control.fate(match="fraud", outcome="late", reads=10_000)
        client._upserts._settle = 0.1
        unseen = await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:3", version="3"))
        assert (unseen.version, unseen.ready) == ("3", False)


async def test_a_pod_that_cannot_start_fails_the_wait_after_the_grace() -> None:
    async with gradient(grace_seconds=0) as (sandbox, client):
        await sandbox.control.fate(match="fraud", outcome="fail", stage="applied", reason="image not found")
        made = await client.create(a_spec())
        assert (made.status, made.reason) == (DeploymentStatus.FAILED, "errored: image not found")
        with pytest.raises(DeploymentFailed, match="image not found"):
            async for _ in client.wait([made.id], lambda d: d.ready):
                pass


async def test_within_the_grace_an_errored_pod_may_still_come_up() -> None:
    async with gradient() as (sandbox, client):
        await sandbox.control.fate(match="fraud", outcome="fail", stage="applied", reason="image not found")
        made = await client.create(a_spec())
        assert (made.status, made.reason) == (DeploymentStatus.STARTING, "errored: image not found")


@pytest.mark.parametrize("api", ["rest", "graphql"])
async def test_a_spec_that_the_vendor_cannot_run_is_a_failure_at_once(api: str) -> None:
    make, spec = (gradient, a_spec) if api == "rest" else (graph, graph_spec)
    async with make() as (_, client):
        machine = {"resources": {"machineType": "TOASTER", "ports": [80]}} if api == "rest" else {}
        fields: Json = {"options": machine, "resources": None}
        if api == "graphql":
            fields = {"options": {"resources": {"instanceType": "TOASTER"}}, "resources": None}
        made = await client.create(spec(**fields))
        assert made.status is DeploymentStatus.FAILED
        assert "TOASTER" in str(made.reason)


async def test_a_version_that_never_was_healthy_is_not_rolled_back_to() -> None:
    async with gradient(grace_seconds=0) as (sandbox, client):
        made = await client.create(a_spec())
        await client.get(made.id)
        await sandbox.control.fate(match="fraud", outcome="fail", stage="applied")
        await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:bad", version="bad"))
        await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:3", version="3"))
        assert (await client.roll_back(made.id, environment="production")).version == "1"


# --- errors -----------------------------------------------------------------------------------------------------------


def answered(status: int, body: Any, headers: dict[str, str] | None = None) -> Transport:
    def answer(_: httpx.Request) -> httpx.Response:
        if isinstance(body, str):
            return httpx.Response(status, text=body, headers=headers)
        return httpx.Response(status, json=body, headers=headers)

    return Transport(
        "gradient", "https://api.example.com/v1", auth=SecretHeader(SecretStr("k"), scheme="Bearer"),
        read_error=read_error, policy=QUICK, http=httpx.MockTransport(answer),
    )  # fmt: skip


@pytest.mark.parametrize(("code", "status"), STATUS_OF.items())
async def test_an_error_that_comes_with_status_200_is_an_error(code: str, status: int) -> None:
    async with answered(200, {"code": code, "message": "no"}) as transport:
        with pytest.raises(ProviderError) as caught:
            await RestApi(transport).get(GONE)
    assert caught.value.problem.code == code
    kinds = {401: AuthenticationFailed, 403: AuthenticationFailed, 404: NotFound, 409: Conflict, 429: RateLimited}
    expected = ProviderUnavailable if status in (408, 500) else kinds.get(status, ProviderError)
    assert type(caught.value) is expected


async def test_the_envelope_is_kept_with_its_issues() -> None:
    issues = [{"message": "Required", "path": ["config", "image"]}, {"message": "Odd"}]
    async with answered(400, {"code": "BAD_REQUEST", "message": "Input validation failed", "issues": issues}) as it:
        with pytest.raises(ProviderError, match=r"config\.image: Required; Odd") as caught:
            await RestApi(it, "p").send({"name": "x"})
    problem = caught.value.problem
    assert (problem.status_code, problem.code, problem.parameters) == (400, "BAD_REQUEST", {"issues": issues})


async def test_details_and_other_bodies_are_kept_too() -> None:
    async with answered(412, {"code": "PRECONDITION_FAILED", "message": "no", "details": {"a": 1}}) as it:
        with pytest.raises(ProviderError) as caught:
            await RestApi(it).get(GONE)
    assert caught.value.problem.parameters == {"details": {"a": 1}}
    async with answered(400, "<html>proxy</html>") as it:
        with pytest.raises(ProviderError, match="proxy"):
            await RestApi(it).get(GONE)


async def test_the_vendors_delay_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with gradient() as (sandbox, client):
        await sandbox.control.fault(kind="status", status=429, retry_after=0.05)
        with caplog.at_level(logging.WARNING):
            assert await client.find() == []
        assert "TOO_MANY_REQUESTS" in caplog.text
        first, second = await sandbox.control.requests()
        assert second.at - first.at >= 0.05


@pytest.mark.parametrize("body", [[], "text", {"items": 3}, {}, None])
async def test_an_answer_that_is_no_page_is_an_error_and_no_crash(body: Any) -> None:
    async with answered(200, body) as transport:
        with pytest.raises(ProviderError, match="not"):
            await RestApi(transport).find()


async def test_pages_without_end_are_left_when_a_cursor_comes_again() -> None:
    async with gradient() as (sandbox, client):
        page = {"hasMore": True, "items": [], "nextPage": "again"}
        await sandbox.control.fault(path="/v1/projects/*", kind="status", status=200, body=page, times=None)
        with pytest.raises(ProviderError, match="do not end"):
            await client.find()
        assert len(await sandbox.control.requests()) == 2


@pytest.mark.parametrize("api", ["rest", "graphql"])
async def test_more_deployments_than_a_page_holds_are_all_found(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_modeldeploy.providers.gradient.rest.LONGEST_PAGE", 5)
    monkeypatch.setattr("prefect_modeldeploy.providers.gradient.graph.DEFAULT_FIRST", 5)
    make, spec = (gradient, a_spec) if api == "rest" else (graph, graph_spec)
    async with make() as (_, client):
        names = {f"d-{number}" for number in range(12)}
        await asyncio.gather(*(client.create(spec(name)) for name in names))
        assert {d.name for d in await client.find()} == names


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([{"message": "No auth token provided.", "extensions": {"code": "UNAUTHENTICATED"}}], AuthenticationFailed),
        ([{"message": "x", "extensions": {"code": "NOT_FOUND"}}], NotFound),
        ([{"message": "x", "extensions": {"code": "BAD_USER_INPUT"}}], ProviderError),
        ([{"message": "x", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}], ProviderUnavailable),
        ([{"message": "x"}], ProviderError),
        (["x"], ProviderError),
    ],
)
async def test_graphql_errors_come_with_status_200(errors: Any, kind: type[ProviderError]) -> None:
    async with answered(200, {"data": None, "errors": errors}) as transport:
        with pytest.raises(kind, match=r"No auth|x"):
            await GraphApi(transport, transport).get(GONE)


@pytest.mark.parametrize("body", [{}, {"data": None}, [], "text"])
async def test_graphql_without_data_is_an_error(body: Any) -> None:
    async with answered(200, body) as transport:
        with pytest.raises(ProviderError):
            await GraphApi(transport, transport).get(GONE)


@pytest.mark.parametrize("bad", ["", "../projects", "d4e74a9c", "x" * 500, None, 5])
async def test_an_id_that_is_none_is_refused_before_any_request(bad: Any) -> None:
    async with gradient() as (sandbox, client):
        for call in (client.get, client.stop, client.delete, client.runs, client.logs, client.history):
            with pytest.raises(InvalidInput, match="deployment_id"):
                await call(bad)
        assert await sandbox.control.requests() == []


# --- the storm --------------------------------------------------------------------------------------------------------


async def weather(api: str, deployments: int, rounds: int) -> None:
    """Creates, updates, scales, stops, starts and deletes while 20 % of all requests fail."""
    make, spec = (gradient, a_spec) if api == "rest" else (graph, graph_spec)
    async with make(settle_seconds=0.4) as (sandbox, client):
        await storm(sandbox.control, "gradient", share=0.2)
        names = [f"d-{number}" for number in range(deployments)]
        made = await all_done([partial(client.create, spec(name)) for name in names])
        ids, done = [d.id for d in made], deployments
        for turn in range(rounds):
            scale, update = Autoscaling(min_replicas=turn + 2), DeploymentUpdate(env={"TURN": str(turn)})
            await all_done([partial(client.scale, i, scale) for i in ids])
            await all_done([partial(client.update, i, update) for i in ids])
            await all_done([partial(client.stop, i) for i in ids])
            await all_done([partial(client.start, i) for i in ids])
            done += 4 * deployments
        await all_done([partial(client.delete, i) for i in ids[::2]])
        done += len(ids[::2])
        faults = await struck(sandbox.control)
        await sandbox.control.clear_faults()
        print(f"{api}: {done} operations, {faults}")
        assert sum(faults.values()) > done * 0.2
        left = await sandbox.control.table("gradient", "deployments")
        specs = await sandbox.control.table("gradient", "specs")
        assert set(left) == set(ids[1::2]), "no duplicate, no orphan"
        assert {d["name"] for d in left.values()} == set(names[1::2])
        assert {s["deploymentId"] for s in specs.values()} == set(left)
        for deployment in await client.find():
            assert deployment.ready
            assert deployment.autoscaling == Autoscaling(min_replicas=rounds + 1, max_replicas=rounds + 1)
        for one in left.values():
            versions = [specs[spec_id]["data"] for spec_id in one["specs"]]
            assert all(before != after for before, after in pairwise(versions)), "no upsert was done twice"


@pytest.mark.parametrize("api", ["rest", "graphql"])
async def test_operations_in_bad_weather(api: str, without_waits: None) -> None:
    await weather(api, deployments=8, rounds=1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("api", ["rest", "graphql"])
async def test_a_thousand_operations_in_bad_weather(api: str, without_waits: None) -> None:
    await weather(api, deployments=53, rounds=5)
