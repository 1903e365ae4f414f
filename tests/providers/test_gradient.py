"""Gradient from outside: the block, what each API can do, and the whole life of a deployment on both of them."""

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
    Resources,
)
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    NotFound,
    ProviderError,
    UnsupportedOperation,
    WaitTimeout,
)
from prefect_modeldeploy.providers.gradient import GradientClient, GradientCredentials, GradientGraphClient
from tests.providers.gradient_kit import QUICK, a_spec, block, gradient, graph_spec, shared_sandbox
from tests.sandbox.kit import RunningSandbox, running_sandbox

GONE = "00000000-0000-4000-8000-000000000000"

Client = GradientClient | GradientGraphClient
MakeSpec = Callable[..., DeploymentSpec]


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with shared_sandbox() as running:
        yield running


@pytest_asyncio.fixture(params=["rest", "graphql"])
async def client(request: pytest.FixtureRequest, sandbox: RunningSandbox) -> AsyncIterator[Client]:
    async with block(sandbox, request.param).get_client(policy=QUICK, settle_seconds=0.3) as client:
        assert isinstance(client, GradientClient | GradientGraphClient)
        yield client


@pytest_asyncio.fixture
async def rest(sandbox: RunningSandbox) -> AsyncIterator[GradientClient]:
    async with block(sandbox).get_client(policy=QUICK, settle_seconds=0.3) as client:
        assert isinstance(client, GradientClient)
        yield client


@pytest.fixture
def make_spec(client: Client) -> MakeSpec:
    return graph_spec if isinstance(client, GradientGraphClient) else a_spec


# --- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("block", [GradientCredentials])
class TestBlock(BlockStandardTestSuite):
    """Prefect's own standard for blocks."""

    @pytest.fixture
    def block(self, block: type) -> type:
        return block

    def test_has_a_valid_image(self, block: type) -> None:
        """Prefect's test downloads the logo; tests of ours need no network."""
        assert str(block._logo_url).startswith("https://")  # type: ignore[attr-defined]


def test_every_field_is_described_in_a_sentence() -> None:
    for name, field in GradientCredentials.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_documentation_that_the_block_points_to_is_in_the_package() -> None:
    import prefect_modeldeploy

    path = str(GradientCredentials._documentation_url).rpartition("/prefect_modeldeploy/")[2]
    assert (Path(prefect_modeldeploy.__file__).parent / path).exists()


