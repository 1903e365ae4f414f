"""Baseten's own clients believe the emulator, and see what ours sees: the `baseten` SDK, and `truss push --wait`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from prefect_modeldeploy.providers.baseten import BasetenClient
from tests.contract.venvs import VendorClient
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox

pytestmark = [pytest.mark.contract, pytest.mark.timeout(900)]

SDK = VendorClient(("baseten==0.13.1",))
TRUSS = VendorClient(("truss==0.18.35",))
Here = tuple[RunningSandbox, BasetenClient]

PRELUDE = """
import httpx
from baseten.client import InferenceClient, ManagementClient
from baseten.client.managementapi import _models as m
from baseten.client.inferenceapi import _models as i
client = ManagementClient(api_key=given["api_key"], base_url_override=given["base_url"])
api, called = client.api, set()
inner = InferenceClient(
    api_key=given["api_key"],
    http_client_override=httpx.Client(
        base_url=f"{given['inference_url']}/model-{given['model']}", timeout=60,
        headers={"Authorization": f"Bearer {given['api_key']}"},
    ),
).api
model, dep = given["model"], given["deployment"]
def call(name, /, **arguments):
    called.add(name)
    return getattr(api, name)(**arguments)
def plain(value):
    return value.model_dump(mode="json")
"""

EVERYTHING = """
import time, urllib.request
ids = dict(model_id=model, deployment_id=dep)
env = dict(model_id=model, env_name="production")
seen = {}
seen["models"] = plain(call("get_models"))
call("get_models", params=m.GetModelsParams(name="sandbox-model"))
call("get_teams_models", team_id=given["team"])
seen["model"] = plain(call("get_models_model_id", model_id=model))
seen["deployments"] = plain(call("get_models_deployments", model_id=model))
seen["deployment"] = plain(call("get_models_deployments_deployment_id", **ids))
assert plain(call("get_models_deployments_production", model_id=model))["id"] == dep
seen["environment"] = plain(call("get_models_environments_env_name", **env))
call("get_models_environments", model_id=model)

# settings
settings = m.UpdateAutoscalingSettings(min_replica=1, max_replica=5)
assert call("patch_models_deployments_autoscaling_settings", **ids, request=settings).status == "ACCEPTED"
assert call("patch_models_deployments_production_autoscaling_settings", model_id=model, request=settings).status == \\
    "UNCHANGED"
nothing = m.UpdateAutoscalingSettings(min_replica=1, autoscaling_window=None)
call("patch_models_deployments_autoscaling_settings", **ids, request=nothing)
assert call("patch_models_deployments_request_backpressure_settings", **ids,
            request=m.UpdateRequestBackpressureSettings(policy="REJECT_ON_FULL")).policy == "REJECT_ON_FULL"
assert call("patch_models_deployments", **ids, request=m.UpdateDeploymentRequest(name="v1")).name == "v1"
call("patch_models", model_id=model, request=m.UpdateModelRequest(name="sandbox-model"))

# a second deployment: prepare, upload, create
payload = m.DeploymentArchivePayload(config={"model_name": "x"}, deployment_name="v2", labels={"git": "abc"},
    autoscaling_settings=m.UpdateAutoscalingSettings(min_replica=1, max_replica=2))
call("post_prepare_model_upload",
     request=m.PrepareModelUploadRequest(deployment=payload, model_id=model, dry_run=True))
ticket = call("post_prepare_model_upload", request=m.PrepareModelUploadRequest(deployment=payload, model_id=model))
assert ticket.s3_key and ticket.s3_bucket and ticket.creds
def create(name, key):
    body = payload.model_copy(update={"deployment_name": name})
    source = m.DeploymentArchiveSource(kind="model_archive", deployment=body, s3_key=key)
    return call("post_models_deployments", model_id=model, request=m.CreateModelDeploymentRequest(source=source))
second = create("v2", given["s3_key"]).deployment
assert second.status in ("BUILDING", "ACTIVE"), second.status
source = m.ModelArchiveSource(kind="model_archive", name="other", deployment=payload, s3_key=given["s3_key"])
other = call("post_models", request=m.CreateModelRequest(source=source)).model
source = source.model_copy(update={"name": "another"})
call("post_teams_models", team_id=given["team"], request=m.CreateModelRequest(source=source))

