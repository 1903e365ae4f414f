"""Promotions at Baseten: the vendor's traps, each of which would end a rollout in a wrong state without its guard."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import Conflict, DeploymentFailed, InvalidInput, ProviderError, WaitTimeout
from prefect_modeldeploy.providers.baseten import (
    BasetenClient,
    EnvironmentChanges,
    PromoteOptions,
    PromotionSettings,
    RollingDeployConfig,
)
from prefect_modeldeploy.providers.baseten.requests import PromotionEnvironmentUpdate
from tests.conftest import eventually
from tests.providers.baseten_kit import baseten, client_of, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox

Here = tuple[RunningSandbox, BasetenClient]
SPEED = 1000.0
EXPENSIVE = Autoscaling(min_replicas=3, max_replicas=9)
CHEAP = Autoscaling(min_replicas=0, max_replicas=1)


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Here]:
    async with baseten(SPEED, visible_seconds=0.5) as both:
        yield both


@pytest_asyncio.fixture
async def here(running: Here) -> AsyncIterator[Here]:
    await running[0].control.reset()
    yield running
    await running[0].control.set_speed(SPEED)


async def up(client: BasetenClient, truss: Path, name: str = "v2", **fields: Any) -> Deployment:
    """A deployment that can be promoted."""
    created = await client.create(spec_of(make_truss(truss), name, **fields))
    async for [seen] in client.wait([created.id], lambda one: one.ready, timeout_seconds=20):  # noqa: B007
        pass
    return seen


async def promotion_of(client: BasetenClient, model_id: str, environment: str = "production") -> str | None:
    progress = (await client.management.environment(model_id, environment)).in_progress_promotion
    return progress.status if progress else None


async def serving(client: BasetenClient, model_id: str, environment: str = "production") -> str:
    current = (await client.management.environment(model_id, environment)).current_deployment
    assert current is not None
    return f"{model_id}/{current.id}"


async def in_background(client: BasetenClient, deployment: Deployment, **options: Any) -> "asyncio.Task[Deployment]":
    """Promote, and return when the promotion runs."""
    task = asyncio.create_task(client.promote(deployment.id, environment="production", **options))

    async def runs() -> bool:
        return task.done() or await promotion_of(client, deployment.model_id) is not None

    await eventually(runs)
    return task


# --- the traps --------------------------------------------------------------------------------------------------------


async def test_scaled_to_zero_in_the_middle_of_a_promotion_is_no_failure(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    await sandbox.control.fate(timeline="push", outcome="stuck", stage="SCALED_TO_ZERO")
    task = await in_background(client, new, options=PromoteOptions(promotion_settings_override=_copying()))

    async def asleep() -> list[Deployment]:
        return [one for one in await client.find(model=new.model_id) if one.provider_status == "SCALED_TO_ZERO"]

    [copy] = await eventually(asleep)  # type: ignore[misc]
    words = list[DeploymentStatus]()

    async def until_ready() -> None:
        async for [seen] in client.wait([copy.id], lambda one: one.ready, timeout_seconds=20):
            words.append(seen.status)

    waiting = asyncio.create_task(until_ready())
    await eventually(lambda: len(words) > 2 or waiting.done())
    assert not task.done()
    await sandbox.control.release()
    await waiting
    assert (await task).id == copy.id
    assert words[0] is DeploymentStatus.SCALED_TO_ZERO
    assert words[-1] is DeploymentStatus.READY


async def test_a_promotion_that_copies_ends_with_the_copys_id(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former = seeded(sandbox)
    await client.management.create_environment(former.split("/")[0], "staging")
    new = await up(client, tmp_path)
    staged = await client.promote(new.id, environment="staging")
    assert staged.id == new.id
    promoted = await client.promote(new.id, environment="production")  # it serves staging: Baseten makes a copy
    assert promoted.id != new.id
    assert promoted.name.startswith("v2.")
    assert promoted.environment == "production"
    assert (await client.get(new.id)).environment == "staging"
    assert (await client.promote(new.id, environment="production")).id == promoted.id  # it serves already
    posts = await sandbox.control.requests(method="POST", path="*/environments/production/promote")
    assert len(posts) == 1


async def test_the_environments_autoscaling_does_not_stay_on_what_failed_to_be_promoted(
    here: Here, tmp_path: Path
) -> None:
    sandbox, client = here
    former = seeded(sandbox)
    await client.scale(former, EXPENSIVE)
    new = await up(client, tmp_path, autoscaling=CHEAP)
    await sandbox.control.fate(timeline="promotion", outcome="fail")
    with pytest.raises(DeploymentFailed, match="the former deployment serves on"):
        await client.promote(new.id, environment="production")

    async def restored() -> bool:
        now = (await client.get(new.id)).autoscaling
        assert now is not None
        return (now.min_replicas, now.max_replicas) == (0, 1)

    await eventually(restored)
    assert await serving(client, new.model_id) == former


async def test_a_copy_that_fails_is_not_left_running(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former = seeded(sandbox)
    await client.scale(former, EXPENSIVE)
    new = await up(client, tmp_path, autoscaling=CHEAP)
    await sandbox.control.fate(timeline="promotion", outcome="fail")
    with pytest.raises(DeploymentFailed) as raised:
        await client.promote(
            new.id,
            environment="production",
            options=PromoteOptions(promotion_settings_override=_copying()),
        )
    assert raised.value.deployment_id != new.id

    async def stopped() -> bool:
        return (await client.get(raised.value.deployment_id)).status is DeploymentStatus.STOPPED

    await eventually(stopped)
    now = (await client.get(new.id)).autoscaling
    assert now is not None
    assert now.min_replicas == 0


async def test_inactive_after_starting_means_no_capacity_and_is_a_failure(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    await sandbox.control.fate(timeline="create", outcome="fail", stage="DEPLOYING", reason="no capacity")
    created = await client.create(spec_of(make_truss(tmp_path)))
    with pytest.raises(DeploymentFailed, match="no capacity"):
        async for _ in client.wait([created.id], lambda one: one.ready, timeout_seconds=20):
            pass
    stopped = await client.get(created.id)
    assert (stopped.status, stopped.provider_status) == (DeploymentStatus.STOPPED, "INACTIVE")
    assert "capacity" in (stopped.reason or "")


async def test_a_deployment_that_is_not_found_just_after_its_creation_is_waited_for(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    await sandbox.control.fate(timeline="create", outcome="late", reads=3)
    created = await client.create(spec_of(make_truss(tmp_path)))
    assert (await client.get(created.id)).id == created.id  # for others, too
    gets = await sandbox.control.requests(method="GET", path=f"*/deployments/{created.id.split('/')[1]}")
    assert [one.status for one in gets] == [404, 404, 404, 200, 200]


async def test_a_wait_bears_a_deployment_that_the_list_does_not_show_yet(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    await sandbox.control.fault(
        method="GET", path="*/deployments", kind="status", status=200, body={"deployments": []}, times=2
    )
    async for _ in client.wait([seeded(sandbox)], lambda one: one.ready, timeout_seconds=20):
        pass
    with pytest.raises(DeploymentFailed, match="no such deployment"):
        async for _ in client.wait([f"{seeded(sandbox)}x"], lambda one: one.ready, timeout_seconds=20):
            pass


@pytest.mark.parametrize(
    ("late", "visible_seconds"),
    [
        (0, 5.0),
        (3, 5.0),  # looked for until it shows
        (1, 0.0),  # shows after we have given up looking: the second try is refused, the first one is found
    ],
)
async def test_a_create_whose_answer_is_lost_makes_one_deployment(
    here: Here, tmp_path: Path, late: int, visible_seconds: float
) -> None:
    sandbox, _ = here
    if late:
        await sandbox.control.fate(timeline="create", outcome="late", reads=late)
    await sandbox.control.fault(method="POST", path="/v1/models/*/deployments", kind="lost_answer")
    async with client_of(sandbox, visible_seconds=visible_seconds) as client:
        created = await client.create(spec_of(make_truss(tmp_path)))
    named = [one for one in (await sandbox.control.table("baseten", "deployments")).values() if one["name"] == "v2"]
    assert [one["id"] for one in named] == [created.id.split("/")[1]]


@pytest.mark.parametrize("model", ["sandbox-model", "brand-new"])
async def test_ten_who_create_the_same_at_once_get_one(here: Here, tmp_path: Path, model: str) -> None:
    sandbox, client = here
    spec = spec_of(make_truss(tmp_path), "same", model)
    made = await asyncio.gather(*(client.create(spec) for _ in range(10)))
    assert len({one.id for one in made}) == 1
    named = [one for one in (await sandbox.control.table("baseten", "deployments")).values() if one["name"] == "same"]
    assert len(named) == 1


async def test_a_new_model_whose_answer_is_lost_is_made_once(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    await sandbox.control.fault(method="POST", path="/v1/models", kind="lost_answer")
    created = await client.create(spec_of(make_truss(tmp_path), "first", "brand-new"))
    models = (await sandbox.control.table("baseten", "models")).values()
    assert [one["id"] for one in models if one["name"] == "brand-new"] == [created.model_id]


@pytest.mark.parametrize("kind", ["lost_answer", "lost_request"])
async def test_a_promotion_whose_answer_is_lost_is_started_once(here: Here, tmp_path: Path, kind: str) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    await sandbox.control.fault(method="POST", path="*/promote", kind=kind)
    promoted = await client.promote(
        new.id, environment="production", options=PromoteOptions(promotion_settings_override=_copying())
    )
    assert promoted.environment == "production"
    assert len(await sandbox.control.table("baseten", "promotions")) == 1


# --- joining, refusing ------------------------------------------------------------------------------------------------


async def test_a_promotion_that_runs_is_joined_and_another_one_is_refused(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new, other = await up(client, tmp_path), await up(client, tmp_path, "v3")
    await sandbox.control.fate(timeline="promotion", outcome="stuck")
    task = await in_background(client, new)
    again = asyncio.create_task(client.promote(new.id, environment="production"))
    with pytest.raises(Conflict, match="is being promoted to production"):
        await client.promote(other.id, environment="production")
    with pytest.raises(InvalidInput, match="is being promoted: name the one"):
        await client.roll_back(new.id, environment="production")
    await sandbox.control.release()
    assert (await task).id == (await again).id == new.id
    assert len(await sandbox.control.table("baseten", "promotions")) == 1


async def test_a_promotion_that_takes_too_long_goes_on_and_can_be_joined(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    await sandbox.control.fate(timeline="promotion", outcome="stuck")
    with pytest.raises(WaitTimeout, match="still RELEASING"):
        await client.promote(new.id, environment="production", timeout_seconds=0.5)
    await sandbox.control.release()
    assert (await client.promote(new.id, environment="production")).id == new.id


async def test_a_stopped_deployment_is_started_before_it_is_promoted(here: Here, tmp_path: Path) -> None:
    _, client = here
    new = await up(client, tmp_path)
    await client.stop(new.id)
    promoted = await client.promote(new.id, environment="production")
    assert (promoted.id, promoted.environment) == (new.id, "production")


async def test_a_failed_deployment_is_not_promoted_and_can_be_retried(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    await sandbox.control.fate(timeline="create", outcome="fail", stage="BUILDING")
    created = await client.create(spec_of(make_truss(tmp_path)))
    with pytest.raises(DeploymentFailed, match="BUILD_FAILED"):
        await client.promote(created.id, environment="production")
    retried = await client.retry_deployment(created.id)
    assert (retried.retried, retried.reason) == (True, None)
    async for _ in client.wait([created.id], lambda one: one.ready, timeout_seconds=20):
        pass
    refused = await client.retry_deployment(created.id)
    assert refused.retried is False
    assert "ACTIVE" in (refused.reason or "")


async def test_an_environment_that_is_given_a_dead_deployment_is_a_failure(here: Here, tmp_path: Path) -> None:
    """The vendor leaves the pointer of a first push on a deployment that has failed."""
    sandbox, client = here
    await sandbox.control.fate(timeline="create", outcome="fail", stage="DEPLOYING")
    created = await client.create(spec_of(make_truss(tmp_path), "first", "brand-new"))

    async def failed() -> bool:
        return (await client.get(created.id)).status is DeploymentStatus.FAILED

    await eventually(failed)
    assert (await client.get(created.id)).environment == "production"
    with pytest.raises(DeploymentFailed, match="points to it, but it is DEPLOY_FAILED"):
        await client.promote(created.id, environment="production")


# --- controls ---------------------------------------------------------------------------------------------------------


async def test_a_rolling_promotion_is_paused_resumed_and_rolled_forward(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    model, api = new.model_id, client.management
    await sandbox.control.set_speed(5)
    task = await in_background(client, new)
    await sandbox.control.advance(10)
    await eventually(lambda: _is(client, model, "RAMPING_UP"))
    await sandbox.control.advance(45)
    assert await api.pause_promotion(model, "production")
    assert await promotion_of(client, model) == "PAUSED"
    env = await api.environment(model, "production")
    assert env.in_progress_promotion is not None
    assert env.in_progress_promotion.percent_traffic_to_new_version == 50
    with pytest.raises(ProviderError, match="takes no pause"):
        await api.pause_promotion(model, "production")
    assert await api.resume_promotion(model, "production")
    assert await promotion_of(client, model) == "RAMPING_UP"
    assert await api.force_roll_forward_promotion(model, "production")
    assert (await task).id == new.id


async def _is(client: BasetenClient, model: str, status: str) -> bool:
    return await promotion_of(client, model) == status


async def test_a_rolling_promotion_is_rolled_back_step_by_step(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former, new = seeded(sandbox), await up(client, tmp_path)
    await sandbox.control.set_speed(60)
    task = await in_background(client, new)
    await eventually(lambda: _is(client, new.model_id, "RAMPING_UP"))
    await sandbox.control.advance(45)
    back = await client.roll_back(former, environment="production")
    assert (back.id, back.environment) == (former, "production")
    with pytest.raises(DeploymentFailed):
        await task
    posts = await sandbox.control.requests(method="POST", path="*_promotion")
    assert [one.path.rpartition("/")[2] for one in posts] == ["cancel_promotion"]
    assert len(await sandbox.control.table("baseten", "promotions")) == 1


async def test_a_forced_cancel_is_at_once(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    await sandbox.control.set_speed(5)
    task = await in_background(client, new)
    await sandbox.control.advance(10)
    await eventually(lambda: _is(client, new.model_id, "RAMPING_UP"))
    assert await client.cancel_promotion(new.model_id, "production", force=True) == new.id
    with pytest.raises(DeploymentFailed):
        await task
    assert await client.cancel_promotion(new.model_id, "production") is None
    with pytest.raises(ProviderError) as raised:
        await client.management.cancel_promotion(new.model_id, "production")
    assert raised.value.problem.code == "VALIDATION_ERROR"
    assert raised.value.problem.message == "Environment production has no in progress promotion."


async def test_rolling_back_after_the_end_promotes_the_former_one_again(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    former, new = seeded(sandbox), await up(client, tmp_path)
    changes = EnvironmentChanges(promotion_settings=PromotionSettings(promotion_cleanup_strategy="DEACTIVATE"))
    await client.management.update_environment(new.model_id, "production", changes)
    await client.promote(new.id, environment="production")
    assert (await client.get(former)).status in (DeploymentStatus.STOPPING, DeploymentStatus.STOPPED)

    async def off() -> bool:
        return (await client.get(former)).status is DeploymentStatus.STOPPED

    await eventually(off)
    back = await client.roll_back(former, environment="production")
    assert (back.id, back.environment) == (former, "production")


async def test_the_share_of_a_rolling_promotion_is_seen_by_callers(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    new = await up(client, tmp_path)
    await sandbox.control.behave(match=new.raw["id"], callable="builtins:repr")
    await sandbox.control.set_speed(5)
    task = await in_background(client, new)
    await sandbox.control.advance(10)
    await eventually(lambda: _is(client, new.model_id, "RAMPING_UP"))
    await sandbox.control.advance(25)
    await client.management.pause_promotion(new.model_id, "production")
    answers = [await client.inference.predict(new.model_id, "environments/production", 1) for _ in range(8)]
    assert [isinstance(one, str) for one in answers].count(True) == 2
    await client.management.force_cancel_promotion(new.model_id, "production")
    with pytest.raises(DeploymentFailed):
        await task


# --- what a promotion may say -----------------------------------------------------------------------------------------


async def test_another_instance_type_comes_with_the_promotion_and_makes_a_copy(here: Here, tmp_path: Path) -> None:
    _, client = here
    new = await up(client, tmp_path)
    update = PromotionEnvironmentUpdate(instance_type_id="4x16")
    options = PromoteOptions(preserve_env_instance_type=False, environment_settings_update=update)
    promoted = await client.promote(new.id, environment="production", options=options)
    assert promoted.id != new.id
    assert promoted.resources is not None
    assert promoted.resources.instance_type == "4x16"


def test_contradictions_are_refused_before_they_are_sent() -> None:
    with pytest.raises(ValueError, match="preserve_env_instance_type=False"):
        PromoteOptions(environment_settings_update=PromotionEnvironmentUpdate(instance_type_id="4x16"))
    with pytest.raises(ValueError, match="only one of"):
        RollingDeployConfig(max_surge_percent=10, max_unavailable_percent=10)
    with pytest.raises(ValueError, match="must be above 0"):
        RollingDeployConfig(max_surge_percent=0, max_unavailable_percent=0)
    with pytest.raises(ValueError, match="ramp_up_while_promoting"):
        PromotionSettings.model_validate({"ramp_up_while_promoting": True})


def _copying() -> PromotionSettings:
    return PromotionSettings(redeploy_on_promotion=True)


# --- calling off ------------------------------------------------------------------------------------------------------


async def test_calling_off_again_goes_on_with_the_way_back_that_runs(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    candidate = await up(client, tmp_path / "truss")
    former = await serving(client, candidate.model_id)
    promoted = await client.promote(candidate.id, environment="production")
    await sandbox.control.fate(timeline="promotion", outcome="stuck")
    cut_off = asyncio.create_task(client.call_off(promoted.id, former, environment="production"))
    await eventually(lambda: _runs(client, candidate.model_id))
    cut_off.cancel()
    await asyncio.wait((cut_off,))
    await sandbox.control.release()
    await client.call_off(promoted.id, former, environment="production")
    assert (await client.get(await serving(client, candidate.model_id))).name.startswith(
        (await client.get(former)).name
    )


async def test_what_serves_is_not_called_off_while_something_else_is_promoted(here: Here, tmp_path: Path) -> None:
    sandbox, client = here
    candidate, other = await up(client, tmp_path / "one"), await up(client, tmp_path / "other", "v3")
    former = await serving(client, candidate.model_id)
    promoted = await client.promote(candidate.id, environment="production")
    await sandbox.control.fate(timeline="promotion", outcome="stuck")
    others = await in_background(client, other)
    with pytest.raises(Conflict, match="by somebody else"):
        await client.call_off(promoted.id, former, environment="production")
    await sandbox.control.release()
    after = await others
    await client.call_off(promoted.id, former, environment="production")
    assert await serving(client, candidate.model_id) == after.id


async def _runs(client: BasetenClient, model_id: str) -> bool:
    return await promotion_of(client, model_id) is not None