@pytest.mark.parametrize("field", ["cluster_id", "logs_url"])
def test_what_only_graphql_has_is_refused_with_rest(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}='x'.*api='graphql'"):
        GradientCredentials(api_key=SecretStr("k"), **{field: "x"})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"api_key": " "}, "api_key"),
        ({"api_key": "k", "base_url": "http://example.com/v1"}, "base_url"),
        ({"api_key": "k", "base_url": "example.com"}, "base_url"),
        ({"api_key": "k", "base_url": "https://user:pw@example.com/v1"}, "base_url"),
    ],
)
async def test_a_block_that_cannot_work_says_why(fields: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        async with GradientCredentials(**fields).get_client():  # type: ignore[arg-type]
            pass
    assert "pw" not in str(caught.value)


async def test_plain_http_to_another_machine_must_be_allowed() -> None:
    allowed = GradientCredentials(api_key=SecretStr("k"), base_url="http://example.com/v1", allow_http=True)
    async with allowed.get_client() as client:
        assert isinstance(client, GradientClient)


# --- what it can do ---------------------------------------------------------------------------------------------------

BOTH = {
    Capability.CREATE, Capability.UPDATE, Capability.DELETE, Capability.LIST, Capability.SCALE, Capability.STOP,
    Capability.START, Capability.PROMOTE, Capability.ROLL_BACK, Capability.PREDICT, Capability.LOGS,
}  # fmt: skip


def test_the_capability_table() -> None:
    rest = GradientCredentials(api_key=SecretStr("k"))
    graphql = GradientCredentials(api_key=SecretStr("k"), api="graphql")
    assert {c for c in Capability if rest.can(c)} == BOTH | {Capability.METRICS}
    assert {c for c in Capability if graphql.can(c)} == BOTH


async def test_what_is_missing_is_refused_before_any_request(sandbox: RunningSandbox, client: Client) -> None:
    calls: dict[Capability, Callable[[], Any]] = {
        Capability.SCALE_TO_ZERO: lambda: client.scale_to_zero(GONE),
        Capability.WAKE: lambda: client.wake(GONE),
        Capability.METRICS: lambda: client.idle_seconds(GONE),
    }
    for capability, call in calls.items():
        if not client.can(capability):
            with pytest.raises(UnsupportedOperation, match=capability.lower()):
                await call()
    with pytest.raises(UnsupportedOperation, match="traffic"):
        client.router()
    assert await sandbox.control.requests() == []


# --- a deployment's life, on both APIs --------------------------------------------------------------------------------


async def test_creating_shows_our_words_again(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec(autoscaling=Autoscaling(min_replicas=1, max_replicas=3)))
    assert (made.name, made.model_id, made.version, made.environment) == ("fraud", "fraud", "1", "production")
    assert (made.status, made.provider_status, made.ready) == (DeploymentStatus.READY, "healthy", True)
    assert made.autoscaling == Autoscaling(min_replicas=1, max_replicas=3)
    assert made.resources == Resources(instance_type="C4")
    assert (made.replicas.ready, made.replicas.desired) == (1, 1)
    assert made.raw["name"] == "fraud"
    assert await client.get(made.id) == made


async def test_finding_all_and_those_of_a_model(client: Client, make_spec: MakeSpec) -> None:
    for name, model in (("a", "fraud"), ("b", "fraud"), ("c", "churn")):
        await client.create(make_spec(name, model=model))
    assert {d.name for d in await client.find()} == {"a", "b", "c"}
    assert {d.name for d in await client.find(model="fraud")} == {"a", "b"}
    assert await client.find(model="none") == []


async def test_the_same_spec_twice_is_one_deployment_even_after_it_was_scaled(
    client: Client, make_spec: MakeSpec
) -> None:
    made = await client.create(make_spec())
    await client.scale(made.id, Autoscaling(min_replicas=2))
    assert (await client.create(make_spec())).id == made.id
    assert len(await client.history(made.id)) == 2
    with pytest.raises(Conflict, match="'fraud' is taken"):
        await client.create(make_spec(source="registry.example/other:1"))


async def test_predicting(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    assert (await client.predict(made.id, {"x": [1, 2.5]}))["sum"] == 3.5
    assert (await client.predict(made.id, [4], path="v1/predict"))["sum"] == 4
    await client.stop(made.id)
    with pytest.raises(ProviderError, match="no replica is ready"):
        await client.predict(made.id, [1])


async def test_updating_changes_only_what_is_named(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec(autoscaling=Autoscaling(min_replicas=2)))
    before = (await client.history(made.id))[0].data
    updated = await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:2", version="2"))
    after = (await client.history(made.id))[0].data
    assert before is not None
    assert after is not None
    assert updated.version == "2"
    assert {k for k in before if before[k] != after[k]} == {"image", "env"}
    assert {"name": "LEVEL", "value": "info"} in after["env"]


async def test_updating_the_environment_variables_keeps_ours(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    updated = await client.update(made.id, DeploymentUpdate(env={"MODE": "b"}))
    assert (updated.model_id, updated.version, updated.environment) == ("fraud", "1", "production")
    data = (await client.history(made.id))[0].data
    assert data is not None
    assert {v["name"] for v in data["env"] if not v["name"].startswith("MODELDEPLOY")} == {"MODE"}


async def test_a_change_that_changes_nothing_is_not_sent(
    sandbox: RunningSandbox, client: Client, make_spec: MakeSpec
) -> None:
    made = await client.create(make_spec())
    await client.scale(made.id, Autoscaling(min_replicas=1))
    await client.start(made.id)
    await client.start(made.id)
    assert len(await client.history(made.id)) == 2  # one for `enabled: true`, which was absent


async def test_scaling_up_to_and_down_from_autoscaling(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    grown = await client.scale(made.id, Autoscaling(min_replicas=2, max_replicas=5))
    assert grown.autoscaling == Autoscaling(min_replicas=2, max_replicas=5)
    fixed = await client.scale(made.id, Autoscaling(min_replicas=3, max_replicas=3))
    assert fixed.autoscaling == Autoscaling(min_replicas=3, max_replicas=3)
    assert fixed.replicas.ready == 3
    again = await client.scale(made.id, Autoscaling(max_replicas=6))
    assert again.autoscaling == Autoscaling(min_replicas=3, max_replicas=6)


@pytest.mark.parametrize(
    ("autoscaling", "field"),
    [
        (Autoscaling(min_replicas=0), "autoscaling.min_replicas"),
        (Autoscaling(target_concurrency=3), "autoscaling.target_concurrency"),
        (Autoscaling(window_seconds=3), "autoscaling.window_seconds"),
        (Autoscaling(scale_down_delay_seconds=3), "autoscaling.scale_down_delay_seconds"),
        (Autoscaling(max_replicas=1), "autoscaling.max_replicas"),
        (Autoscaling(max_replicas=26), "resources.autoscaling.maxReplicas"),
        (Autoscaling(min_replicas=9), "autoscaling.min_replicas"),
    ],
)
async def test_a_scale_that_cannot_work_names_the_field(
    client: Client, make_spec: MakeSpec, autoscaling: Autoscaling, field: str
) -> None:
    made = await client.create(make_spec(autoscaling=Autoscaling(min_replicas=2, max_replicas=5)))
    with pytest.raises(InvalidInput) as caught:
        await client.scale(made.id, autoscaling)
    assert field in caught.value.field
    assert len(await client.history(made.id)) == 1


async def test_stopped_is_stopped_and_not_scaled_to_zero(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec(autoscaling=Autoscaling(min_replicas=2)))
    stopped = await client.stop(made.id)
    assert (stopped.status, stopped.ready, stopped.provider_status) == (DeploymentStatus.STOPPED, False, "disabled")
    assert (stopped.replicas.ready, stopped.replicas.desired) == (0, 0)
    assert [d.status for d in await client.find()] == [DeploymentStatus.STOPPED]
    started = await client.start(made.id)
    assert (started.status, started.replicas.ready) == (DeploymentStatus.READY, 2)


async def test_deleting_twice_is_no_error(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    await client.delete(made.id)
    await client.delete(made.id)
    with pytest.raises(NotFound):
        await client.get(made.id)
    assert await client.find() == []


async def test_logs_are_the_last_lines_the_oldest_first(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    for number in range(5):
        await client.predict(made.id, number, path=f"call-{number}")
    assert await client.logs(made.id, tail=2) == ["POST /call-3 200", "POST /call-4 200"]
    rows = await client.log_rows(made.id, tail=3)
    assert [row.message for row in rows] == [f"POST /call-{n} 200" for n in (2, 3, 4)]
    assert all(row.dt_created for row in rows)


async def test_more_logs_than_a_page_holds(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    for number in range(130):
        await client.predict(made.id, number, path=str(number))
    lines = await client.logs(made.id, tail=125)
    assert lines == [f"POST /{number} 200" for number in range(5, 130)]


# --- promoting and rolling back ---------------------------------------------------------------------------------------


async def two(client: Client, make_spec: MakeSpec) -> tuple[Deployment, Deployment]:
    stable = await client.create(make_spec("fraud-prod", autoscaling=Autoscaling(min_replicas=2)))
    canary = await client.create(
        make_spec(
            "fraud-canary", source="registry.example/fraud:2", version="2", environment="canary",
            env={"LEVEL": "debug"}, resources=Resources(instance_type="C5"),
        )
    )  # fmt: skip
    return stable, canary


async def test_promoting_puts_what_is_served_into_the_stable_deployment(client: Client, make_spec: MakeSpec) -> None:
    stable, canary = await two(client, make_spec)
    promoted = await client.promote(canary.id, environment="production")
    assert (promoted.id, promoted.name, promoted.version) == (stable.id, "fraud-prod", "2")
    assert (promoted.environment, promoted.status) == ("production", DeploymentStatus.READY)
    assert promoted.resources == Resources(instance_type="C4"), "how it runs stays"
    assert promoted.replicas.ready == 2
    data = (await client.history(stable.id))[0].data
    assert data is not None
    assert data["image"] == "registry.example/fraud:2"
    assert {"name": "LEVEL", "value": "debug"} in data["env"]
    assert (await client.get(canary.id)).environment == "canary", "the canary is left as it was"


async def test_promoting_twice_changes_nothing_more(client: Client, make_spec: MakeSpec) -> None:
    stable, canary = await two(client, make_spec)
    await client.promote(canary.id, environment="production")
    versions = len(await client.history(stable.id))
    await client.promote(canary.id, environment="production")
    assert len(await client.history(stable.id)) == versions


async def test_the_first_of_its_model_becomes_the_stable_one(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec(environment="canary"))
    promoted = await client.promote(made.id, environment="production")
    assert (promoted.id, promoted.environment) == (made.id, "production")


async def test_two_stable_deployments_are_a_conflict_and_can_be_told_apart(client: Client, make_spec: MakeSpec) -> None:
    stable, canary = await two(client, make_spec)
    await client.create(make_spec("fraud-other"))
    with pytest.raises(Conflict, match=r"several deployments in production: .*fraud-prod.*promote_into"):
        await client.promote(canary.id, environment="production")
    assert (await client.promote_into(canary.id, stable.id)).version == "2"


async def test_rolling_back_serves_the_former_version_and_keeps_the_scale(client: Client, make_spec: MakeSpec) -> None:
    stable, canary = await two(client, make_spec)
    await client.promote(canary.id, environment="production")
    await client.scale(stable.id, Autoscaling(min_replicas=4))
    back = await client.roll_back(canary.id, environment="production")
    assert (back.id, back.version, back.replicas.ready) == (stable.id, "1", 4)
    assert (await client.predict(stable.id, [1]))["sum"] == 1


async def test_rolling_back_twice_does_not_bring_the_bad_version_back(client: Client, make_spec: MakeSpec) -> None:
    stable, canary = await two(client, make_spec)
    await client.promote(canary.id, environment="production")
    for _ in range(2):
        assert (await client.roll_back(stable.id, environment="production")).version == "1"
    await client.promote(canary.id, environment="production")
    assert (await client.roll_back(stable.id, environment="production")).version == "1"


async def test_nothing_to_roll_back_to_is_said(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    with pytest.raises(Conflict, match="no other version"):
        await client.roll_back(made.id, environment="production")


async def test_a_spec_version_can_be_restored_whole(client: Client, make_spec: MakeSpec) -> None:
    made = await client.create(make_spec())
    first = (await client.history(made.id))[0].id
    await client.scale(made.id, Autoscaling(min_replicas=3))
    await client.update(made.id, DeploymentUpdate(source="registry.example/fraud:9", version="9"))
    restored = await client.restore(made.id, first)
    assert (restored.version, restored.replicas.ready) == ("1", 1)
    with pytest.raises(InvalidInput, match="spec_id"):
        await client.restore(made.id, GONE)


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_waiting_polls_one_list_and_ends_when_the_spec_is_healthy() -> None:
    async with running_sandbox("gradient", speed=200) as sandbox, block(sandbox).get_client(policy=QUICK) as client:
        made = [await client.create(a_spec(name)) for name in ("a", "b", "c")]
        await sandbox.control.forget_requests()
        seen = [[d.status for d in some] async for some in client.wait([d.id for d in made], lambda d: d.ready)]
        assert seen[-1] == [DeploymentStatus.READY] * 3
        paths = {request.path for request in await sandbox.control.requests()}
        assert paths == {f"/v1/projects/{sandbox['gradient']['seed']['project_id']}/deployments"}


async def test_waiting_has_a_deadline() -> None:
    async with running_sandbox("gradient", speed=0.01) as sandbox, block(sandbox).get_client(policy=QUICK) as client:
        made = await client.create(a_spec())
        assert made.status is DeploymentStatus.PENDING
        with pytest.raises(WaitTimeout):
            async for _ in client.wait([made.id], lambda d: d.ready, timeout_seconds=0.3):
                pass


# --- only REST --------------------------------------------------------------------------------------------------------


async def test_metrics_come_in_three_shapes_and_are_read_as_one(rest: GradientClient) -> None:
    made = await rest.create(a_spec(autoscaling=Autoscaling(min_replicas=2)))
    for _ in range(3):
        await rest.predict(made.id, [1])
    [total] = await rest.metrics(made.id, "requests_total")
    assert (total.value, total.instance_id) == (3.0, None)
    assert sum(s.value for s in await rest.metrics(made.id, "requests_per_second", "hour")) > 0
    assert {s.instance_id for s in await rest.metrics(made.id, "cpu")} == {"fraud-0", "fraud-1"}
    with pytest.raises(InvalidInput, match=r"metric='tpu'.*requests_total"):
        await rest.metrics(made.id, "tpu")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="timeframe='year'"):
        await rest.metrics(made.id, "cpu", "year")  # type: ignore[arg-type]


async def test_idleness_is_told_by_the_last_request() -> None:
    async with gradient(own=True) as (sandbox, rest):
        made = await rest.create(a_spec())
        await rest.predict(made.id, [1])
        assert await rest.idle_seconds(made.id) == 0
        await sandbox.control.advance(600)
        assert await rest.idle_seconds(made.id) == pytest.approx(600, abs=60)
        await sandbox.control.advance(5 * 3600)
        assert await rest.idle_seconds(made.id) == pytest.approx(5 * 3600 + 600, abs=900)


async def test_activity_tells_who_did_what(rest: GradientClient) -> None:
    made, other = await rest.create(a_spec()), await rest.create(a_spec("other"))
    await rest.scale(made.id, Autoscaling(min_replicas=2))
    await rest.stop(made.id)
    items = await rest.activity(deployment_id=made.id)
    assert [item.action for item in items] == ["deployment.disabled", "deployment.scaled", "deployment.created"]
    assert items[1].data == {"from": 1, "to": 2}
    assert len(await rest.activity()) == 4
    assert len(await rest.activity(first=1)) == 1
    assert other.id != made.id


async def test_the_session_checks_the_key(sandbox: RunningSandbox, rest: GradientClient) -> None:
    assert (await rest.session()).team is not None
    async with block(sandbox, api_key="wrong").get_client(policy=QUICK) as stranger:
        assert isinstance(stranger, GradientClient)
        with pytest.raises(AuthenticationFailed) as caught:
            await stranger.session()
    assert caught.value.problem.code == "UNAUTHORIZED"


async def test_a_protected_endpoint_asks_for_its_own_password(sandbox: RunningSandbox) -> None:
    options = {"resources": {"ports": [8000]}, "basicAuthKey": "the-endpoint-password"}
    async with block(sandbox, endpoint_key="the-endpoint-password").get_client(policy=QUICK) as client:
        made = await client.create(a_spec(options=options))
        assert (await client.predict(made.id, [2]))["sum"] == 2
        assert "the-endpoint-password" not in made.model_dump_json()
        assert "the-endpoint-password" not in repr(await client.history(made.id))
    async with block(sandbox).get_client(policy=QUICK) as stranger:
        with pytest.raises(AuthenticationFailed):
            await stranger.predict(made.id, [2])
    await_key = [r for r in await sandbox.control.requests(path="/endpoints/*") if "authorization" in r.headers]
    assert len(await_key) == 1, "the API key is never sent to an endpoint"


async def test_a_project_is_needed_to_create(sandbox: RunningSandbox) -> None:
    async with block(sandbox, project_id=None).get_client(policy=QUICK) as client:
        assert await client.find() == []
        with pytest.raises(InvalidInput, match="project_id"):
            await client.create(a_spec())


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_secret_is_in_any_log_error_or_repr(sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture) -> None:
    key = sandbox["gradient"]["api_key"]
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for api in ("rest", "graphql"):
            credentials = block(sandbox, api, endpoint_key="planted-password")  # type: ignore[arg-type]
            said += [repr(credentials), str(credentials)]
            async with credentials.get_client(policy=QUICK, settle_seconds=0.1) as client:
                said.append(repr(client))
                await sandbox.control.fault(kind="status", status=400, body={"code": "X", "message": f"bad {key}"})
                await sandbox.control.fault(kind="status", status=503, body=f"<p>{key}</p>", times=1)
                await sandbox.control.fault(kind="reset", times=2)
                for _ in range(3):
                    try:
                        await client.find()
                    except ProviderError as error:
                        said += [str(error), repr(error), repr(error.problem), repr(error.__cause__)]
    told = "\n".join([*said, caplog.text])
    assert "bad **********" in told
    assert key not in told
    assert "planted-password" not in told