# on and off
one = dict(model_id=model, deployment_id=second.id)
assert call("post_models_deployments_deactivate", **one).no_op is False
assert call("post_models_deployments_deactivate", **one).no_op is True
assert call("post_models_deployments_activate", **one).no_op is False
assert call("post_models_deployments_production_activate", model_id=model).no_op is True
assert call("post_models_deployments_production_deactivate", model_id=model).no_op is False
assert call("post_models_environments_activate", **env).no_op is False
assert call("post_models_environments_deactivate", **env).no_op is False
call("post_models_deployments_production_activate", model_id=model)
assert call("post_models_deployments_retry", **one).retried is False
assert call("post_models_deployments_production_retry", model_id=model).reason
call("delete_models_deployments_replicas", **one, replica_id=second.id[:5])

# environments and promotions
staging = dict(model_id=model, env_name="staging")
assert call("post_models_environments", model_id=model, request=m.CreateEnvironmentRequest(name="staging",
    promotion_settings=m.UpdateModelPromotionSettings(rolling_deploy=False))).name == "staging"
changed = call("patch_models_environments", **staging, request=m.UpdateEnvironmentRequest(
    autoscaling_settings=m.UpdateAutoscalingSettings(max_replica=3)))
assert changed.environment.autoscaling_settings.max_replica == 3
assert call("post_models_environments_promote", **staging,
            request=m.PromoteToEnvironmentRequest(deployment_id=second.id)).id == second.id
assert call("get_models_environments_env_name", **staging).current_deployment.id == second.id
copied = call("post_models_deployments_promote", **one, request=m.PromoteRequest())
assert copied.id != second.id
assert call("get_models_environments_env_name", **env).current_deployment.id == copied.id
call("delete_models_environments", **staging)

# reading
logs = call("get_models_deployments_logs", **one).logs
assert logs and call("post_models_deployments_logs", **one, request=m.GetDeploymentLogsRequest(limit=5)).logs
call("get_models_environments_logs", **env)
window = dict(start_epoch_millis=int(time.time() * 1000) - 3600_000, end_epoch_millis=int(time.time() * 1000) + 1000)
for mode in ("CURRENT", "SUMMARY", "SERIES"):
    given_window = {} if mode == "CURRENT" else window
    call("get_models_deployments_metrics", **one, params=m.GetModelsDeploymentsMetricsParams(mode=mode, **given_window))
call("get_models_environments_metrics", **env)
call("get_models_deployments_startups", **one, params=m.GetModelsDeploymentsStartupsParams(**window))
call("get_models_deployments_startups_summary", **one, params=m.GetModelsDeploymentsStartupsSummaryParams(**window))
call("get_models_environments_startups", **env, params=m.GetModelsEnvironmentsStartupsParams(**window))
call("get_models_environments_startups_summary", **env,
     params=m.GetModelsEnvironmentsStartupsSummaryParams(**window))
assert call("get_models_deployments_config", **one).config == {"model_name": "x"}
assert urllib.request.urlopen(call("get_models_deployments_download", **one).download_url).status == 200
call("get_models_audit_logs", model_id=model)
call("get_audit_logs")

# the organization
call("post_secrets", request=m.UpsertSecretRequest(name="hf_token", value="planted-secret"))
call("post_teams_secrets", team_id=given["team"], request=m.UpsertSecretRequest(name="other", value="planted-secret"))
assert {one.name for one in call("get_secrets").secrets} == {"hf-token", "other"}
call("get_teams_secrets", team_id=given["team"])
assert call("delete_secrets", secret_name="hf_token").name == "hf-token"
for name in ("get_instance_types", "get_instance_type_prices", "get_teams", "get_environment_groups"):
    call(name)
call("get_teams_team_id", team_id=given["team"])
call("get_teams_regions", team_id=given["team"])
call("get_teams_environment_groups", team_id=given["team"])
call("get_environment_groups_env_name", env_name="production")
call("patch_environment_groups", env_name="production", request=m.UpdateEnvironmentGroupRequest(
    manage_access=m.UpdateEnvironmentGroupManageAccess(is_restricted=False)))

# the development deployment
draft = m.DeploymentArchivePayload(config={"model_name": "x"}, is_development=True)
source = m.DeploymentArchiveSource(kind="model_archive", deployment=draft, s3_key=given["s3_key"])
made = call("post_models_deployments", model_id=model, request=m.CreateModelDeploymentRequest(source=source)).deployment
assert made.is_development
assert call("get_models_deployments_development", model_id=model).id == made.id
call("patch_models_deployments_development_autoscaling_settings", model_id=model,
     request=m.UpdateAutoscalingSettings(scale_down_delay=60))
