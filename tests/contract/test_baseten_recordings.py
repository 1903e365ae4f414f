"""Our client sends what the vendor's own client was recorded to send: same method, path, query and body."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.providers.baseten import (
    AutoscalingSettings,
    BasetenClient,
    EnvironmentChanges,
    LogQuery,
    MetricQuery,
    PromoteOptions,
)
from prefect_modeldeploy.providers.baseten.inference import DEVELOPMENT, PRODUCTION, deployment, environment
from prefect_modeldeploy.providers.baseten.requests import AsyncRequest, BackpressureSettings, DeploymentPayload
from tests.contract.recordings import assert_same, calls, recorded
from tests.providers.baseten_kit import baseten
from tests.sandbox.kit import RunningSandbox

Call = Callable[[BasetenClient], Awaitable[Any]]
M, D, E = "m0001", "d0002", "production"
SETTINGS = AutoscalingSettings(min_replica=0, max_replica=3, scale_down_delay=120)
PAYLOAD = DeploymentPayload(
    config={"model_name": "my-model"}, environment_name="staging", deployment_name="v3", labels={"git": "abc"}
)
ENVIRONMENT = EnvironmentChanges.model_validate(
    {
        "autoscaling_settings": {"min_replica": 0, "max_replica": 2},
        "promotion_settings": {"rolling_deploy": True, "rolling_deploy_config": {"max_surge_percent": 20}},
    }
)
CHANGES = EnvironmentChanges.model_validate(
    {
        "autoscaling_settings": {"min_replica": 1},
        "promotion_settings": {"rolling_deploy": True, "promotion_cleanup_strategy": "KEEP"},
    }
)


def overriding() -> PromoteOptions:
    [sent] = recorded("baseten", "post_models_environments_promote (override)")
    return PromoteOptions.model_validate({name: value for name, value in sent.body.items() if name != "deployment_id"})


MANAGEMENT: dict[str, Call] = {
    "get_models()": lambda c: c.management.models(),
    "get_models(name=)": lambda c: c.management.models(name="my-model"),
    "get_teams_models": lambda c: c.management.models(team="t0001"),
    "get_models_model_id": lambda c: c.management.model(M),
    "get_models_model_id 404": lambda c: c.management.model("missing"),
    "patch_models": lambda c: c.management.rename_model(M, "new-name"),
    "get_models_deployments": lambda c: c.management.deployments(M),
    "get_models_deployments(name=)": lambda c: c.management.deployments(M, name="deployment-2"),
    "get_models_deployments_deployment_id": lambda c: c.get(f"{M}/{D}"),
    "get_models_deployments_production": lambda c: c.get(f"{M}/production"),
    "get_models_deployments_development": lambda c: c.get(f"{M}/development"),
    "patch_models_deployments": lambda c: c.management.rename_deployment(M, D, "v2"),
    "patch_models_deployments_autoscaling_settings": lambda c: c.management.set_autoscaling(M, D, SETTINGS),
    "patch_models_deployments_production_autoscaling_settings": lambda c: c.management.set_autoscaling(
        M, "production", SETTINGS
    ),
    "patch_models_deployments_development_autoscaling_settings": lambda c: c.management.set_autoscaling(
        M, "development", SETTINGS
    ),
    "patch_models_deployments_autoscaling_settings explicit null": lambda c: c.management.set_autoscaling(
        M, D, AutoscalingSettings(min_replica=1, autoscaling_window=None)
    ),
    "patch_models_deployments_request_backpressure_settings": lambda c: c.management.set_backpressure(
        M, D, BackpressureSettings(policy="REJECT_ON_FULL")
    ),
    **{
        f"post_models_deployments_{word}{verb}": call
        for word, at in (("", D), ("production_", "production"), ("development_", "development"))
        for verb, call in {
            "activate": lambda c, at=at: c.management.activate(M, at),
            "deactivate": lambda c, at=at: c.management.deactivate(M, at),
            "retry": lambda c, at=at: c.management.retry(M, at),
        }.items()
    },
    "post_models_deployments_promote (defaults)": lambda c: c.management.promote(M, D),
    "post_models_deployments_promote": lambda c: c.management.promote(
        M, D, PromoteOptions(scale_down_previous_deployment=False, preserve_env_instance_type=True)
    ),
    "post_models_deployments_development_promote": lambda c: c.management.promote(M, "development"),
    "delete_models_deployments_replicas": lambda c: c.terminate_replica(f"{M}/{D}", "abc12"),
    "delete_models_deployments": lambda c: c.delete(f"{M}/{D}"),
    "delete_models": lambda c: c.management.delete_model(M),
    "get_models_deployments_logs": lambda c: c.management.logs(
        M, D, LogQuery(start_epoch_millis=1, direction="asc", limit=10, includes=["a", "b"])
    ),
    "get_models_environments_logs": lambda c: c.management.environment_logs(M, E),
    "get_models_deployments_metrics": lambda c: c.metrics(
        f"{M}/{D}", MetricQuery(mode="CURRENT", metrics=["baseten_replicas_active"])
    ),
    "get_models_environments_metrics": lambda c: c.management.environment_metrics(M, E),
    "get_models_deployments_config": lambda c: c.management.config(M, D),
    "get_models_deployments_download": lambda c: c.management.download_url(M, D),
    "get_models_environments": lambda c: c.management.environments(M),
    "get_models_environments_env_name": lambda c: c.management.environment(M, E),
    "post_models_environments": lambda c: c.management.create_environment(M, "staging", ENVIRONMENT),
    "patch_models_environments": lambda c: c.management.update_environment(M, E, CHANGES),
    "delete_models_environments": lambda c: c.management.delete_environment(M, "staging"),
    "post_models_environments_promote": lambda c: c.management.promote_to_environment(M, E, D),
    "post_models_environments_promote (override)": lambda c: c.management.promote_to_environment(M, E, D, overriding()),
    "post_models_environments_cancel_promotion": lambda c: c.management.cancel_promotion(M, E),
    "post_models_environments_cancel_promotion 400": lambda c: c.management.cancel_promotion(M, "staging"),
    "post_models_environments_pause_promotion": lambda c: c.management.pause_promotion(M, E),
    "post_models_environments_resume_promotion": lambda c: c.management.resume_promotion(M, E),
    "post_models_environments_force_cancel_promotion": lambda c: c.management.force_cancel_promotion(M, E),
    "post_models_environments_force_roll_forward_promotion": lambda c: c.management.force_roll_forward_promotion(M, E),
    "post_models_environments_activate": lambda c: c.management.activate_environment(M, E),
    "post_models_environments_deactivate": lambda c: c.management.deactivate_environment(M, E),
    "get_secrets": lambda c: c.management.secrets(),
    "get_teams_secrets": lambda c: c.management.secrets("t0001"),
    "post_secrets": lambda c: c.management.put_secret("hf", SecretStr("v")),
    "delete_secrets": lambda c: c.management.delete_secret("hf"),
    "get_instance_types": lambda c: c.management.instance_types(),
    "get_instance_type_prices": lambda c: c.management.instance_type_prices(),
    "get_teams": lambda c: c.management.teams(),
    "get_teams_regions": lambda c: c.management.team_regions("t0001"),
    "get_environment_groups": lambda c: c.management.environment_groups(),
    "post_prepare_model_upload dry_run": lambda c: c.management.prepare_upload(PAYLOAD, name="my-model", dry_run=True),
    "post_prepare_model_upload": lambda c: c.management.prepare_upload(PAYLOAD, name="my-model"),
    "post_models (model_archive)": lambda c: c.management.create_model("my-model", PAYLOAD, "k/model.tgz"),
    "post_models_deployments (model_archive)": lambda c: c.management.create_deployment(M, PAYLOAD, "k/model.tgz"),
}

INFERENCE: dict[str, Call] = {
    "inference.predict(env)": lambda c: c.inference.predict(M, environment(E), {"x": 1}),
    "inference.predict_production": lambda c: c.inference.predict(M, PRODUCTION, {"x": 1}),
    "inference.predict_deployment": lambda c: c.predict(f"{M}/{D}", {"x": 1}),
    "inference.predict_development": lambda c: c.inference.predict(M, DEVELOPMENT, {"x": 1}),
    "inference.async_predict": lambda c: c.inference.async_predict(
        M, environment(E), AsyncRequest(model_input={"x": 1})
    ),
    "inference.get_async_request_status": lambda c: c.inference.async_status(M, "r0001"),
    "inference.cancel_async_request": lambda c: c.inference.cancel_async(M, "r0001"),
    "inference.get_async_queue_status": lambda c: c.inference.queue_status(M, environment(E)),
    "inference.wake(env)": lambda c: c.inference.wake(M, environment(E)),
    "inference.wake_production": lambda c: c.inference.wake(M, PRODUCTION),
    "inference.wake_deployment": lambda c: c.inference.wake(M, deployment(D)),
    "inference.wake_development": lambda c: c.inference.wake(M, DEVELOPMENT),
}

NOT_OURS = {
    "post_models_deployments_logs (deprecated)": "the vendor has replaced it by GET",
    "post_models (source.kind unset)": "the vendor's client drops what was not set; ours always sends kind",
    "Asyncget_models()": "the same request as get_models()",
    "ManagementClient(headers=Api-Key, api_key='')": "the same request as get_models()",
    "inference.predict_regional": "another host; give it as inference_url of a block of its own",
    "inference.wake_regional": "another host",
    "inference.predict_deployment_raw": "the same request as predict_deployment",
    "InferenceClient(base_url_override with path prefix).api.predict_production": "the same as predict_production",
    "inference.predict 429": "the same request as predict(env)",
}


@pytest_asyncio.fixture(scope="module")
async def here() -> AsyncIterator[tuple[RunningSandbox, BasetenClient]]:
    async with baseten() as both:
        yield both


def test_every_recorded_call_is_compared_or_left_out_for_a_reason() -> None:
    assert {*MANAGEMENT, *INFERENCE, *NOT_OURS} == set(calls("baseten"))


async def sent_by(here: tuple[RunningSandbox, BasetenClient], call: Call) -> list[Any]:
    sandbox, client = here
    await sandbox.control.forget_requests()
    with suppress(ProviderError):  # the ids of the recording are not there: what was sent counts
        await call(client)
    return await sandbox.control.requests()


@pytest.mark.parametrize("name", MANAGEMENT)
async def test_management(here: tuple[RunningSandbox, BasetenClient], name: str) -> None:
    ours = await sent_by(here, MANAGEMENT[name])
    # Our own secret values never reach the journal as they are; the recording's "v" is none.
    assert_same(ours, recorded("baseten", name))


@pytest.mark.parametrize("name", INFERENCE)
async def test_inference(here: tuple[RunningSandbox, BasetenClient], name: str) -> None:
    prefix = f"/inference/model-{M}"
    ours = [
        one.model_copy(update={"path": one.path.removeprefix(prefix)}) for one in await sent_by(here, INFERENCE[name])
    ]
    assert_same(ours, recorded("baseten", name))
