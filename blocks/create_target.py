"""Create or update a Deployment Target block for any provider, after one harmless call through its credentials.

    MODELDEPLOY_MODEL=fraud MODELDEPLOY_CREDENTIALS=baseten-credentials/baseten MODELDEPLOY_GATEWAY=gateway \
        python blocks/create_target.py

| variable                | meaning                                                         | default     |
|-------------------------|-----------------------------------------------------------------|-------------|
| MODELDEPLOY_MODEL       | name or id of the model at the provider                         | (required)  |
| MODELDEPLOY_CREDENTIALS | type and name of the provider's saved block, as above           | (required)  |
| MODELDEPLOY_GATEWAY     | name of the saved Model Gateway block that splits the traffic   | none        |
| MODELDEPLOY_ENDPOINT    | name of the address that clients call                           | the model's |
| MODELDEPLOY_ENVIRONMENT | role of the endpoint                                            | production  |
| MODELDEPLOY_PRICE       | price of one replica hour, for reports                          | unknown     |
| MODELDEPLOY_TARGET      | name of the block                                               | production  |
"""

import os
from typing import Any, get_args

from prefect_modeldeploy import Gateway
from prefect_modeldeploy.block_scripts import changed_target, given, run, save
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers import Credentials

VARIABLES = {
    "model": "MODELDEPLOY_MODEL",
    "endpoint": "MODELDEPLOY_ENDPOINT",
    "environment": "MODELDEPLOY_ENVIRONMENT",
    "price_per_replica_hour": "MODELDEPLOY_PRICE",
    "credentials": "MODELDEPLOY_CREDENTIALS",
}
KINDS = {kind.get_block_type_slug(): kind for kind in get_args(Credentials)}


async def main() -> str:
    fields: dict[str, Any] = given(VARIABLES, "model", "credentials")
    fields["credentials"] = await _credentials(fields["credentials"])
    if gateway := os.environ.get("MODELDEPLOY_GATEWAY"):
        fields["gateway"] = await Gateway.aload(gateway)
    name = os.environ.get("MODELDEPLOY_TARGET", "production")
    target = await changed_target(name, fields)
    async with target.credentials.get_client() as client:
        found = await client.find(model=target.model)
    done = await save(target, name)
    splits = "" if target.splits else "; canary rollouts need a MODELDEPLOY_GATEWAY as well"
    return f"{done}; {len(found)} deployments of {target.model}{splits}"


async def _credentials(address: str) -> Any:
    slug, _, name = address.partition("/")
    if slug not in KINDS or not name:
        hint = f"must be a type and a name with a slash between; types are {', '.join(sorted(KINDS))}"
        raise InvalidInput("credentials", address, hint)
    return await KINDS[slug].aload(name)


if __name__ == "__main__":
    run(main, VARIABLES)
