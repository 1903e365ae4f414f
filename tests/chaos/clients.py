"""Clients of what a provider has in production, at the vendor's own address of it."""

import json
from contextlib import AbstractAsyncContextManager

from prefect_modeldeploy import BasetenCredentials, Deployment, DeploymentTarget, ScaleCredentials
from prefect_modeldeploy.providers.scale import ScaleClient
from prefect_modeldeploy.target import client_of, router_of
from tests.flows.hosted import Hosted
from tests.traffic.load import Answers, load

PAYLOAD = {"x": 1}

_RATE = 25
"""Requests a second; the sandbox answers them in the process that sends them."""


async def calling(site: Hosted) -> AbstractAsyncContextManager[Answers]:
    """Clients that call production for as long as the block runs."""
    [serving] = await site.production()
    arm = site.target.credentials.arm(serving)
    body = json.dumps(arm.adapter.wrap(PAYLOAD) if arm.adapter else PAYLOAD).encode()
    headers = {name: value.get_secret_value() for name, value in arm.headers.items()}
    url = await _address(site.target, serving) or arm.url
    return load(url, rate=_RATE, connections=4, body=body, headers=headers)


async def _address(target: DeploymentTarget, serving: Deployment) -> str | None:
    """Where the vendor has an address of the role. None: clients name a deployment.

    Foundry and Gradient change that one in place. At Fiddler it is the former version, which has to answer still.
    """
    match target.credentials:
        case BasetenCredentials():
            async with router_of(target) as (router, name):
                return f"{await router.url(name)}/predict"
        case ScaleCredentials(base_url=base_url):
            async with client_of(target) as client:
                assert isinstance(client, ScaleClient)
                backends = {one.model_deployment_id: one.model_server_id for one in await client.servers.find()}
            return f"{base_url}/v4/serving/{backends[serving.id.rpartition('/')[2]]}/execute"
    return None
