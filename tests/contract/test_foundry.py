"""The vendor's own client, foundry-platform-sdk, drives the sandbox: it believes it, and sees what we see."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus
from tests.contract.venvs import VendorClient
from tests.providers.foundry_kit import Foundry, foundry

pytestmark = [pytest.mark.contract, pytest.mark.timeout(600)]

SDK = VendorClient(("foundry-platform-sdk==1.111.0",))

CLIENT = """
from foundry_sdk import Config, ConfidentialClientAuth, FoundryClient, UserTokenAuth
import foundry_sdk
from foundry_sdk.v2.models import errors
host = given["base_url"].removeprefix("http://")
config = Config(scheme="http", timeout=20, **given.get("config", {}))
def user(token=given["token"], config=config):
    return FoundryClient(auth=UserTokenAuth(token), hostname=host, config=config)
client = user()
models = client.models
live, version = models.LiveDeployment, models.Model.Version
def plain(answer):
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True) if answer is not None else None
def refusal(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, getattr(error, "name", None), getattr(error, "parameters", None)]
model, first, rid = given["seed"]["model_rid"], given["seed"]["model_version_rid"], given["live"]
runtime = dict(min_replicas=1, max_replicas=3, cpu=1.0, memory="256MiB", thread_count=32, sources=[],
               environment_variables={"LOG_LEVEL": "INFO"})
"""


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Foundry]:
    async with foundry() as running:
        yield running


async def theirs(stack: Foundry, script: str, **given: Any) -> Any:
    live = (await stack.production()).id
    return await SDK.run(CLIENT + script, {**stack.sandbox["foundry"], "live": live, **given})


async def test_every_call_on_live_deployments_succeeds_and_both_see_the_same(stack: Foundry) -> None:
    answers = await theirs(
        stack,
        """
copy = models.Model.promote_version(model, source_model_version_rid=first, branch="staging", preview=True)
full = dict(runtime, min_replicas=0, gpu={"count": 1, "type": "T4"}, scaling_configuration={
    "scaleUpLoadThreshold": 0.75, "scaleUpDelay": {"value": 30, "unit": "SECONDS"},
    "scaleDownDelay": {"value": 30, "unit": "MINUTES"}})
made = live.create(deployment_type={"type": "direct", "modelRid": model, "branch": "staging"},
                   runtime_configuration=full, preview=True)
got = live.get(made.rid, preview=True)
listed = live.list(model_rid=model, preview=True)
by_branch = live.list(model_rid=model, branch="staging", preview=True)
replaced = live.replace(made.rid, runtime_configuration=runtime, preview=True)
live.disable(made.rid, preview=True)
off = live.get(made.rid, preview=True)
live.start(made.rid, preview=True)
on = live.get(made.rid, preview=True)
output = live.transform_json(made.rid, input={"input_df": [{"feature_1": 1.5}]}, preview=True)
answer({"copy": plain(copy), "made": plain(made), "got": plain(got), "listed": plain(listed),
        "by_branch": plain(by_branch), "replaced": plain(replaced), "off": plain(off), "on": plain(on),
        "output": plain(output)})
""",
    )
    rid = answers["made"]["rid"]
    assert answers["got"] == answers["made"]
    assert [one["rid"] for one in answers["by_branch"]["data"]] == [rid]
    assert (answers["off"]["status"]["state"], answers["on"]["status"]["state"]) == ("DISABLED", "ACTIVE")
    assert answers["output"]["output"]["sum"] == 1.5

    ours = await stack.client.get(rid)
    assert ours.raw == answers["on"]
    assert (ours.status, ours.version) == (DeploymentStatus.READY, answers["copy"]["rid"])
    assert ours.autoscaling == Autoscaling(min_replicas=1, max_replicas=3)
    assert {d.id for d in await stack.client.find(model=stack.model)} == {
        one["rid"] for one in answers["listed"]["data"]
    }


async def test_what_we_create_and_promote_they_see(stack: Foundry) -> None:
    candidate = await stack.client.create(stack.spec("staging", version=await stack.new_version(), env={"A": "1"}))
    await stack.client.promote(candidate.id, environment="production")
    ours = await stack.production()
    answers = await theirs(
        stack,
        """