assert call("post_models_deployments_development_deactivate", model_id=model).no_op is False
assert call("post_models_deployments_development_activate", model_id=model).no_op is False
assert call("post_models_deployments_development_retry", model_id=model).retried is False
promoted = call("post_models_deployments_development_promote", model_id=model, request=m.PromoteRequest())
assert promoted.id != made.id and not promoted.is_development

seen["surface"] = sorted(n for n in dir(api) if not n.startswith("_"))

# the end
call("delete_models_deployments", **one)
call("delete_models", model_id=other.id)
answer({"called": sorted(called), **seen})
"""

LEFT_OUT = {
    "patches": "live patching of development deployments is out of scope",
    "ssh_sign": "shells into replicas are out of scope",
    "_promotion": "the controls of a rolling promotion have a test of their own",
}


@pytest_asyncio.fixture
async def here() -> AsyncIterator[Here]:
    async with baseten() as both:
        yield both


async def given_of(here: Here, tmp_path: Path) -> dict[str, Any]:
    """What the scripts need, an uploaded archive included."""
    sandbox, client = here
    await client.create(spec_of(make_truss(tmp_path), "uploaded", "for-the-upload"))
    [upload] = [one for one in (await sandbox.control.table("baseten", "uploads")).values() if one["bytes"]]
    [team] = await client.management.teams()
    ready = sandbox["baseten"]
    seed = {"model": ready["seed"]["model_id"], "deployment": ready["seed"]["deployment_id"]}
    return {**ready, **seed, "s3_key": upload["key"], "team": team["id"]}


async def test_the_sdk_drives_everything_and_sees_what_we_see(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    given = await given_of(here, tmp_path)
    before = (await client.get(seeded(sandbox))).raw
    said = await SDK.run(PRELUDE + EVERYTHING, given)
    theirs = said["deployment"]
    ours = {name: before.get(name) for name in theirs}
    assert {k: v for k, v in theirs.items() if k not in ("created_at", "region")} == {
        k: v for k, v in ours.items() if k not in ("created_at", "region")
    }
    assert [one["id"] for one in said["deployments"]["deployments"]] == [before["id"]]
    assert said["environment"]["current_deployment"]["id"] == before["id"]
    assert said["model"]["production_deployment_id"] == before["id"]
    prefixes = ("get_models", "post_models", "patch_models", "delete_models")
    surface = {name for name in said["surface"] if name.startswith(prefixes) and not name.startswith("get_model_apis")}
    missing = {name for name in surface - set(said["called"]) if not any(part in name for part in LEFT_OUT)}
    assert missing == set()


CONTROLS = """
import time
env = dict(model_id=model, env_name="production")
def status():
    progress = api.get_models_environments_env_name(**env).in_progress_promotion
    return progress.status if progress else None
def until(*wanted):
    for _ in range(200):
        if status() in wanted:
            return status()
        time.sleep(0.02)
    raise AssertionError(status())
