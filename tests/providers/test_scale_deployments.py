"""Scale's V4 deployments in our vocabulary: every operation, and what it refuses."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
    Resources,
)
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    ModelDeployError,
    NotFound,
    ProviderError,
    UnsupportedOperation,
)
from prefect_modeldeploy.providers.scale.translate import STATUSES, to_deployment
from tests.providers.scale_kit import Account, account, account_in, scale_sandbox
from tests.sandbox.kit import RunningSandbox, running_sandbox

__all__ = ["account", "scale_sandbox"]


async def test_the_seeded_deployment_is_found_by_the_models_id_and_by_its_name(account: Account) -> None:
    [by_id] = await account.client.find(model=account.model_id)
    [by_name] = await account.client.find(model="fraud")
    assert by_id == by_name == await account.client.get(by_id.id)
    assert by_id.id == f"{account.model_id}/{by_id.raw['id']}"
    assert by_id.model_id == account.model_id
    assert (by_id.status, by_id.ready, by_id.provider_status) == (DeploymentStatus.READY, True, "READY")
    assert by_id.autoscaling == Autoscaling(min_replicas=1, max_replicas=2, target_concurrency=10)
    assert (
        by_id.endpoint_url
        == f"{account.credentials.base_url}/v4/models/{account.model_id}/deployments/{by_id.raw['id']}/execute"
    )
    assert isinstance(by_id.created_at, datetime)


async def test_a_deployment_is_created_with_everything_that_a_spec_can_say(account: Account) -> None:
    made = await account.deploy(
        version="7",
        environment="staging",
        autoscaling=Autoscaling(min_replicas=1, max_replicas=4, target_concurrency=3),
        resources=Resources(cpu_millicores=4000, memory_mib=6144, gpu_count=1, gpu_type="nvidia-tesla-t4"),
        options={
            "vendor": "LLMENGINE",
            "storage": "32Gi",
            "high_priority": True,
            "num_shards": 2,
            "checkpoint_path": "bucket/weights",
            "model_name": "llama",
            "base_model_name": "llama-base",
            "inference_framework_image_tag": "0.9",
            "model_creation_parameters": {"p": 1},
            "deployment_metadata": {"team": "risk"},
        },
    )
    [record] = await account.records("fraud-v2")
    assert record["vendor_configuration"] == {
        "vendor": "LLMENGINE",
        **{"min_workers": 1, "max_workers": 4, "per_worker": 3, "cpus": 4, "memory": "6Gi", "storage": "32Gi"},
        **{"gpus": 1, "gpu_type": "nvidia-tesla-t4", "high_priority": True, "num_shards": 2},
        **{"checkpoint_path": "bucket/weights", "model_name": "llama", "base_model_name": "llama-base"},
        "inference_framework_image_tag": "0.9",
    }
    assert record["model_creation_parameters"] == {"p": 1}
    assert record["deployment_metadata"]["team"] == "risk"
    assert (made.version, made.environment) == ("7", "staging")
    assert made.resources == Resources(cpu_millicores=4000, memory_mib=6144, gpu_count=1, gpu_type="nvidia-tesla-t4")
    assert made == await account.client.get(made.id)


async def test_what_a_spec_leaves_open_is_left_to_the_vendor(account: Account) -> None:
    await account.deploy()
    [request] = await account.sent("POST", "*/deployments")
    assert set(request.body) == {"name", "account_id", "deployment_metadata", "wait_for_ready"}


async def test_the_same_spec_twice_is_one_deployment_and_another_one_is_a_conflict(account: Account) -> None:
    first, again = await account.deploy(), await account.deploy()
    assert first.id == again.id
    with pytest.raises(Conflict, match="created otherwise"):
        await account.deploy(version="2")
    assert len(await account.records("fraud-v2")) == 1


async def test_a_scaled_deployment_is_still_the_one_of_its_spec(account: Account) -> None:
    made = await account.deploy()
    await account.client.scale(made.id, Autoscaling(min_replicas=1))
    assert (await account.deploy()).id == made.id


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("source", {"source": "registry/image:1"}),
        ("env", {"env": {"KEY": "hush-hush"}}),
        ("options.unknown", {"options": {"unknown": 1}}),
        ("options.num_shards", {"options": {"num_shards": 2}}),
        ("options.num_shards", {"options": {"vendor": "LLMENGINE", "num_shards": 0}}),
        ("options.deployment_metadata.modeldeploy", {"options": {"deployment_metadata": {"modeldeploy": {}}}}),
        ("resources", {"resources": Resources(cpu_millicores=1000)}),
        ("resources.cpu_millicores", {"resources": Resources(cpu_millicores=500), "options": {"vendor": "LLMENGINE"}}),
        ("resources.instance_type", {"resources": Resources(instance_type="x"), "options": {"vendor": "LLMENGINE"}}),
        ("options.gpu_type", {"resources": Resources(gpu_type="tpu"), "options": {"vendor": "LLMENGINE"}}),
        ("autoscaling.window_seconds", {"autoscaling": Autoscaling(window_seconds=60)}),
        ("autoscaling.scale_down_delay_seconds", {"autoscaling": Autoscaling(scale_down_delay_seconds=60)}),
    ],
)
async def test_what_scale_cannot_take_is_refused_by_name_before_anything_is_sent(
    account: Account, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await account.deploy(**fields)
    assert caught.value.field == field
    assert "hush-hush" not in str(caught.value)
    assert await account.sent() == []


async def test_an_unknown_model_is_not_found_and_an_ambiguous_name_is_refused(account: Account) -> None:
    from prefect_modeldeploy.providers.scale.schemas import NewModel

    with pytest.raises(NotFound):
        await account.deploy(model="no-such-model")
    await account.client.models.create(NewModel(name="twin", model_type="GENERIC", model_vendor="LAUNCH"))
    await account.client._transport.call(
        "POST",
        "/v4/models",
        json={"name": "twin", "model_type": "GENERIC", "account_id": account.credentials.account_id},
    )
    with pytest.raises(InvalidInput, match="several models"):
        await account.deploy(model="twin")


# --- changing ---------------------------------------------------------------------------------------------------------


async def test_scaling_changes_what_it_names_and_nothing_else(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=1, max_replicas=4, target_concurrency=3))
    scaled = await account.client.scale(made.id, Autoscaling(max_replicas=9))
    assert scaled.autoscaling == Autoscaling(min_replicas=1, max_replicas=9, target_concurrency=3)


async def test_a_bound_above_the_other_is_refused(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(max_replicas=2))
    with pytest.raises(InvalidInput, match="max_replicas=2"):
        await account.client.scale(made.id, Autoscaling(min_replicas=3))


async def test_an_update_changes_labels_size_and_parameters(account: Account) -> None:
    made = await account.deploy(options={"vendor": "LLMENGINE", "deployment_metadata": {"team": "risk"}})
    update = DeploymentUpdate(
        version="8",
        environment="production",
        autoscaling=Autoscaling(max_replicas=3),
        resources=Resources(memory_mib=512),
        options={"num_shards": 1, "model_creation_parameters": {"p": 2}, "deployment_metadata": {"tier": 1}},
    )
    changed = await account.client.update(made.id, update)
    [record] = await account.records("fraud-v2")
    assert (changed.version, changed.environment) == ("8", "production")
    assert (record["vendor_configuration"]["memory"], record["vendor_configuration"]["num_shards"]) == ("512Mi", 1)
    assert record["vendor_configuration"]["max_workers"] == 3
    assert record["model_creation_parameters"] == {"p": 2}
    assert {name: record["deployment_metadata"][name] for name in ("team", "tier")} == {"team": "risk", "tier": 1}


async def test_an_update_cannot_change_the_vendor_or_what_v4_lacks(account: Account) -> None:
    made = await account.deploy()
    for field, update in (
        ("options.vendor", DeploymentUpdate(options={"vendor": "LLMENGINE"})),
        ("source", DeploymentUpdate(source="registry/image:2")),
        ("env", DeploymentUpdate(env={"A": "1"})),
    ):
        with pytest.raises(InvalidInput) as caught:
            await account.client.update(made.id, update)
        assert caught.value.field == field
    assert await account.sent("PATCH") == []


async def test_zero_and_wake_keep_the_bounds_that_there_were(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=2, max_replicas=4))
    asleep = await account.client.scale_to_zero(made.id)
    assert (asleep.status, asleep.ready) == (DeploymentStatus.SCALED_TO_ZERO, False)
    assert (await account.client.scale_to_zero(made.id)).autoscaling == asleep.autoscaling
    assert (await account.client.predict(made.id, {"x": 1}))["sum"] == 1
    awake = await account.client.wake(made.id)
    assert awake.autoscaling == Autoscaling(min_replicas=2, max_replicas=4, target_concurrency=10)
    assert (awake.status, awake.ready) == (DeploymentStatus.READY, True)


async def test_a_deployment_that_allows_zero_is_ready_as_the_vendor_says(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=0))
    assert (made.status, made.ready) == (DeploymentStatus.READY, True)
    assert (await account.client.wake(made.id)).autoscaling == Autoscaling(
        min_replicas=1, max_replicas=1, target_concurrency=10
    )


async def test_waking_raises_the_upper_bound_when_it_was_lowered_in_between(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=2, max_replicas=4))
    await account.client.scale_to_zero(made.id)
    await account.client.scale(made.id, Autoscaling(max_replicas=1))
    awake = await account.client.wake(made.id)
    assert awake.autoscaling == Autoscaling(min_replicas=2, max_replicas=2, target_concurrency=10)


async def test_somebody_who_scales_up_elsewhere_wakes_it_too(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=1))
    await account.client.scale_to_zero(made.id)
    assert (await account.client.scale(made.id, Autoscaling(min_replicas=1))).status is DeploymentStatus.READY


async def test_idle_workers_go_away_and_a_request_brings_one_back() -> None:
    async with running_sandbox("scale", speed=2000) as sandbox, account_in(sandbox) as account:
        made = await account.deploy(autoscaling=Autoscaling(min_replicas=0, max_replicas=2))
        await sandbox.control.advance(200)

        async def workers() -> int:
            await account.client.get(made.id)
            [record] = await account.records(made.name)
            return len(record.get("pool", {}).get("started", []))

        assert await workers() == 0
        assert (await account.client.predict(made.id, {"x": 2}))["sum"] == 2
        assert await workers() == 1
        await sandbox.control.advance(400)
        assert await workers() == 0


async def test_deleting_is_done_once_and_twice(account: Account) -> None:
    made = await account.deploy()
    await account.client.delete(made.id)
    await account.client.delete(made.id)
    with pytest.raises(NotFound):
        await account.client.get(made.id)
    assert [one.name for one in await account.client.find(model="fraud")] == ["fraud-v1"]


async def test_a_deployment_on_its_way_out_does_not_keep_its_name() -> None:
    async with running_sandbox("scale", speed=0.001) as sandbox, account_in(sandbox) as account:
        made = await account.deploy()
        await sandbox.control.advance(200)
        await account.client.delete(made.id)
        assert (await account.client.get(made.id)).status is DeploymentStatus.STOPPING
        assert (await account.deploy()).id != made.id


async def test_what_a_model_server_serves_from_is_not_deleted(account: Account) -> None:
    seeded = await account.seeded()
    await account.client.promote(seeded.id, environment="production")
    with pytest.raises(Conflict, match="serves from it"):
        await account.client.delete(seeded.id)
    assert await account.sent("DELETE") == []


# --- serving ----------------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_by_the_model(account: Account) -> None:
    seeded = await account.seeded()
    assert await account.client.predict(seeded.id, {"x": [1, 2]}) == {"sum": 3, "echo": {"x": [1, 2]}}
    streamed = await account.client.predict(seeded.id, {"x": 1, "stream": True})
    assert streamed == 'data: {"sum": 1.0, "echo": {"x": 1}}\n\n'
    answers = {
        "completions": {"prompt": "hello"},
        "chat-completions": {"prompt": "hello", "chat_history": []},
        "embeddings": {"texts": ["a", "bc"]},
        "rerankings": {"query": "a", "chunks": ["a b", "c"]},
    }
    found = {path: await account.client.predict(seeded.id, body, path=path) for path, body in answers.items()}
    assert found["completions"]["completions"][0][0] == "hello"
    assert found["chat-completions"]["chat_completion"]["message"]["role"] == "assistant"
    assert found["embeddings"]["embeddings"] == [["a", [1.0]], ["bc", [2.0]]]
    assert found["rerankings"]["chunk_scores"] == [1.0, 0.0]


@pytest.mark.parametrize(("payload", "path", "field"), [(["hush-hush"], None, "payload"), ({}, "predict", "path")])
async def test_a_request_that_scale_cannot_take_is_refused_by_name(
    account: Account, payload: Any, path: str | None, field: str
) -> None:
    seeded = await account.seeded()
    with pytest.raises(InvalidInput) as caught:
        await account.client.predict(seeded.id, payload, path=path)
    assert caught.value.field == field
    assert "hush-hush" not in str(caught.value)


async def test_tokens_are_counted(account: Account) -> None:
    seeded = await account.seeded()
    await account.client.predict(seeded.id, {"prompt": "one two three"}, path="completions")
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    usage = await account.client.usage(seeded.id, today.replace(hour=0), today.replace(hour=23, minute=59), chunks=2)
    assert len(usage.data) == 2
    assert sum(point.prompt_tokens for point in usage.data) > 0
    assert all(point.summary_tokens == point.prompt_tokens + point.response_tokens for point in usage.data)
    by_name = await account.client.models.usage("fraud", today.replace(hour=0), today.replace(hour=23, minute=59))
    assert sum(point.summary_tokens for point in by_name.data) == sum(point.summary_tokens for point in usage.data)


# --- what it has, and what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status", "ready"),
    [
        ("READY", DeploymentStatus.READY, True),
        ("UPDATE_PENDING", DeploymentStatus.PENDING, False),
        ("UPDATE_IN_PROGRESS", DeploymentStatus.UPDATING, False),
        ("UPDATE_FAILED", DeploymentStatus.FAILED, False),
        ("DELETE_IN_PROGRESS", DeploymentStatus.STOPPING, False),
        ("ready", DeploymentStatus.READY, True),
        ("WAT", DeploymentStatus.UNKNOWN, False),
        ("", DeploymentStatus.UNKNOWN, False),
    ],
)
def test_every_word_of_the_vendor_has_a_status(word: str, status: DeploymentStatus, ready: bool) -> None:
    found = to_deployment({"id": "d", "model_instance_id": "m", "status": word}, "https://x")
    assert (found.status, found.ready, found.provider_status) == (status, ready, word)


def test_the_table_of_words_is_tested_whole() -> None:
    assert set(STATUSES) == {"READY", "UPDATE_PENDING", "UPDATE_IN_PROGRESS", "UPDATE_FAILED", "DELETE_IN_PROGRESS"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"id": "d", "status": None, "created_at": "yesterday", "vendor_configuration": "none"},
        {"id": "d", "new_field": {"a": 1}, "vendor_configuration": {"vendor": "NEW", "foo": 1}},
        {"id": "d", "vendor_configuration": {"vendor": "LAUNCH", "min_workers": 9, "max_workers": 1}},
        {"id": "d", "vendor_configuration": {"memory": "lots", "cpus": "many", "gpus": -1, "per_worker": 0}},
        {"id": "d", "deployment_metadata": {"modeldeploy": "not ours"}},
    ],
)
def test_an_answer_that_breaks_the_vendors_rules_is_read_and_kept_whole(answer: dict[str, Any]) -> None:
    assert to_deployment(answer, "https://x", "m").raw == answer


@pytest.mark.parametrize("deployment_id", ["", "d", "/d", "m/", "m/d/e"])
async def test_an_id_of_another_form_is_refused(account: Account, deployment_id: str) -> None:
    with pytest.raises(InvalidInput, match="<model id>/<deployment id>"):
        await account.client.get(deployment_id)


async def test_an_id_cannot_lead_to_another_path(account: Account) -> None:
    with pytest.raises(NotFound):
        await account.client.get("..%2f..?x=/..#")
    assert [request.path for request in await account.sent()] == ["/v4/models/..%2f..?x=/deployments/..#"]


LACKED: dict[Capability, Any] = {
    Capability.STOP: lambda client: client.stop("m/d"),
    Capability.START: lambda client: client.start("m/d"),
    Capability.LOGS: lambda client: client.logs("m/d"),
}


async def test_what_scale_lacks_is_said_before_anything_is_sent(account: Account) -> None:
    for capability, call in LACKED.items():
        with pytest.raises(UnsupportedOperation):
            await call(account.client)
        assert not account.client.can(capability)
        assert not account.credentials.can(capability)
    with pytest.raises(UnsupportedOperation):
        account.client.router()
    assert await account.sent() == []
    assert await account.client.idle_seconds("m/d") is None


async def test_errors_are_typed_and_keep_the_vendors_words(account: Account, scale_sandbox: RunningSandbox) -> None:
    cases: list[tuple[int, Any, type[ModelDeployError], str]] = [
        (400, {"detail": "bad workers"}, ProviderError, "bad workers"),
        (401, {"detail": "Unauthorized"}, AuthenticationFailed, "Unauthorized"),
        (403, {"detail": "Forbidden"}, AuthenticationFailed, "Forbidden"),
        (404, {"detail": "gone"}, NotFound, "gone"),
        (409, {"detail": "Existing operation on endpoint in progress"}, Conflict, "in progress"),
        (500, "<html>oops</html>", ProviderError, "<html>"),
    ]
    for status, body, kind, text in cases:
        await account.control.fault(kind="status", status=status, body=body)
        with pytest.raises(kind, match=text) as caught:
            await account.client.get("m/d")
        assert isinstance(caught.value, ProviderError)
        assert caught.value.problem.status_code == status


async def test_a_422_names_the_fields(account: Account) -> None:
    with pytest.raises(ProviderError) as caught:
        await account.client._transport.call("POST", f"/v4/models/{account.model_id}/deployments", json={"name": 7})
    problem = caught.value.problem
    assert (problem.status_code, problem.code) == (422, "string_type")
    assert "body.name" in problem.message
    assert problem.parameters is not None
    assert problem.parameters["detail"][0]["loc"] == ["body", "name"]


async def test_a_wrong_key_is_refused_and_shown_nowhere(scale_sandbox: RunningSandbox) -> None:
    planted = "planted-scale-key-123456"
    async with account_in(scale_sandbox, api_key=SecretStr(planted)) as account:
        assert planted not in repr(account.credentials) + str(account.credentials) + repr(account.client)
        await account.control.fault(kind="status", status=403, body={"detail": f"the key {planted} is bad"})
        with pytest.raises(AuthenticationFailed) as caught:
            await account.client.find()
        assert planted not in str(caught.value) + repr(caught.value.problem)
        with pytest.raises(AuthenticationFailed):
            await account.client.find()


async def test_our_own_spec_is_read_back_as_it_was(account: Account) -> None:
    spec = DeploymentSpec(name="n", model="fraud", version="3", environment="canary")
    made = await account.client.create(spec)
    assert (made.name, made.version, made.environment) == ("n", "3", "canary")