production = live.get(rid, preview=True)
newest = version.get(model, production.model_version.model_version_rid, preview=True)
on_master = list(version.list(model, branch="master", page_size=1, preview=True))
answer({"production": plain(production), "newest": plain(newest), "on_master": [v.rid for v in on_master],
        "candidate": plain(live.get(given["candidate"], preview=True))})
""",
        candidate=candidate.id,
    )
    assert answers["production"] == ours.raw
    assert answers["newest"]["source"]["previousModelVersionRid"] == candidate.version
    assert answers["on_master"] == [ours.version, stack.version]
    assert answers["candidate"]["runtimeConfiguration"]["environmentVariables"]["A"] == "1"


async def test_every_call_on_models_versions_and_functions_succeeds(stack: Foundry) -> None:
    answers = await theirs(
        stack,
        """
made = models.Model.create(name="m", parent_folder_rid="ri.compass.main.folder.1", preview=True)
got = models.Model.get(made.rid, preview=True)
published = version.create(made.rid, model_files={"type": "dill", "serializedModelFunction": b"QUJD"},
    backing_repositories=[], conda_requirements=["numpy==1.26"], preview=True, model_api={"outputs": [], "inputs": [
        {"type": "tabular", "name": "df", "columns": [{"name": "a", "dataType": {"type": "double"}}]}]})
listed = list(version.list(made.rid, preview=True))
function = models.Model.Function.create(made.rid, api_name="com.x.f", is_row_wise=False, display_name="f",
                                        preview=True)
replaced = models.Model.Function.replace(made.rid, api_name="com.x.g", is_row_wise=True, preview=True)
answer({"made": made.rid, "got": got.rid, "published": plain(published), "listed": [v.rid for v in listed],
        "function": plain(function), "replaced": plain(replaced),
        "read": plain(models.Model.Function.get(made.rid, preview=True))})
""",
    )
    assert answers["got"] == answers["made"]
    assert answers["listed"] == [answers["published"]["rid"]]
    assert answers["read"] == answers["replaced"] != answers["function"]
    api = stack.client.api
    assert await api.model(answers["made"]) == answers["made"]
    ours = await api.version(answers["made"], answers["published"]["rid"])
    assert ours.model_api == answers["published"]["modelApi"]
    assert (await api.function(answers["made"])).api_name == "com.x.g"


async def test_its_own_application_gets_in_and_out(stack: Foundry) -> None:
    answers = await theirs(
        stack,
        """
auth = ConfidentialClientAuth(client_id=given["client_id"], client_secret=given["client_secret"],
                              scopes=["api:models-read"])
app = FoundryClient(auth=auth, hostname=host, config=config)
seen = [app.models.LiveDeployment.get(rid, preview=True).rid for _ in range(3)]
denied = refusal(lambda: app.models.LiveDeployment.disable(rid, preview=True))
auth.sign_out()
answer({"seen": seen, "denied": denied})
""",
    )
    assert len(set(answers["seen"])) == 1
    assert answers["denied"][0] == "PermissionDeniedError"
    assert answers["denied"][2] == {"missingScope": "api:models-write"}
    assert [r.path.rpartition("/")[2] for r in await stack.sent("POST", "/multipass/*")] == ["token", "revoke_token"]


async def test_refusals_become_its_typed_errors(stack: Foundry) -> None:
    answers = await theirs(
        stack,
        """
target = {"type": "direct", "modelRid": model, "branch": "master"}
none = "ri.foundry-ml-live.main.live-deployment.none"
def create(**changes):
    return lambda: live.create(deployment_type=target, runtime_configuration=dict(runtime, **changes), preview=True)
