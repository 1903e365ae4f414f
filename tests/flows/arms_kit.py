"""A gateway of its own, the five emulated providers, and a deployment of the same model on each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prefect.variables import Variable
from pydantic import SecretStr

from prefect_modeldeploy import BasetenCredentials, DeploymentSpec, DeploymentTarget, FoundryCredentials, LocalServing
from prefect_modeldeploy.gateway import Gateway
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.providers.base import ServingCredentials
from prefect_modeldeploy.tasks import _journal
from tests.flows.conftest import MODELS
from tests.providers import baseten_kit, fiddler_kit, gradient_kit, scale_kit
from tests.sandbox.kit import RunningSandbox

HOSTED = ("baseten", "fiddler", "foundry", "gradient", "scale")


@dataclass
class Site:
    """A node with its gateway, and a sandbox."""

    home: Path
    gateway: Gateway
    node: NodeClient
    sandbox: RunningSandbox

    def target(self, credentials: ServingCredentials, model: str = "m", endpoint: str = "prod", **more: Any) -> Any:
        fields = {"credentials": credentials, "model": model, "endpoint": endpoint, "gateway": self.gateway}
        return DeploymentTarget(**{**fields, **more})

    async def url(self, endpoint: str = "prod") -> str:
        return f"{await self.node.url(endpoint)}/predict"

    async def arms(self, endpoint: str = "prod") -> dict[str, tuple[str, float]]:
        return {arm.name: (arm.upstream, arm.weight) for arm in (await self.node.get_endpoint(endpoint)).arms}

    async def ask(self, url: str, payload: Any, arm: str | None = None) -> httpx.Response:
        headers = {"X-Modeldeploy-Arm": arm} if arm else {}
        # A proxy that has just reloaded answers one more request of each open connection by its former state.
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            return await http.post(url, json=payload, headers=headers)


@asynccontextmanager
async def site(home: Path, sandbox: RunningSandbox) -> AsyncIterator[Site]:
    """Start a node, and stop it in the end. Its endpoint "prod" is none that an earlier node had a rollout of."""
    async with gateway_at(home) as (gateway, node):
        await Variable.aunset(_journal.variable_name("prod"))
        try:
            yield Site(home, gateway, node, sandbox)
        finally:
            await stop_node(home)


@asynccontextmanager
async def gateway_at(home: Path) -> AsyncIterator[tuple[Gateway, NodeClient]]:
    """The gateway of a node that stays; it is started if it is not there."""
    info = await ensure_node(home)
    token = Home(home).token()
    async with NodeClient(info.control_url, token) as node:
        yield Gateway(url=info.control_url, token=token), node


def baseten(sandbox: RunningSandbox, **fields: Any) -> BasetenCredentials:
    ready = sandbox["baseten"]
    urls = {name: ready[name] for name in ("base_url", "inference_url")}
    return BasetenCredentials(api_key=SecretStr(ready["api_key"]), visible_seconds=1.0, **{**urls, **fields})


def foundry(sandbox: RunningSandbox) -> FoundryCredentials:
    """As an application, so that tokens must be renewed."""
    ready = sandbox["foundry"]
    secret = SecretStr(ready["client_secret"])
    return FoundryCredentials(base_url=ready["base_url"], client_id=ready["client_id"], client_secret=secret)


def credentials(site: Site, provider: str) -> ServingCredentials:
    makers: dict[str, Callable[[RunningSandbox], ServingCredentials]] = {
        "baseten": baseten,
        "fiddler": fiddler_kit.credentials,
        "foundry": foundry,
        "gradient": gradient_kit.block,
        "scale": scale_kit.credentials_of,
    }
    return LocalServing(home=site.home) if provider == "local" else makers[provider](site.sandbox)


async def deployment(site: Site, provider: str) -> str:
    """Id of a ready deployment of the sandbox's default model there."""
    sandbox = site.sandbox
    async with credentials(site, provider).get_client() as client:

        async def first(model: str) -> str:
            return (await client.find(model=model))[0].id

        async def created(spec: DeploymentSpec) -> str:
            made = await client.create(spec)
            async for _ in client.wait([made.id], lambda d: d.ready, timeout_seconds=30):
                pass
            return made.id

        echo = DeploymentSpec(
            name="echo",
            model="m",
            source="prefect_modeldeploy.sandbox.behaviours:echo",
            options={"python_path": [str(MODELS)]},
        )
        finders: dict[str, Callable[[], Awaitable[str]]] = {
            "baseten": lambda: _just(baseten_kit.seeded(sandbox)),
            "fiddler": lambda: _just(fiddler_kit.seed(sandbox)),
            "foundry": lambda: first(sandbox["foundry"]["seed"]["model_rid"]),
            "gradient": lambda: created(gradient_kit.a_spec("fraud")),
            "local": lambda: created(echo),
            "scale": lambda: first(sandbox["scale"]["seed"]["model_instance_id"]),
        }
        return await finders[provider]()


async def _just(value: str) -> str:
    return value
