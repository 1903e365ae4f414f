"""Scale's models, templates, groups and model servers: what V4 has besides deployments."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, ProviderError
from prefect_modeldeploy.providers.scale.schemas import (
    Bundle,
    EndpointConfiguration,
    GroupPatch,
    ModelPatch,
    NewGroup,
    NewModel,
    NewTemplate,
    TemplateConfiguration,
)
from tests.providers.scale_kit import Account, account, account_in, scale_sandbox
from tests.sandbox.kit import RunningSandbox

__all__ = ["account", "scale_sandbox"]

TEMPLATE = NewTemplate(
    name="t",
    endpoint_type="SYNC",
    model_type="GENERIC",
    vendor_configuration=TemplateConfiguration(
        bundle_config=Bundle(registry="r", image="i", tag="1", env={"A": "1"}),
        endpoint_config=EndpointConfiguration(max_workers=3),
    ),
)


async def test_a_model_is_made_from_a_template_and_deployed(account: Account) -> None:
    client = account.client
    template = await client.templates.create(TEMPLATE)
    assert (await client.templates.get(template.id)).name == "t"
    assert [one.id for one in await client.templates.find()] == [template.id]
    model = await client.models.create(
        NewModel(name="fraud-2", model_type="GENERIC", model_vendor="LAUNCH", model_template_id=template.id)
    )
    made = await account.deploy(model="fraud-2")
    assert made.model_id == model.id
    seen = await client.models.get(model.id, views=["Deployments", "ModelGroup"])
    assert seen.deployment_count == 1
    assert seen.deployments is not None
    assert [one.name for one in seen.deployments] == ["fraud-v2"]


async def test_a_wait_finds_a_deployment_of_a_new_version_of_the_model(account: Account) -> None:
    """A new version of a model is a new model at Scale; the target still names the old one."""
    await account.client.models.create(NewModel(name="fraud-2", model_type="GENERIC", model_vendor="LAUNCH"))
    made = await account.deploy(model="fraud-2")
    [seen] = [found async for found in account.client.wait([made.id], lambda d: d.ready, model="fraud")]
    assert seen[0].ready


async def test_a_model_is_changed_and_deleted(account: Account) -> None:
    client = account.client
    model = await client.models.create(NewModel(name="m", model_type="GENERIC", model_vendor="LAUNCH"))
    changed = await client.models.update(model.id, ModelPatch(display_name="y", description="x"))
    assert (changed.raw["display_name"], changed.raw["description"]) == ("y", "x")
    assert [one.name for one in await client.models.find(sort_by="name:desc")] == ["m", "fraud"]
    assert await client.models.find(model_type="EMBEDDING") == []
    await client.models.delete(model.id)
    await client.models.delete(model.id)
    with pytest.raises(NotFound):
        await client.models.get(model.id)


async def test_groups_hold_models(account: Account) -> None:
    client = account.client
    group = await client.groups.create(NewGroup(name="g"))
    assert (await client.groups.create(NewGroup(name="g"))).id == group.id
    assert (await client.groups.add_model(group.id, account.model_id)).model_group_id == group.id
    assert [one.name for one in await client.models.find(model_group_id=group.id, views=["ModelGroup"])] == ["fraud"]
    assert (await client.groups.update(group.id, GroupPatch(description="d"))).description == "d"
    assert (await client.groups.get(group.id)).description == "d"
    day = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    assert len((await client.groups.usage(group.id, *day, chunks=3)).data) == 3
    await client.groups.delete(group.id)
    assert await client.groups.find() == []
    await client.templates.delete("gone")


async def test_the_same_name_with_other_fields_is_a_conflict(account: Account) -> None:
    await account.client.templates.create(TEMPLATE)
    assert (await account.client.templates.create(TEMPLATE)).name == "t"
    with pytest.raises(Conflict, match="endpoint_type"):
        await account.client.templates.create(TEMPLATE.model_copy(update={"endpoint_type": "ASYNC"}))
    assert len(await account.client.templates.find()) == 1


async def test_without_an_account_nothing_that_needs_one_is_created(scale_sandbox: RunningSandbox) -> None:
    async with account_in(scale_sandbox, account_id=None) as account:
        with pytest.raises(InvalidInput, match="account_id"):
            await account.client.groups.create(NewGroup(name="g"))
        assert [one.name for one in await account.client.find()] == ["fraud-v1"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (NewModel, {"name": "m", "model_type": "WAT"}),
        (NewModel, {"name": "m", "model_type": "GENERIC", "typo": 1}),
        (NewTemplate, {"name": "t"}),
        (EndpointConfiguration, {"gpu_type": "tpu"}),
        (EndpointConfiguration, {"per_worker": 0}),
        (NewGroup, {"name": ""}),
    ],
)
def test_a_request_that_the_vendor_would_refuse_cannot_be_made(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**fields)


@pytest.mark.parametrize(("field", "chunks", "days"), [("chunks", 0, (1, 2)), ("end", 1, (2, 2)), ("end", 1, (2, 1))])
async def test_a_period_that_makes_no_sense_is_refused(
    account: Account, field: str, chunks: int, days: tuple[int, int]
) -> None:
    start, end = (datetime(2026, 1, day, tzinfo=UTC) for day in days)
    with pytest.raises(InvalidInput) as caught:
        await account.client.models.usage("fraud", start, end, chunks)
    assert caught.value.field == field


# --- environments -----------------------------------------------------------------------------------------------------


async def roles(account: Account) -> dict[str, str | None]:
    found = await account.client.find(model=account.model_id)
    assert found == [await account.client.get(one.id) for one in found]
    everywhere = await account.client.find()
    assert [one for one in everywhere if one.model_id == account.model_id] == found
    return {one.name: one.environment for one in found}


async def test_an_environment_belongs_to_what_its_server_serves_from(account: Account) -> None:
    first, second = await account.seeded(), await account.deploy()
    assert await roles(account) == {"fraud-v1": None, "fraud-v2": "production"}
    assert (await account.client.promote(first.id, environment="production")).environment == "production"
    assert await roles(account) == {"fraud-v1": "production", "fraud-v2": None}
    await account.client.models.create(NewModel(name="other", model_type="GENERIC", model_vendor="LAUNCH"))
    await account.deploy("of-another-model", model="other")
    await account.client.promote(second.id, environment="production")
    assert await roles(account) == {"fraud-v1": None, "fraud-v2": "production"}
    assert (await account.client.roll_back(second.id, environment="production")).environment == "production"
    assert await roles(account) == {"fraud-v1": "production", "fraud-v2": None}


async def test_a_server_of_the_users_own_gives_its_alias_as_environment(account: Account) -> None:
    await account.client.servers.create("any name", (await account.seeded()).raw["id"], alias="main")
    assert await roles(account) == {"fraud-v1": "main"}


@pytest.mark.parametrize("status", [403, 404])
async def test_a_key_that_may_not_see_servers_gets_the_labels(account: Account, status: int) -> None:
    await account.deploy(environment="staging")
    await account.client.promote((await account.seeded()).id, environment="staging")
    await account.control.fault(kind="status", status=status, path="/v4/serving", times=None)
    found = {one.name: one.environment for one in await account.client.find(model=account.model_id)}
    assert found == {"fraud-v1": None, "fraud-v2": "staging"}


# --- model servers ----------------------------------------------------------------------------------------------------


async def test_promoting_makes_a_server_and_then_swaps_its_backend(account: Account) -> None:
    first, second = await account.seeded(), await account.deploy()
    await account.client.promote(first.id, environment="production")
    [server] = await account.client.servers.find()
    assert (server.name, server.alias) == ("fraud-production", "fraud-production")
    await account.client.promote(second.id, environment="production")
    assert second.id.endswith(await account.client.servers.backend(server.model_server_id))
    assert (await account.client.servers.get_by_alias("fraud-production")) == (
        await account.client.servers.get(server.model_server_id)
    )
    assert len(await account.client.servers.find()) == 1


async def test_an_environment_can_be_the_alias_of_a_server_so_that_versions_share_it(account: Account) -> None:
    server = await account.client.servers.create("any name", (await account.seeded()).raw["id"], alias="fraud-prod")
    await account.client.models.create(NewModel(name="fraud-2", model_type="GENERIC", model_vendor="LAUNCH"))
    second = await account.deploy(model="fraud-2")
    await account.client.promote(second.id, environment="fraud-prod")
    assert second.id.endswith(await account.client.servers.backend(server.model_server_id))
    await account.client.promote((await account.seeded()).id, environment=server.model_server_id)
    assert len(await account.client.servers.find()) == 1


async def test_a_server_answers_by_its_backend(account: Account) -> None:
    first, second = await account.seeded(), await account.deploy()
    await account.control.behave(match="fraud-v2", callable="tests.providers.scale_kit:second_version")
    server = await account.client.servers.create("s", first.raw["id"], alias="a")
    assert (await account.client.servers.execute(server.model_server_id, {"x": 4}))["sum"] == 4
    await account.client.servers.swap_backend(server.model_server_id, second.raw["id"])
    assert (await account.client.servers.execute_alias("a", {"x": 4}))["version"] == 2


async def test_a_server_is_made_once_and_never_renamed(account: Account) -> None:
    seeded = (await account.seeded()).raw["id"]
    server = await account.client.servers.create("s", seeded, alias="a")
    assert (await account.client.servers.create("s", seeded, alias="a")).model_server_id == server.model_server_id
    with pytest.raises(Conflict, match="alias"):
        await account.client.servers.create("s", seeded, alias="b")
    with pytest.raises(Conflict, match="alias"):
        await account.client.servers.create("other", seeded, alias="a")


async def test_a_backend_must_exist(account: Account) -> None:
    server = await account.client.servers.create("s", (await account.seeded()).raw["id"])
    with pytest.raises(NotFound):
        await account.client.servers.swap_backend(server.model_server_id, "no-such-deployment")


async def test_built_in_models_cannot_be_changed(account: Account) -> None:
    model = await account.client.models.create(NewModel(name="gpt", model_type="COMPLETION", model_vendor="OPENAI"))
    [deployment] = await account.client.find(model=model.id)
    assert deployment.ready
    with pytest.raises(ProviderError, match="built-in"):
        await account.client.delete(deployment.id)