answer({
    "threads": refusal(create(thread_count=100000)),
    "gpus": refusal(create(gpu={"count": 9, "type": "T4"})),
    "gpu": refusal(create(gpu={"count": 1, "type": "B300"})),
    "reserved": refusal(create(environment_variables={"PORT": "1"})),
    "model": refusal(lambda: live.list(model_rid="ri.models.main.model.none", preview=True)),
    "live": refusal(lambda: live.get(none, preview=True)),
    "start": refusal(lambda: live.start(none, preview=True)),
    "sources": refusal(lambda: live.replace(rid, preview=True,
        runtime_configuration=dict(runtime, sources=["ri.magritte..source.one"]))),
    "input": refusal(lambda: live.transform_json(rid, input={"nope": 1}, preview=True)),
    "version": refusal(lambda: version.get(model, "ri.models.main.model-version.none", preview=True)),
    "name": refusal(lambda: [models.Model.create(name="n", parent_folder_rid="ri.a..b.c", preview=True)
                             for _ in range(2)]),
    "display": refusal(lambda: models.Model.create(name="a/b", parent_folder_rid="ri.a..b.c", preview=True)),
    "api": refusal(lambda: models.Model.Function.create(model, api_name=" ", is_row_wise=False, display_name="f",
                                                        preview=True)),
    "function": refusal(lambda: models.Model.Function.get(model, preview=True)),
    "preview": refusal(lambda: live.get(rid)),
    "token": refusal(lambda: user("wrong").models.LiveDeployment.get(rid, preview=True)),
})
""",
    )
    names = {key: found[0] for key, found in answers.items()}
    assert names == {
        "threads": "ThreadCountTooHigh",
        "gpus": "InvalidGpuCount",
        "gpu": "GpuTypeNotAvailable",
        "reserved": "ReservedEnvironmentVariable",
        "model": "ModelNotFound",
        "live": "LiveDeploymentNotFound",
        "start": "LiveDeploymentNotFound",
        "sources": "LiveDeploymentSourcesCannotBeUpdatedWhileRunning",
        "input": "InferenceInvalidInput",
        "version": "ModelVersionNotFound",
        "name": "ResourceNameAlreadyExists",
        "display": "InvalidDisplayName",
        "api": "InvalidFunctionApiName",
        "function": "ModelFunctionNotFound",
        "preview": "BadRequestError",
        "token": "UnauthorizedError",
    }
    assert answers["preview"][1] == "ApiFeaturePreviewUsageOnly"
    assert answers["threads"][2] == {"maxThreadCount": 256, "providedThreadCount": 100000}
    assert answers["input"][2]["errorType"] == "input_name='nope' type='unknownInputName'", "its own type, as text"


async def test_every_state_is_one_that_it_knows(stack: Foundry) -> None:
    ids = []
    for name, fate in {
        "starting": {"outcome": "stuck", "stage": "STARTING"},
        "degraded": {"outcome": "stuck", "stage": "DEGRADED"},
        "failed": {"outcome": "fail"},
    }.items():
        await stack.control.fate(timeline="create", match=name, **fate)
        ids.append((await stack.client.create(stack.spec(name))).id)
    states = await theirs(stack, "answer([live.get(one, preview=True).status.state for one in given['ids']])", ids=ids)
    assert states == ["STARTING", "DEGRADED", "FAILED"]


async def test_max_retries_0_is_four_attempts_even_for_a_create(stack: Foundry) -> None:
    """Its trap: 0 means the default, and a create is retried. Ours means what it says and looks first."""
    create = {"method": "POST", "path": "/api/v2/models/liveDeployments"}
    for retries, attempts in ((0, 4), (1, 1), (2, 2)):
        await stack.control.clear_faults()
        await stack.control.forget_requests()
        await stack.control.fault(**create, kind="status", status=503, times=None)
        refused = await theirs(
            stack,
            """
target = {"type": "direct", "modelRid": model, "branch": "master"}
answer(refusal(lambda: live.create(deployment_type=target, runtime_configuration=runtime, preview=True)))
""",
            config={"max_retries": retries},
        )
        assert refused[0] == "ServiceUnavailable"
        assert len(await stack.sent(**create)) == attempts
