"""The same creation by several at the same moment: one deployment is there in the end, and everybody gets that one.

The callers share nothing: each has a client, or a process, of its own. Requests are held up for times of chance, so
that all have looked, and found nothing, before the first creation takes effect.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_modeldeploy import DeploymentSpec
from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.providers.base import ServingCredentials
from prefect_modeldeploy.sandbox.client import SandboxControl
from tests.flows.hosted import MAKERS
from tests.providers import baseten_kit, foundry_kit, gradient_kit, scale_kit, test_scale_v5
from tests.sandbox.kit import running_sandbox

pytestmark = pytest.mark.slow

PLACES = {
    "baseten": "deployments",
    "baseten, a new model": "deployments",
    "baseten, a new model, were a name to have two": "deployments",
    "fiddler": "models",
    "foundry": "live",
    "foundry, were a branch to take two": "live",
    "gradient": "deployments",
    "gradient, graphql": "deployments",
    "scale": "deployments",
    "scale, v5": "v5",
}
"""Where, and the emulator's table of what was created."""


@dataclass
class Place:
    """Where the same is created by all."""

    name: str
    control: SandboxControl
    block: ServingCredentials
    spec: DeploymentSpec
    before: frozenset[str] = frozenset()

    async def all(self) -> dict[str, dict[str, Any]]:
        table = await self.control.table(self.name.partition(",")[0], PLACES[self.name])
        gone = ("delete", "disable")  # Foundry's API cannot delete
        return {id: one for id, one in table.items() if one.get("life", {}).get("timeline") not in gone}

    async def new(self) -> list[str]:
        return [id for id in await self.all() if id not in self.before]

    async def hold_up(self, seed: int) -> None:
        """Half of all requests take effect late, each by one of three times."""
        for number, seconds in enumerate((0.03, 0.1, 0.3)):
            await self.control.fault(
                kind="delay", seconds=seconds, times=None, probability=0.2, seed=10 * seed + number
            )


@asynccontextmanager
async def place(name: str, directory: Path) -> AsyncIterator[Place]:
    provider = name.partition(",")[0]
    permissive = {"baseten": baseten_kit.Permissive, "foundry": foundry_kit.Permissive}
    emulator = permissive[provider] if "two" in name else provider
    async with running_sandbox(emulator) as sandbox:
        site = await MAKERS[provider](sandbox, directory)
        found = Place(name, site.control, site.target.credentials, site.candidate)
        match name:
            case "baseten, a new model" | "baseten, a new model, were a name to have two":
                found.spec = found.spec.model_copy(update={"model": "brand-new"})
            case "gradient, graphql":
                found.block, found.spec = gradient_kit.block(sandbox, "graphql"), gradient_kit.graph_spec("fraud-9")
            case "scale, v5":
                found.block, found.spec = scale_kit.credentials_of(sandbox, api="v5"), test_scale_v5.spec()
        found.before = frozenset(await found.all())
        yield found


async def by_clients(here: Place, callers: int) -> list[Deployment]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(here.block.get_client()) for _ in range(callers)]
        return list(await asyncio.gather(*(client.create(here.spec) for client in clients)))


@pytest.mark.parametrize("callers", [2, 10])
@pytest.mark.parametrize("name", PLACES)
async def test_by_clients(name: str, callers: int, tmp_path: Path) -> None:
    async with place(name, tmp_path) as here:
        await here.hold_up(seed=callers)
        made = await by_clients(here, callers)
        [left] = await here.new()
        assert {one.id.rpartition("/")[2] for one in made} == {left}


PROCESS = """
import asyncio, importlib, json, sys
from prefect_modeldeploy import DeploymentSpec

async def create(module, kind, fields, spec):
    block = getattr(importlib.import_module(module), kind)(**fields)
    async with block.get_client() as client:
        return (await client.create(DeploymentSpec(**spec))).id

for line in sys.stdin:
    print(asyncio.run(create(*json.loads(line))), flush=True)
"""


def told(here: Place) -> bytes:
    """The block and the spec, as a process is told them."""
    fields = here.block.model_dump(include={*type(here.block).model_fields})
    plain = {name: one.get_secret_value() if isinstance(one, SecretStr) else one for name, one in fields.items()}
    kind = type(here.block)
    return json.dumps([kind.__module__, kind.__name__, plain, here.spec.model_dump(mode="json")]).encode() + b"\n"


async def test_by_processes(tmp_path: Path) -> None:
    """Two processes, at all providers one after the other."""
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    pair = [await asyncio.create_subprocess_exec(sys.executable, "-c", PROCESS, **pipes) for _ in range(2)]
    try:
        for name in PLACES:
            async with place(name, tmp_path / name) as here:
                await here.hold_up(seed=1)
                for one in pair:
                    assert one.stdin is not None
                    one.stdin.write(told(here))
                answers = [(await one.stdout.readline()).decode().strip() for one in pair if one.stdout is not None]
                [left] = await here.new()
                assert {answer.rpartition("/")[2] for answer in answers} == {left}, name
    finally:
        for one in pair:
            one.kill()
            await one.wait()
