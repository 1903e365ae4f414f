"""The vendor's further operations, typed: each works, and each refusal keeps the vendor's words."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from prefect_modeldeploy.deployments import DeploymentSpec, Resources
from prefect_modeldeploy.errors import InvalidInput, ProviderError, RateLimited
from prefect_modeldeploy.providers.baseten import BasetenClient, EnvironmentChanges, LogQuery, MetricQuery
from prefect_modeldeploy.providers.baseten.inference import PRODUCTION, deployment, environment
from prefect_modeldeploy.providers.baseten.requests import (
    AsyncRequest,
    DeploymentPayload,
    Schedule,
    ScheduleChanges,
    StartupQuery,
    checked,
)
from prefect_modeldeploy.providers.baseten.words import read_error
from prefect_modeldeploy.transport import RetryPolicy
from tests.providers.baseten_kit import baseten, client_of, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox

Here = tuple[RunningSandbox, BasetenClient]


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Here]:
    async with baseten() as both:
        yield both


@pytest_asyncio.fixture
async def here(running: Here) -> Here:
    await running[0].control.reset()
    return running


async def test_models_and_teams(here: Here) -> None:
    sandbox, client = here
    api, model_id = client.management, sandbox["baseten"]["seed"]["model_id"]
    [model] = await api.models()
    assert (model.id, model.name, model.deployments_count) == (model_id, "sandbox-model", 1)
    assert (await api.rename_model(model_id, "renamed")).name == "renamed"
    [team] = await api.teams()
    assert await api.models(team=team["id"]) == await api.models(name="renamed")
    assert [one["slug"] for one in await api.team_regions(team["id"])] == ["us-west"]
    assert (await api.delete_model(model_id))["deleted"] is True
    assert await api.models() == []


async def test_environments_with_their_settings_and_schedules(here: Here) -> None:
    sandbox, client = here
    api, model = client.management, sandbox["baseten"]["seed"]["model_id"]
    made = await api.create_environment(
        model, "staging", checked(EnvironmentChanges, {"promotion_settings": {"rolling_deploy": False}})
    )
    assert made.promotion_settings is not None
    assert (made.name, made.promotion_settings.rolling_deploy, made.current_deployment) == ("staging", False, None)
    night = Schedule.model_validate(
        {
            "name": "night",
            "autoscaling_settings": {"min_replica": 0, "max_replica": 1},
            "cadence": "DAILY",
            "weekdays": ["MONDAY"],
            "start_hour": 22,
            "start_minute": 0,
            "end_hour": 6,
            "end_minute": 0,
        }
    )
    changes = EnvironmentChanges(
        autoscaling_schedule_settings=ScheduleChanges(timezone="Europe/Berlin", schedules=[night])
    )
    changed = await api.update_environment(model, "staging", changes)
    [schedule] = changed["environment"]["autoscaling_schedules"]["schedules"]
    assert (schedule["name"], schedule["enabled"]) == ("night", True)
    gone = ScheduleChanges(delete_schedules=[schedule["id"]])
    changed = await api.update_environment(model, "staging", EnvironmentChanges(autoscaling_schedule_settings=gone))
    assert "autoscaling_schedules" not in changed["environment"]
    assert {one.name for one in await api.environments(model)} == {"production", "staging"}
    assert (await api.deactivate_environment(model, "production"))["no_op"] is False
    assert (await api.activate_environment(model, "production"))["no_op"] is False
    assert (await api.delete_environment(model, "staging"))["deleted"] is True
    with pytest.raises(ProviderError, match="cannot be deleted"):
        await api.delete_environment(model, "production")
    with pytest.raises(ValueError, match="DAILY needs weekdays"):
        Schedule.model_validate({**night.model_dump(), "weekdays": None})


async def test_what_a_deployment_is_made_of_and_how_it_started(here: Here, tmp_path: Path) -> None:
    _, client = here
    made = await client.create(spec_of(make_truss(tmp_path)))
    at, api = made.id.split("/"), client.management
    assert (await api.config(*at, output_format="raw"))["config"] is None
    with pytest.raises(InvalidInput, match="output_format="):
        await api.config(*at, output_format="xml")
    url = await api.download_url(*at)
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).json()["bytes"] > 100
        assert (await http.get(url + "x")).status_code == 403
    now = int(time.time() * 1000)
    query = StartupQuery(start_epoch_millis=now - 3_600_000, end_epoch_millis=now + 60_000, limit=10)
    [start] = (await api.startups(*at, query))["items"]
    assert start["outcome"] == "SUCCESS"
    assert (await api.startup_summary(*at, query))["total_duration_ms"]["sample_count"] == 1
    assert (await api.environment_startups(at[0], "production", query))["items"] == []  # it started a day ago
    await client.terminate_replica(made.id, at[1][:5])
    with pytest.raises(ProviderError, match="No replica"):
        await client.terminate_replica(made.id, "other")
    assert await api.environment_logs(at[0], "production", LogQuery(min_level="ERROR")) == []
    found = await api.environment_metrics(at[0], "production", MetricQuery(mode="SERIES"))
    assert found.step_seconds == 60


async def test_secrets_prices_and_who_may_manage_what(here: Here) -> None:
    _, client = here
    api = client.management
    assert (await api.put_secret("hf_token", SecretStr("planted")))["name"] == "hf-token"
    assert [one["name"] for one in await api.secrets()] == ["hf-token"]
    assert (await api.delete_secret("hf-token"))["name"] == "hf-token"
    assert {one["id"] for one in await api.instance_types()} >= {"1x4", "H100"}
    assert all(one["price"] > 0 for one in await api.instance_type_prices())
    assert [one["name"] for one in await api.environment_groups()] == ["production"]
    restricted = await api.restrict_environment("production", ["user"])
    assert restricted["manage_access"]["is_restricted"] is True


async def test_audit_logs_are_read_page_by_page(here: Here) -> None:
    sandbox, client = here
    model = sandbox["baseten"]["seed"]["model_id"]
    for number in range(60):
        await client.management.rename_model(model, f"name-{number}")
    found = await client.management.audit_logs(model)
    assert len([one for one in found if one["event_type"] == "MODEL_RENAMED"]) == 60
    assert len({one["id"] for one in found}) == len(found)
    assert len(await client.management.audit_logs()) >= len(found)


async def test_requests_that_are_answered_later(here: Here) -> None:
    sandbox, client = here
    model, own = seeded(sandbox).split("/")
    request = await client.inference.async_predict(model, deployment(own), AsyncRequest(model_input={"x": 1}))
    status = await client.inference.async_status(model, request)
    assert (status["status"], status["deployment_id"]) == ("SUCCEEDED", own)
    assert (await client.inference.cancel_async(model, request))["canceled"] is False
    waiting = await client.inference.queue_status(model, environment("production"))
    assert waiting["num_queued_requests"] == 0
    assert (await client.inference.predict(model, PRODUCTION, {"x": 3}, path="sync/v1/any"))["sum"] == 3
    with pytest.raises(ValueError, match="priority"):
        AsyncRequest(model_input={}, priority=3)


# --- what is refused before it is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": None}, "source=None: name a directory"),
        ({"source": "/no/such/truss"}, "source='/no/such/truss': is neither"),
        ({"options": {"typo": 1}}, r"options\.typo=1: Baseten has"),
        ({"options": {"deploy_timeout_minutes": 5}}, r"options\.deploy_timeout_minutes=5"),
        ({"resources": Resources(gpu_count=2)}, r"resources\.gpu_type=None"),
    ],
)
async def test_a_spec_that_cannot_work_is_refused_by_name(
    here: Here, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    sandbox, client = here
    spec = DeploymentSpec(**{"name": "v2", "model": "sandbox-model", "source": str(make_truss(tmp_path)), **fields})
    with pytest.raises(InvalidInput, match=named):
        await client.create(spec)
    assert await sandbox.control.requests(method="POST") == []


@pytest.mark.parametrize(
    ("config", "named"), [(None, "cannot be read"), (":\n  - [", "no YAML"), ("- a", "must hold a mapping")]
)
async def test_a_truss_without_a_configuration_is_refused(
    here: Here, tmp_path: Path, config: str | None, named: str
) -> None:
    truss = make_truss(tmp_path)
    (truss / "config.yaml").unlink()
    if config is not None:
        (truss / "config.yaml").write_text(config)
    with pytest.raises(InvalidInput, match=named):
        await here[1].create(spec_of(truss))


async def test_a_packed_truss_is_taken_as_it_is(here: Here, tmp_path: Path) -> None:
    import tarfile

    _, client = here
    truss, packed = make_truss(tmp_path / "truss"), tmp_path / "model.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(truss, ".")
    created = await client.create(spec_of(packed))
    config = await client.management.config(*created.id.split("/"))
    assert config["config"]["model_name"] == "my-model"
    with pytest.raises(InvalidInput, match="env and resources need a directory"):
        await client.create(spec_of(packed, "other", env={"A": "b"}))
    (tmp_path / "bad.tgz").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match=r"has no config\.yaml"):
        await client.create(spec_of(tmp_path / "bad.tgz"))


async def test_an_upload_is_checked_without_being_made(here: Here) -> None:
    sandbox, client = here
    model, payload = sandbox["baseten"]["seed"]["model_id"], DeploymentPayload(config={})
    ticket = await client.management.prepare_upload(payload, model=model, dry_run=True)
    assert (ticket.creds, ticket.s3_key) == (None, None)
    with pytest.raises(InvalidInput, match="either the name"):
        await client.management.prepare_upload(payload)
    real = await client.management.prepare_upload(payload, model=model)
    assert real.creds is not None
    assert real.creds["aws_secret_access_key"] not in repr(real)


# --- the three envelopes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (400, {"code": "VALIDATION_ERROR", "message": "no"}, {}, ("VALIDATION_ERROR", "no", None)),
        (429, {"error": "Rate limit exceeded.", "retry_after": 37}, {}, (None, "Rate limit exceeded.", 37.0)),
        (429, {"error": "x", "retry_after": 37}, {"retry-after": "2"}, (None, "x", 2.0)),
        (429, {"error": "x", "retry_after": True}, {}, (None, "x", None)),
        (500, {"error": "boom", "error_code": "application_error", "detail": "line 3"}, {},
         ("application_error", "boom (line 3)", None)),
        (502, "<html>", {}, (None, "<html>", None)),
        (500, ["odd"], {}, (None, "['odd']", None)),
    ],
)  # fmt: skip
def test_every_envelope_is_read(status: int, body: Any, headers: dict[str, str], expected: Any) -> None:
    content: dict[str, Any] = {"text": body} if isinstance(body, str) else {"json": body}
    problem = read_error(httpx.Response(status, headers=headers, **content))
    assert (problem.code, problem.message, problem.retry_after) == expected
    assert problem.status_code == status


async def test_the_vendors_own_delay_is_waited_for_when_it_fits(here: Here) -> None:
    sandbox, _ = here
    body = {"error": "Rate limit exceeded. Please try again later.", "retry_after": 0.05}
    await sandbox.control.fault(kind="status", status=429, body=body, times=3)
    async with client_of(sandbox) as client:
        assert (await client.get(seeded(sandbox))).ready
    await sandbox.control.fault(kind="status", status=429, body={**body, "retry_after": 3600}, times=1)
    async with client_of(sandbox, policy=RetryPolicy(total_seconds=5)) as client:
        with pytest.raises(RateLimited) as raised:
            await client.get(seeded(sandbox))
    assert raised.value.retry_after == 3600
