"""Scale's V5 models in our vocabulary: one object deploys and serves, and a promotion is a rename."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
    Resources,
)
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, ProviderError
from prefect_modeldeploy.providers.scale import ScaleV5Client
from prefect_modeldeploy.sandbox.client import SandboxControl
from tests.providers.scale_kit import credentials_of, scale_sandbox
from tests.sandbox.kit import RunningSandbox

__all__ = ["scale_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")

IMAGE = "registry.example/team/fraud:1"


def spec(name: str = "fraud-1", **fields: Any) -> DeploymentSpec:
    options = {"command": ["serve"], **fields.pop("options", {})}
    return DeploymentSpec(name=name, **{"model": "fraud", "source": IMAGE, "options": options, **fields})


@pytest_asyncio.fixture
async def client(scale_sandbox: RunningSandbox) -> AsyncIterator[ScaleV5Client]:
    await scale_sandbox.control.reset()
    credentials = credentials_of(scale_sandbox, api="v5")
    async with credentials.get_client() as found:
        assert isinstance(found, ScaleV5Client)
        yield found


@pytest.fixture
def control(scale_sandbox: RunningSandbox) -> SandboxControl:
    return scale_sandbox.control


async def records(control: SandboxControl) -> list[dict[str, Any]]:
    return list((await control.table("scale", "v5")).values())


async def test_a_model_is_created_from_an_image_and_serves(client: ScaleV5Client, control: SandboxControl) -> None:
    made = await client.create(
        spec(
            version="3",
            env={"A": "1"},
            autoscaling=Autoscaling(min_replicas=1, max_replicas=2, target_concurrency=4),
            resources=Resources(cpu_millicores=2000, memory_mib=2048),
            options={"predict_route": "/p", "endpoint_type": "sync", "labels": {"team": "risk"}},
        )
    )
    assert (made.status, made.ready, made.model_id, made.version) == (DeploymentStatus.READY, True, "fraud", "3")
    assert made.autoscaling == Autoscaling(min_replicas=1, max_replicas=2, target_concurrency=4)
    assert made.resources is not None
    assert made.resources.memory_mib == 2048
    assert made.tags == ("team=risk",)
    [record] = await records(control)
    image = record["vendor_configuration"]["model_image"]
    assert (image["registry"], image["repository"], image["tag"]) == ("registry.example", "team/fraud", "1")
    assert (image["command"], image["env_vars"], image["predict_route"]) == (["serve"], {"A": "1"}, "/p")
    assert await client.predict(made.id, {"x": 2}) == {"sum": 2, "echo": {"x": 2}}


async def test_an_llmengine_model_is_created_by_its_name(client: ScaleV5Client, control: SandboxControl) -> None:
    options = {"model_vendor": "llmengine", "inference_framework": "vllm", "num_shards": 1}
    made = await client.create(DeploymentSpec(name="llm", model="llm", source="llama", options=options))
    [record] = await records(control)
    assert record["vendor_configuration"]["model"] == "llama"
    assert (await client.scale(made.id, Autoscaling(max_replicas=3))).autoscaling is not None


async def test_the_same_spec_twice_is_one_model_also_when_an_answer_is_lost(
    client: ScaleV5Client, control: SandboxControl
) -> None:
    await control.fault(kind="lost_answer", method="POST", path="/v5/models")
    first, again = await client.create(spec()), await client.create(spec())
    assert first.id == again.id
    with pytest.raises(Conflict):
        await client.create(spec(version="2"))
    assert len(await records(control)) == 1


async def test_a_lost_creation_that_is_listed_late_is_still_found(
    client: ScaleV5Client, control: SandboxControl
) -> None:
    await control.fault(kind="lost_answer", method="POST", path="/v5/models")
    await control.fate(outcome="late", reads=2)
    await client.create(spec())
    assert len(await records(control)) == 1


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("source", {"source": None}),
        ("source", {"source": "no-tag"}),
        ("source", {"source": "registry/repository"}),
        ("options.command", {"options": {"command": []}}),
        ("options.num_shards", {"options": {"num_shards": 2}}),
        ("options.typo", {"options": {"typo": 2}}),
        (
            "env",
            {"source": "llama", "env": {"KEY": "hush-hush"}, "options": {"model_vendor": "llmengine", "command": None}},
        ),
        ("autoscaling.window_seconds", {"autoscaling": Autoscaling(window_seconds=1)}),
        ("resources.cpu_millicores", {"resources": Resources(cpu_millicores=1500)}),
    ],
)
async def test_what_v5_cannot_take_is_refused_by_name(
    client: ScaleV5Client, control: SandboxControl, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.create(spec(**fields))
    assert caught.value.field == field
    assert "hush-hush" not in str(caught.value)
    assert await control.requests() == []


async def test_an_update_redeploys_with_what_it_names(client: ScaleV5Client, control: SandboxControl) -> None:
    made = await client.create(spec(autoscaling=Autoscaling(max_replicas=2)))
    update = DeploymentUpdate(
        version="4", source="registry.example/team/fraud:2", autoscaling=Autoscaling(min_replicas=1)
    )
    changed = await client.update(made.id, update)
    [record] = await records(control)
    assert record["vendor_configuration"]["model_image"]["tag"] == "2"
    assert record["vendor_configuration"]["model_image"]["command"] == ["serve"]
    assert changed.autoscaling == Autoscaling(min_replicas=1, max_replicas=2, target_concurrency=10)
    assert changed.version == "4"
    with pytest.raises(InvalidInput, match="for good"):
        await client.update(made.id, DeploymentUpdate(options={"model_vendor": "llmengine"}))


async def test_zero_and_wake_keep_the_bounds(client: ScaleV5Client) -> None:
    made = await client.create(spec(autoscaling=Autoscaling(min_replicas=2, max_replicas=3)))
    assert (await client.scale_to_zero(made.id)).status is DeploymentStatus.SCALED_TO_ZERO
    assert (await client.scale_to_zero(made.id)).status is DeploymentStatus.SCALED_TO_ZERO
    for _ in range(2):
        awake = await client.wake(made.id)
        assert awake.status is DeploymentStatus.READY
        assert awake.autoscaling == Autoscaling(min_replicas=2, max_replicas=3, target_concurrency=10)
    await client.scale(made.id, Autoscaling(min_replicas=1))
    await client.scale_to_zero(made.id)
    assert (await client.wake(made.id)).autoscaling == Autoscaling(
        min_replicas=1, max_replicas=3, target_concurrency=10
    )


async def test_promoting_exchanges_names_and_rolling_back_returns_them(
    client: ScaleV5Client, control: SandboxControl
) -> None:
    first, second = await client.create(spec("fraud-1")), await client.create(spec("fraud-2", version="2"))
    await client.promote(first.id, environment="production")
    promoted = await client.promote(second.id, environment="production")
    assert promoted.name == "fraud-production"
    assert (await client.get(first.id)).name == "fraud-2"
    assert (await client.promote(second.id, environment="production")).name == "fraud-production"
    restored = await client.roll_back(second.id, environment="production")
    assert (restored.id, restored.name) == (first.id, "fraud-production")
    assert (await client.roll_back(second.id, environment="production")).id == first.id
    assert (await client.get(first.id)).name == "fraud-production"


async def test_rolling_back_what_does_not_serve_any_more_changes_nothing(
    client: ScaleV5Client, control: SandboxControl
) -> None:
    made = [await client.create(spec(f"fraud-{number}", version=str(number))) for number in range(3)]
    for one in made:
        await client.promote(one.id, environment="production")
    await client.roll_back(made[1].id, environment="production")
    assert (await client.get(made[2].id)).name == "fraud-production"


async def test_a_change_sends_the_whole_part_that_it_changes(client: ScaleV5Client, control: SandboxControl) -> None:
    """Whether the vendor merges below `model_infra` is unknown."""
    made = await client.create(spec(autoscaling=Autoscaling(max_replicas=3), options={"labels": {"team": "risk"}}))
    await client.scale(made.id, Autoscaling(min_replicas=1))
    [patch] = await control.requests(method="PATCH")
    sent = patch.body["vendor_configuration"]
    assert set(sent) == {"model_infra"}
    assert {**sent["model_infra"], "min_workers": 1, "max_workers": 3, "labels": {"team": "risk"}} == sent[
        "model_infra"
    ]


async def test_a_swap_whose_answer_was_lost_swaps_once(client: ScaleV5Client, control: SandboxControl) -> None:
    first, second = await client.create(spec("fraud-1")), await client.create(spec("fraud-2", version="2"))
    await client.promote(first.id, environment="production")
    await control.fault(kind="lost_answer", method="PATCH", skip=1)
    await client.promote(second.id, environment="production")
    names = {record["id"]: record["name"] for record in await records(control)}
    assert names == {first.id: "fraud-2", second.id: "fraud-production"}


async def test_there_is_no_way_back_without_a_promotion(client: ScaleV5Client) -> None:
    made = await client.create(spec())
    with pytest.raises(NotFound, match="no name from another model"):
        await client.roll_back(made.id, environment="production")


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [("stuck", DeploymentStatus.STARTING, None), ("fail", DeploymentStatus.FAILED, "no image")],
)
async def test_words_of_the_vendor_have_a_status(
    client: ScaleV5Client, control: SandboxControl, outcome: str, status: DeploymentStatus, reason: str | None
) -> None:
    await control.fate(outcome=outcome, timeline="v5", reason="no image")
    made = await client.create(spec())
    assert (made.status, made.ready, made.reason) == (status, False, reason)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": "deployment_timeout"}, DeploymentStatus.FAILED),
        ({"status": "ready", "model_availability": "unavailable"}, DeploymentStatus.DEGRADED),
        ({"status": "ready", "model_availability": "unknown"}, DeploymentStatus.READY),
        ({"status": "hibernating"}, DeploymentStatus.UNKNOWN),
        ({}, DeploymentStatus.UNKNOWN),
    ],
)
def test_so_do_words_that_the_sandbox_never_says(answer: dict[str, Any], status: DeploymentStatus) -> None:
    assert ScaleV5Client(None, "https://x")._translated(answer).status is status  # type: ignore[arg-type]


async def test_a_model_is_deleted_once_and_twice_but_not_while_it_deploys(
    client: ScaleV5Client, control: SandboxControl
) -> None:
    made = await client.create(spec())
    await client.delete(made.id)
    await client.delete(made.id)
    with pytest.raises(NotFound):
        await client.get(made.id)
    await control.fate(outcome="stuck", timeline="v5")
    busy = await client.create(spec("busy"))
    with pytest.raises(Conflict):
        await client.delete(busy.id)
    await control.release("busy")
    await client.delete(busy.id)


async def test_all_pages_are_read_and_filtered_by_model(client: ScaleV5Client) -> None:
    for number in range(3):
        await client.create(spec(f"m-{number}"))
    await client.create(spec("other", model="other"))
    assert [one.name for one in await client.find(model="fraud")] == ["m-0", "m-1", "m-2"]
    assert len(await client.find()) == 4
    items = [one async for one in client._items(limit=1)]
    assert len(items) == 4


async def test_requests_that_v5_cannot_take_are_refused_by_name(client: ScaleV5Client) -> None:
    made = await client.create(spec())
    with pytest.raises(InvalidInput, match="path"):
        await client.predict(made.id, {}, path="completions")
    with pytest.raises(InvalidInput, match="payload='list'"):
        await client.predict(made.id, ["hush-hush"])
    with pytest.raises(ProviderError):
        await client.predict("no-such-model", {})


def test_the_block_says_what_the_chosen_api_can(scale_sandbox: RunningSandbox) -> None:
    assert credentials_of(scale_sandbox, api="v5").can(Capability.CREATE)
    assert not credentials_of(scale_sandbox, api="v5").can(Capability.LOGS)
