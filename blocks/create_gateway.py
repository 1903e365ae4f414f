"""Create or update the Model Gateway block, after one harmless call that shows whether the node answers.

    MODELDEPLOY_GATEWAY_URL=... MODELDEPLOY_GATEWAY_TOKEN=... python blocks/create_gateway.py

| variable                         | meaning                                          | default               |
|----------------------------------|--------------------------------------------------|-----------------------|
| MODELDEPLOY_GATEWAY_URL          | address of the node's control API                | as saved; at first,   |
|                                  |                                                  | the node of this user |
| MODELDEPLOY_GATEWAY_TOKEN        | its bearer token; required with another address  | as saved; at first,   |
|                                  |                                                  | that of this node     |
| MODELDEPLOY_GATEWAY_CA_FILE      | authorities to trust at that address             | those Python trusts   |
| MODELDEPLOY_GATEWAY_ARMS_CA_FILE | authorities that the gateway trusts at providers | those of its machine  |
| MODELDEPLOY_GATEWAY              | name of the block                                | gateway               |
"""

import os

from prefect_modeldeploy import Gateway
from prefect_modeldeploy.block_scripts import changed, given, required, run, save, saved
from prefect_modeldeploy.errors import NodeError
from prefect_modeldeploy.local.home import Home

VARIABLES = {
    "url": "MODELDEPLOY_GATEWAY_URL",
    "token": "MODELDEPLOY_GATEWAY_TOKEN",
    "ca_file": "MODELDEPLOY_GATEWAY_CA_FILE",
    "arms_ca_file": "MODELDEPLOY_GATEWAY_ARMS_CA_FILE",
}


async def main() -> str:
    name = os.environ.get("MODELDEPLOY_GATEWAY", "gateway")
    former, fields = await saved(Gateway, name), given(VARIABLES)
    if "url" in fields and (former is None or former.url != fields["url"]):
        required(VARIABLES["token"], f"the node at {fields['url']} is a new one, and another's is not sent there")
        former = None  # whom to trust is another question there, too
    elif former is None:
        fields = {**_here(), **fields}
    gateway = changed(Gateway, former, fields)
    async with gateway.get_client() as client:
        status = await client.status()
    done = await save(gateway, name)
    return f"{done}; clients call {status['gateway_url']}"


def _here() -> dict[str, str]:
    home = Home()
    info = home.read_node()
    if info is None:
        hint = f"no node runs in {home.directory}: start one with `modeldeploy node start`"
        raise NodeError(f"{VARIABLES['url']} is not set, and {hint}")
    return {"url": info.control_url, "token": home.token().get_secret_value()}


if __name__ == "__main__":
    run(main, VARIABLES)
