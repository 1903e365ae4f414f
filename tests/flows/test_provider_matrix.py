"""Every pair of providers behind one endpoint: both arms answer the same, or the pair is refused. A test per cell."""

import ast
import importlib.util
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

import prefect_modeldeploy
from prefect_modeldeploy import DockerServing, Gateway
from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.providers.base import ServingCredentials
from prefect_modeldeploy.providers.matrix import fit, matrix
from prefect_modeldeploy.target import register_arms, router_of
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.flows import arms_kit
from tests.flows.arms_kit import Site
from tests.providers import scale_kit
from tests.sandbox.kit import running_sandbox

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

NAMES = ("baseten", "fiddler", "foundry", "gradient", "local", "scale", "scale v5")
PAGE = Path(prefect_modeldeploy.__file__).parent / "docs" / "canary-across-providers.md"
SCRIPT = Path(__file__).parents[2] / "blocks" / "create_gateway.py"


@dataclass
class World:
    """The same model on every provider."""

    site: Site
    blocks: dict[str, ServingCredentials]
    deployments: dict[str, str]


@pytest_asyncio.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    home = tmp_path_factory.mktemp("matrix")
    async with running_sandbox(*arms_kit.HOSTED) as sandbox, arms_kit.site(home, sandbox) as site:
        blocks = {name: arms_kit.credentials(site, name) for name in NAMES if name != "scale v5"}
        blocks["scale v5"] = scale_kit.credentials_of(sandbox, api="v5")
        deployments = {name: await arms_kit.deployment(site, name) for name in NAMES if name != "scale v5"}
        deployments["scale v5"] = await _on_v5(blocks["scale v5"])
        yield World(site, blocks, deployments)


async def _on_v5(block: ServingCredentials) -> str:
    from tests.providers.test_scale_v5 import spec

    async with block.get_client() as client:
        return (await client.create(spec())).id


@pytest.mark.parametrize(("stable", "canary"), list(product(NAMES, NAMES)), ids=lambda name: name.replace(" ", "-"))
async def test_a_pair_answers_alike_or_is_refused(world: World, stable: str, canary: str) -> None:
    site, blocks = world.site, world.blocks
    endpoint = f"{stable}-{canary}".replace(" ", "-")
    target = site.target(blocks[canary], endpoint=endpoint, other_credentials=blocks[stable])
    ids = {"stable": world.deployments[stable], "canary": world.deployments[canary]}
    if fit(blocks[stable], blocks[canary]) == "refused":
        with pytest.raises(UnsupportedOperation, match="use api='v4'"):
            await _put(target, ids)
        assert await site.node.list_arms() == []
        return
    await _put(target, ids)
    arms = {arm["id"]: arm["wire"] for arm in await site.node.list_arms()}
    adapted = "adapter" in arms.values()
    assert fit(blocks[stable], blocks[canary]) == ("adapter" if adapted else "native")
    url = await site.url(endpoint)
    answers = [await site.ask(url, {"x": 1}, arm) for arm in ids]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json() == {"sum": 1.0, "echo": {"x": 1}}
    await site.node.delete_endpoint(endpoint)


async def _put(target: Any, ids: dict[str, str]) -> None:
    await register_arms(target, ids.values())
    async with router_of(target) as (router, name):
        arms = tuple(EndpointArm(name=arm, upstream=id, weight=50) for arm, id in ids.items())
        await router.put_endpoint(Endpoint(name=name, arms=arms))


async def test_the_page_shows_the_matrix_that_the_providers_declare(world: World) -> None:
    shown = re.search(r"<!-- matrix -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    blocks = world.blocks | {"docker": DockerServing()}  # its own cells: tests/docker
    assert shown[1].strip() == matrix(dict(sorted(blocks.items())))


async def test_the_first_example_of_the_page_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site, example = world.site, re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    monkeypatch.setenv("MODELDEPLOY_GATEWAY_URL", site.gateway.url)
    monkeypatch.setenv("MODELDEPLOY_GATEWAY_TOKEN", site.gateway.token.get_secret_value())
    monkeypatch.setenv("PAPERSPACE_API_KEY", site.sandbox["gradient"]["api_key"])
    monkeypatch.setenv("GRADIENT_BASE_URL", site.sandbox["gradient"]["base_url"])
    monkeypatch.setenv("GRADIENT_DEPLOYMENT", world.deployments["gradient"])
    await eval(compile(example, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    assert (await site.ask(await site.url("fraud"), {"x": 2})).json()["sum"] == 2.0


def test_the_second_example_of_the_page_compiles() -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    compile(example, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_script_saves_the_gateway_of_this_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"gateway-{uuid4().hex[:8]}"  # a saved one would stay as it is
    monkeypatch.setenv("MODELDEPLOY_HOME", str(world.site.home))
    monkeypatch.setenv("MODELDEPLOY_GATEWAY", name)
    spec = importlib.util.spec_from_file_location("create_gateway", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    await script.main()
    saved = await Gateway.aload(name)
    assert (saved.url, saved.token) == (world.site.gateway.url, world.site.gateway.token)
