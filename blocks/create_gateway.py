"""Create or update the Model Gateway block, after one harmless call that shows whether the node answers.

    MODELDEPLOY_GATEWAY_URL=... MODELDEPLOY_GATEWAY_TOKEN=... python blocks/create_gateway.py

| variable                         | meaning                                            | default               |
|----------------------------------|----------------------------------------------------|-----------------------|
| MODELDEPLOY_GATEWAY_URL          | address of the node's control API                  | the node of this user |
| MODELDEPLOY_GATEWAY_TOKEN        | its bearer token                                   | the node of this user |
| MODELDEPLOY_GATEWAY_CA_FILE      | authorities to trust at that address               | those Python trusts   |
| MODELDEPLOY_GATEWAY_ARMS_CA_FILE | authorities that the gateway trusts at providers   | those of its machine  |
| MODELDEPLOY_GATEWAY              | name of the block                                  | gateway               |
"""

import asyncio
import os
import sys

from prefect_modeldeploy import Gateway
from prefect_modeldeploy.errors import ModelDeployError, NodeError
from prefect_modeldeploy.local.home import Home

FIELDS = {
    "url": "MODELDEPLOY_GATEWAY_URL",
    "token": "MODELDEPLOY_GATEWAY_TOKEN",
    "ca_file": "MODELDEPLOY_GATEWAY_CA_FILE",
    "arms_ca_file": "MODELDEPLOY_GATEWAY_ARMS_CA_FILE",
}


async def main() -> None:
    given = {field: value for field, name in FIELDS.items() if (value := os.environ.get(name))}
    gateway = Gateway.model_validate({**_here(), **given})
    async with gateway.get_client() as client:
        status = await client.status()
    name = os.environ.get("MODELDEPLOY_GATEWAY", "gateway")
    await gateway.save(name, overwrite=True)
    print(f"saved model-gateway/{name}; clients call {status['gateway_url']}")


def _here() -> dict[str, str]:
    if FIELDS["url"] in os.environ:
        return {}
    home = Home()
    info = home.read_node()
    if info is None:
        raise NodeError(f"{FIELDS['url']} is not set, and no node runs in {home.directory}: `modeldeploy node start`")
    return {"url": info.control_url, "token": home.token().get_secret_value()}


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(f"gateway: {error}")