def refused(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
def promote():
    return api.post_models_environments_promote(**env, request=m.PromoteToEnvironmentRequest(
        deployment_id=given["candidate"])).id
steps = [refused(lambda: api.post_models_environments_cancel_promotion(**env))]
promote()
steps.append(until("RAMPING_UP"))
steps.append(api.post_models_environments_pause_promotion(**env).success)
steps.append(status())
steps.append(api.post_models_environments_resume_promotion(**env).success)
steps.append(api.post_models_environments_cancel_promotion(**env).status)
steps.append(api.post_models_environments_force_cancel_promotion(**env).success)
steps.append(status())
promote()
until("RAMPING_UP")
steps.append(api.post_models_environments_force_roll_forward_promotion(**env).success)
steps.append(api.get_models_environments_env_name(**env).current_deployment.id)
answer(steps)
"""


async def test_the_sdk_controls_a_rolling_promotion(tmp_path: Path) -> None:
    async with baseten(speed=30) as here:
        _, client = here
        given = await given_of(here, tmp_path)
        created = await client.create(spec_of(make_truss(tmp_path), "candidate"))
        async for _ in client.wait([created.id], lambda one: one.ready, timeout_seconds=30):
            pass
        candidate = created.id.split("/")[1]
        said = await SDK.run(PRELUDE + CONTROLS, {**given, "candidate": candidate})
        text = 'baseten API error (HTTP 400): {"code":"VALIDATION_ERROR","message":'
        text += '"Environment production has no in progress promotion."}'
        assert said == [
            ["ResponseError", text], "RAMPING_UP", True, "PAUSED", True, "RAMPING_DOWN", True, None, True, candidate,
        ]  # fmt: skip
        assert (await client.get(created.id)).environment == "production"


INFERENCE = """
import asyncio
body = i.PredictInput({"x": 2}) if hasattr(i, "PredictInput") else {"x": 2}
sums = []
sums.append(inner.predict(env_name="production", request=body).root["sum"])
sums.append(inner.predict_production(request=body).root["sum"])
sums.append(inner.predict_deployment(deployment_id=dep, request=body).root["sum"])
import json
raw = inner.predict_deployment_raw(deployment_id=dep, request=body, accept="application/json")
sums.append(json.loads(raw.read())["sum"])
inner.wake(env_name="production"), inner.wake_production(), inner.wake_deployment(deployment_id=dep)
request = i.AsyncPredictRequest(model_input={"x": 1})
queued = inner.async_predict(env_name="production", request=request).request_id
status = inner.get_async_request_status(request_id=queued).status
cancelled = inner.cancel_async_request(request_id=queued).canceled
waiting = inner.get_async_queue_status(env_name="production").num_queued_requests
answer([sums, status, cancelled, waiting])
"""


async def test_the_sdk_calls_what_is_deployed(here: Here, tmp_path: Path) -> None:
    said = await SDK.run(PRELUDE + INFERENCE, await given_of(here, tmp_path))
    assert said == [[2, 2, 2, 2], "SUCCEEDED", False, 0]


ERRORS = """
def refused(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, error.status_code, error.body if isinstance(error.body, str) else str(error.body)]
stranger = ManagementClient(api_key="wrong", base_url_override=given["base_url"]).api
answer([
    refused(stranger.get_models),
    refused(lambda: api.get_models_model_id(model_id="missing")),
    refused(lambda: api.get_models_deployments_deployment_id(model_id=model, deployment_id="missing")),
    refused(lambda: api.patch_models_deployments_autoscaling_settings(
        model_id=model, deployment_id=dep, request=m.UpdateAutoscalingSettings(min_replica=-1))),
    refused(lambda: api.delete_models_deployments(model_id=model, deployment_id=dep)),
])
"""


async def test_the_sdk_understands_every_refusal(here: Here, tmp_path: Path) -> None:
    said = await SDK.run(PRELUDE + ERRORS, await given_of(here, tmp_path))
    assert [(one[0], one[1]) for one in said] == [
        ("ResponseError", 403), ("ResponseError", 404), ("ResponseError", 404), ("ResponseError", 400),
        ("ResponseError", 400),
    ]  # fmt: skip
    assert "PERMISSION_DENIED" in said[0][2]
    assert "No Oracle matches the given query." in said[1][2]


PUSH = """
import json, os, subprocess, sys
done = []
for extra in given["pushes"]:
    command = [os.path.join(os.path.dirname(sys.executable), "truss"), "push", given["truss"], *extra]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    done.append([run.returncode, run.stdout[-1500:], run.stderr[-1500:]])
answer(done)
"""


async def test_truss_pushes_and_waits(tmp_path: Path) -> None:
    async with baseten(speed=60) as (sandbox, client):
        truss = make_truss(tmp_path / "truss", "pushed")
        url = sandbox["baseten"]["base_url"]
        environment = {
            "BASETEN_TRUSS_AUTH_REMOTE_URL": "http://localhost:8000",
            "BASETEN_TRUSS_AUTH_API_KEY": sandbox["baseten"]["api_key"],
            "HTTP_PROXY": url,
            "http_proxy": url,
            "NO_PROXY": urlsplit(url).netloc,
            "no_proxy": urlsplit(url).netloc,
            "HOME": str(tmp_path),
            "USER_TRUSSRC_PATH": str(tmp_path / ".trussrc"),
        }
        pushes = [["--wait"], ["--wait", "--environment", "staging"], ["--promote", "--no-wait"]]
        said = await TRUSS.run(PUSH, {"truss": str(truss), "pushes": pushes}, env=environment)
        assert [one[0] for one in said] == [0, 0, 0], said
        ours = await client.find(model="pushed")
        assert [one.environment for one in ours][:1] == ["production"]
        uploads = (await sandbox.control.table("baseten", "uploads")).values()
        assert all(one["bytes"] > 100 for one in uploads)
        assert len(ours) == 3
