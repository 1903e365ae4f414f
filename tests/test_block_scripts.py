"""Scripts of blocks/ that run again, on a real Prefect server: what a person has set stays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate, BlockTypeUpdate
from pydantic import SecretStr

from prefect_modeldeploy import DeploymentTarget, FreezeCalendar, Gateway, LocalServing
from prefect_modeldeploy.block_scripts import run, saved
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.home import Home
from tests.test_package import BLOCKS
from tests.test_top_level import ROOT, imported, variables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

LOCAL, TARGET, GATEWAY, REGISTER = (
    imported(ROOT / "blocks" / f"{name}.py") for name in ("create_local", "create_target", "create_gateway", "register")
)


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """A node by its address and token, as the scripts take them."""
    info = await ensure_node(tmp_path)
    yield {"MODELDEPLOY_URL": info.control_url, "MODELDEPLOY_TOKEN": Home(tmp_path).token().get_secret_value()}
    await stop_node(tmp_path)


@pytest.fixture
def name() -> str:
    return f"again-{uuid4().hex[:8]}"


@pytest.fixture
def environment(name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def environment(**given: str) -> None:
        for variable in {*variables(LOCAL), *variables(TARGET), *variables(GATEWAY)}:
            monkeypatch.delenv(variable, raising=False)
        names = dict.fromkeys(("MODELDEPLOY_TARGET", "MODELDEPLOY_SERVING", "MODELDEPLOY_GATEWAY"), name)
        for variable, value in {**names, **given}.items():
            monkeypatch.setenv(variable, value)

    return environment


async def in_the_ui(block: Block, **changes: Any) -> None:
    """Change fields of a saved block as the UI does, which sends what the block refers to every time."""
    parts = {field: value for field in type(block).model_fields if isinstance(value := getattr(block, field), Block)}
    for field, part in {**parts, **changes}.items():
        if isinstance(part, Block):
            changes[field] = {"$ref": {"block_document_id": str(part._block_document_id)}}
    assert block._block_document_id is not None
    async with get_client() as client:
        await client.update_block_document(block._block_document_id, BlockDocumentUpdate(data=changes))


async def test_a_script_changes_what_the_environment_says_and_nothing_else(
    node: dict[str, str], environment: Callable[..., None], name: str
) -> None:
    environment(**node, MODELDEPLOY_MODEL="digits")
    assert await LOCAL.main() == (
        f"created local-serving/{name}, created deployment-target/{name}; 0 deployments of digits"
    )
    gateway = Gateway(url=node["MODELDEPLOY_URL"], token=SecretStr(node["MODELDEPLOY_TOKEN"]))
    freeze = FreezeCalendar(when_frozen="hold")
    for block in (gateway, freeze):
        await block.save(name)
    target, serving = await DeploymentTarget.aload(name), await LocalServing.aload(name)
    liked = {"sample": {"x": [1, None]}, "notify": ["slack-webhook/ops"], "price_per_replica_hour": 2.5}
    await in_the_ui(target, gateway=gateway, freeze=freeze, **liked)
    await in_the_ui(serving, autostart=False)
    set_by_a_person = await DeploymentTarget.aload(name)
    assert set_by_a_person.gateway == gateway

    environment(MODELDEPLOY_MODEL="digits", MODELDEPLOY_ENDPOINT="numbers")  # the block knows address and token
    assert f"updated deployment-target/{name}" in await LOCAL.main()
    environment(MODELDEPLOY_MODEL="digits", MODELDEPLOY_CREDENTIALS=f"local-serving/{name}", MODELDEPLOY_PRICE="3")
    await TARGET.main()

    target, serving = await DeploymentTarget.aload(name), await LocalServing.aload(name)
    assert (serving.url, serving.autostart) == (node["MODELDEPLOY_URL"], False)
    new = {"credentials": serving, "endpoint": "numbers", "price_per_replica_hour": 3.0}
    assert target == set_by_a_person.model_copy(update=new)
    for part in (target.credentials, target.gateway, target.freeze):
        assert part is not None
        assert part._block_document_name == name, "a reference to the saved block, not a copy of it"

    environment(MODELDEPLOY_MODEL="fraud", MODELDEPLOY_CREDENTIALS=f"local-serving/{name}")
    await TARGET.main()
    assert (await DeploymentTarget.aload(name)).endpoint == "fraud", "the other endpoint was another model's"


async def test_a_gateway_keeps_the_node_that_it_was_saved_with(
    node: dict[str, str], environment: Callable[..., None], name: str, tmp_path: Path
) -> None:
    url, token = node["MODELDEPLOY_URL"], node["MODELDEPLOY_TOKEN"]
    nowhere = {"MODELDEPLOY_HOME": str(tmp_path / "no-node")}

    environment(**nowhere)
    assert await last_line(GATEWAY) == (
        f"MODELDEPLOY_GATEWAY_URL is not set, and no node runs in {tmp_path / 'no-node'}: "
        "start one with `modeldeploy node start`"
    )
    environment(**nowhere, MODELDEPLOY_GATEWAY_URL=url)
    assert (await last_line(GATEWAY)).startswith("MODELDEPLOY_GATEWAY_TOKEN is not set: ")
    environment(**nowhere, MODELDEPLOY_GATEWAY_URL=url, MODELDEPLOY_GATEWAY_TOKEN="wrong")
    refused = await last_line(GATEWAY)
    assert "401" in refused
    assert "wrong" not in refused
    assert await saved(Gateway, name) is None

    environment(MODELDEPLOY_HOME=str(tmp_path))  # the node of this user
    assert (await GATEWAY.main()).startswith(f"created model-gateway/{name}; clients call http")
    mine = await Gateway.aload(name)
    assert (mine.url, mine.token.get_secret_value()) == (url, token)

    environment(**nowhere, MODELDEPLOY_GATEWAY_ARMS_CA_FILE="/etc/ours.pem")  # no node, and none is needed
    assert (await GATEWAY.main()).startswith(f"updated model-gateway/{name}; ")
    now = await Gateway.aload(name)
    assert now == mine.model_copy(update={"arms_ca_file": "/etc/ours.pem"})

    environment(**nowhere, MODELDEPLOY_GATEWAY_URL=url)  # the token of this address is known
    await GATEWAY.main()
    environment(**nowhere, MODELDEPLOY_GATEWAY_URL="http://127.0.0.1:9")
    assert (await last_line(GATEWAY)).startswith("MODELDEPLOY_GATEWAY_TOKEN is not set: the node at http://127.0.0.1:9")
    assert await Gateway.aload(name) == now


async def last_line(script: ModuleType) -> str:
    """What a script that fails says."""

    def fail() -> str:
        with pytest.raises(SystemExit) as ended:
            run(script.main, script.VARIABLES)
        return str(ended.value.code)

    said = await asyncio.to_thread(fail)
    assert "\n" not in said
    return said


async def test_a_saved_block_that_cannot_be_read_is_named(name: str) -> None:
    calendar = FreezeCalendar()
    await calendar.save(name)
    await in_the_ui(calendar, when_frozen="of another version")
    with pytest.raises(InvalidInput, match=f"{name}.*freeze-calendar block that cannot be read"):
        await saved(FreezeCalendar, name)


async def test_all_block_types_are_registered_as_they_are_now() -> None:
    assert set(REGISTER.BLOCKS) == set(BLOCKS)
    await FreezeCalendar.aregister_type_and_schema()
    async with get_client() as client:
        former = await client.read_block_type_by_slug("freeze-calendar")
        await client.update_block_type(former.id, BlockTypeUpdate(description="of a former version"))
        said = await REGISTER.main()
        slugs = {block.get_block_type_slug() for block in BLOCKS}
        assert set(said.removeprefix("registered: ").split(", ")) == slugs
        found = {slug: await client.read_block_type_by_slug(slug) for slug in slugs}
    for block in BLOCKS:
        assert found[block.get_block_type_slug()].description == block._description
