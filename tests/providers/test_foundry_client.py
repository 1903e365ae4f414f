"""Foundry in our words: every capability, and every refusal."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    DeploymentStatus,
    DeploymentUpdate,
    Resources,
)
from prefect_modeldeploy.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    ProviderError,
    UnsupportedOperation,
    WaitTimeout,
)
from prefect_modeldeploy.providers.foundry import FoundryClient
from prefect_modeldeploy.providers.foundry.model_api import NewFunction
from tests.providers.foundry_kit import FOLDER, Foundry, foundry, shared_foundry, stack

__all__ = ["shared_foundry", "stack"]


# --- the capability table -----------------------------------------------------------------------------------------


async def can_create(stack: Foundry) -> None:
    made = await stack.client.create(stack.spec("staging", env={"A": "1"}))
    assert (made.name, made.environment, made.model_id) == ("staging", "staging", stack.model)
    assert made.status is DeploymentStatus.READY
    assert made.raw["runtimeConfiguration"]["environmentVariables"]["A"] == "1"


async def can_update(stack: Foundry) -> None:
    found = await stack.production()
    update = DeploymentUpdate(resources=Resources(memory_mib=2048, gpu_type="T4"), env={"LOG": "1"})
    changed = await stack.client.update(found.id, update)
    assert changed.resources == Resources(cpu_millicores=1000, memory_mib=2048, gpu_type="T4", gpu_count=1)
    assert changed.autoscaling == found.autoscaling


async def can_list(stack: Foundry) -> None:
    assert [d.environment for d in await stack.client.find(model=stack.model)] == ["production"]


async def can_scale(stack: Foundry) -> None:
    found = await stack.production()
    changed = await stack.client.scale(found.id, Autoscaling(min_replicas=2, max_replicas=5))
    assert changed.autoscaling == Autoscaling(min_replicas=2, max_replicas=5)
    assert changed.resources == found.resources


async def can_scale_to_zero(stack: Foundry) -> None:
    found = await stack.production()
    await stack.client.scale_to_zero(found.id)
    await stack.control.advance(1801)
    at_zero = await stack.client.get(found.id)
    assert (at_zero.status, at_zero.ready, at_zero.provider_status) == (
        DeploymentStatus.SCALED_TO_ZERO,
        False,
        "ACTIVE",
    )
    assert (await stack.client.predict(found.id, {"x": 1}))["sum"] == 1
    assert (await stack.client.get(found.id)).status is DeploymentStatus.READY


async def can_wake(stack: Foundry) -> None:
    found = await stack.production()
    await stack.client.scale_to_zero(found.id)
    await stack.control.advance(1801)
    assert (await stack.client.get(found.id)).status is DeploymentStatus.SCALED_TO_ZERO
    woken = await stack.client.wake(found.id)
    assert woken.status is DeploymentStatus.READY
    await stack.control.advance(1801)
    assert (await stack.client.get(found.id)).status is DeploymentStatus.READY, "it stays awake"


async def can_stop(stack: Foundry) -> None:
    found = await stack.production()
    stopped = await stack.client.stop(found.id)
    assert (stopped.status, stopped.provider_status) == (DeploymentStatus.STOPPED, "DISABLED")
    with pytest.raises(ProviderError):
        await stack.client.predict(found.id, {"x": 1})
    assert (await stack.client.get(found.id)).status is DeploymentStatus.STOPPED, "no request wakes it"


async def can_start(stack: Foundry) -> None:
    found = await stack.production()
    await stack.client.stop(found.id)
    assert (await stack.client.start(found.id)).status is DeploymentStatus.READY
    assert (await stack.client.start(found.id)).status is DeploymentStatus.READY, "again: nothing happens"


async def can_promote(stack: Foundry) -> None:
    candidate = await stack.client.create(stack.spec("staging", version=await stack.new_version()))
    production = await stack.production()
    promoted = await stack.client.promote(candidate.id, environment="production")
    assert promoted.id == production.id
    after = await stack.production()
    newest = await stack.client.api.version(stack.model, str(after.version))
    assert newest.promoted_from == candidate.version
    assert after.status is DeploymentStatus.READY


async def can_roll_back(stack: Foundry) -> None:
    candidate = await stack.client.create(stack.spec("staging", version=await stack.new_version()))
    await stack.client.promote(candidate.id, environment="production")
    await stack.client.roll_back(candidate.id, environment="production")
    after = await stack.production()
    assert (await stack.client.api.version(stack.model, str(after.version))).promoted_from == stack.version


async def can_predict(stack: Foundry) -> None:
    found = await stack.production()
    answer = await stack.client.predict(found.id, {"input_df": [{"feature_1": 1.5}, {"feature_1": 2.0}]})
    assert answer == {"sum": 3.5, "echo": {"input_df": [{"feature_1": 1.5}, {"feature_1": 2.0}]}}


CAN: dict[Capability, Callable[[Foundry], Awaitable[None]]] = {
    Capability.CREATE: can_create,
    Capability.UPDATE: can_update,
    Capability.LIST: can_list,
    Capability.SCALE: can_scale,
    Capability.SCALE_TO_ZERO: can_scale_to_zero,
    Capability.WAKE: can_wake,
    Capability.STOP: can_stop,
    Capability.START: can_start,
    Capability.PROMOTE: can_promote,
    Capability.ROLL_BACK: can_roll_back,
    Capability.PREDICT: can_predict,
}


async def router(client: FoundryClient) -> Any:
    return client.router()


CANNOT: dict[Capability, Callable[[FoundryClient], Awaitable[Any]]] = {
    Capability.DELETE: lambda client: client.delete("ri.foundry-ml-live.main.live-deployment.x"),
    Capability.LOGS: lambda client: client.logs("ri.foundry-ml-live.main.live-deployment.x"),
    Capability.TRAFFIC: router,
}


def test_the_table_is_what_the_client_declares() -> None:
    assert set(CAN) == set(FoundryClient.capabilities)
    assert set(CAN) | set(CANNOT) | {Capability.METRICS} == set(Capability)


@pytest.mark.parametrize("capability", CAN)
async def test_it_can(stack: Foundry, capability: Capability) -> None:
    await CAN[capability](stack)


@pytest.mark.parametrize("capability", CANNOT)
async def test_what_it_cannot_is_refused_before_any_request(stack: Foundry, capability: Capability) -> None:
    with pytest.raises(UnsupportedOperation, match=capability.lower()):
        await CANNOT[capability](stack.client)
    assert await stack.sent() == []


async def test_nobody_knows_how_long_a_deployment_was_idle(stack: Foundry) -> None:
    assert await stack.client.idle_seconds((await stack.production()).id) is None


# --- what a deployment is -----------------------------------------------------------------------------------------


async def test_the_same_spec_again_is_the_same_deployment(stack: Foundry) -> None:
    first = await stack.client.create(stack.spec("staging"))
    await stack.client.scale(first.id, Autoscaling(min_replicas=3, max_replicas=3))
    again = await stack.client.create(stack.spec("staging"))
    assert again.id == first.id
    assert len(await stack.lives()) == 2
    assert len(await stack.versions_on("staging")) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": {"A": "2"}}, "name staging"),
        ({"environment": "other"}, "name staging"),
        ({"name": "b"}, "branch staging"),
    ],
)
async def test_another_spec_for_the_same_name_or_branch_is_a_conflict(
    stack: Foundry, fields: dict[str, Any], message: str
) -> None:
    await stack.client.create(stack.spec("staging"))
    await stack.control.forget_requests()
    with pytest.raises(Conflict, match=message):
        await stack.client.create(stack.spec("staging", **fields))
    assert await stack.sent("POST") == []


async def test_production_has_a_deployment_that_somebody_else_made(stack: Foundry) -> None:
    with pytest.raises(Conflict, match=r"branch master has a deployment already.*options\.branch"):
        await stack.client.create(stack.spec("mine", environment="production"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "fraud"}, "model"),
        ({"version": "2"}, "version"),
        ({"source": "model.dill"}, "source"),
        ({"options": {"brunch": "x"}}, "options.brunch"),
        ({"options": {"thread_count": 0}}, "options.thread_count"),
        ({"options": {"sources": ["nonsense"]}}, "options.sources.0"),
        ({"resources": Resources(instance_type="big")}, "resources.instance_type"),
        ({"resources": Resources(gpu_type="T5")}, "resources.gpu.type"),
        ({"resources": Resources(gpu_type="T4", gpu_count=0)}, "resources.gpu_count"),
        ({"autoscaling": Autoscaling(target_concurrency=33)}, "autoscaling.target_concurrency"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"MODELDEPLOY_NAME": "1"}}, "env"),
    ],
)
async def test_a_spec_that_cannot_work_is_refused_by_name_before_any_request(
    stack: Foundry, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await stack.client.create(stack.spec("staging", **fields))
    assert caught.value.field == field
    assert await stack.sent() == []


async def test_a_branch_without_versions_needs_one_named(stack: Foundry) -> None:
    with pytest.raises(InvalidInput, match="branch staging has no version yet"):
        await stack.client.create(stack.spec("staging", version="latest"))
    assert await stack.sent("POST") == []


async def test_a_deployment_tracks_its_branch_for_ever(stack: Foundry) -> None:
    found = await stack.production()
    for update in (DeploymentUpdate(environment="staging"), DeploymentUpdate(options={"branch": "x"})):
        with pytest.raises(InvalidInput, match="for ever"):
            await stack.client.update(found.id, update)
    await stack.client.update(found.id, DeploymentUpdate(environment="production"))


async def test_an_update_can_bring_a_version(stack: Foundry) -> None:
    found, version = await stack.production(), await stack.new_version()
    changed = await stack.client.update(found.id, DeploymentUpdate(version=version))
    assert changed.status is DeploymentStatus.UPDATING, "the answer is from before"
    changed = await stack.client.get(found.id)
    assert (await stack.client.api.version(stack.model, str(changed.version))).promoted_from == version


async def test_a_list_needs_a_model(stack: Foundry) -> None:
    with pytest.raises(InvalidInput, match="model=None"):
        await stack.client.find()


async def test_an_unknown_deployment_is_not_found_in_the_vendors_words(stack: Foundry) -> None:
    rid = "ri.foundry-ml-live.main.live-deployment.gone"
    with pytest.raises(NotFound) as caught:
        await stack.client.get(rid)
    problem = caught.value.problem
    assert (problem.code, problem.status_code) == ("LiveDeploymentNotFound", 404)
    assert problem.parameters is not None
    assert problem.parameters["liveDeploymentRid"] == rid
    assert problem.parameters["errorCode"] == "NOT_FOUND"
    assert problem.parameters["errorInstanceId"]


async def test_a_promotion_without_a_deployment_there_changes_nothing(stack: Foundry) -> None:
    found = await stack.production()
    with pytest.raises(NotFound, match=r"no live deployment of .* tracks branch qa"):
        await stack.client.promote(found.id, environment="qa")
    assert await stack.versions_on("qa") == []


async def test_rolling_back_twice_goes_back_by_two_and_never_forward(stack: Foundry) -> None:
    found = await stack.production()
    versions = [stack.version, await stack.new_version("b"), await stack.new_version("c")]
    for version in versions[1:]:
        await stack.client.promote_version(stack.model, version, "master")
    for expected in (versions[1], versions[0]):
        await stack.client.roll_back(found.id, environment="production")
        now = await stack.client.get(found.id)
        assert (await stack.client.api.version(stack.model, str(now.version))).promoted_from == expected
    with pytest.raises(Conflict, match="nothing before"):
        await stack.client.roll_back(found.id, environment="production")
    await stack.client.roll_back(found.id, environment="production", to=versions[2])
    await stack.client.roll_back(found.id, environment="production", to=versions[2])
    assert len(await stack.versions_on("master")) == 6, "the last one had nothing to do"


async def test_a_payload_must_name_the_models_inputs(stack: Foundry) -> None:
    found = await stack.production()
    for payload in ([1, 2], "x", None, {1: 2}):
        with pytest.raises(InvalidInput, match="payload"):
            await stack.client.predict(found.id, payload)
    with pytest.raises(InvalidInput, match="path"):
        await stack.client.predict(found.id, {}, path="v1/predict")
    with pytest.raises(ProviderError, match="does not fit") as caught:
        await stack.client.predict(found.id, {"input_df": [{"feature_1": "a"}]})
    assert caught.value.problem.parameters is not None
    assert caught.value.problem.parameters["errorType"]["type"] == "typeMismatch"


async def test_a_model_that_fails_says_so(stack: Foundry) -> None:
    found = await stack.production()
    await stack.control.behave(match=found.id, callable="math:sqrt")
    with pytest.raises(ProviderError) as caught:
        await stack.client.predict(found.id, {"x": 1})
    assert caught.value.problem.code == "InferenceFailure"
    assert not caught.value.effect_unknown


async def test_waiting_asks_one_list_for_many(stack: Foundry) -> None:
    names = ["one", "two", "three"]
    ids = [(await stack.client.create(stack.spec(name))).id for name in names]
    await stack.control.forget_requests()
    seen = [found async for found in stack.client.wait(ids, lambda d: d.ready)]
    assert [d.name for d in seen[-1]] == names
    assert len(await stack.sent("GET", "*/liveDeployments")) == 1


async def test_a_deployment_can_be_waited_for_at_realistic_speed() -> None:
    async with foundry(speed=400) as stack:
        made = await stack.client.create(stack.spec("staging"))
        assert made.status is DeploymentStatus.STARTING
        states = [d.status async for [d] in stack.client.wait([made.id], lambda d: d.ready, timeout_seconds=20)]
        assert states[-1] is DeploymentStatus.READY
        stopped = await stack.client.stop(made.id)
        with pytest.raises(WaitTimeout):
            async for _ in stack.client.wait([stopped.id], lambda d: d.ready, timeout_seconds=0.1):
                pass


async def test_models_versions_and_functions(stack: Foundry) -> None:
    api = stack.client.api
    model = await api.create_model("fraud", FOLDER)
    assert await api.model(model) == model
    with pytest.raises(Conflict) as caught:
        await api.create_model("fraud", FOLDER)
    assert caught.value.problem.code == "ResourceNameAlreadyExists"
    function = await api.create_function(model, NewFunction(api_name="com.x.f", is_row_wise=False, display_name="f"))
    assert (await api.function(model)).function_rid == function.function_rid
    replaced = await api.replace_function(model, NewFunction(api_name="com.x.g", is_row_wise=True))
    assert (replaced.api_name, replaced.display_name) == ("com.x.g", "f")
    assert replaced.function_version != function.function_version
    for _ in range(3):
        await api.promote_version(model, stack.version, "b")
    await stack.control.forget_requests()
    assert len(await api.versions(model, "b", page_size=1)) == 3
    assert len(await stack.sent("GET")) == 3
