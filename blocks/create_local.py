"""Create or update the blocks for the serving node of this machine, or of another one.

    MODELDEPLOY_MODEL=digits python blocks/create_local.py

| variable               | meaning                                        | default      |
|------------------------|------------------------------------------------|--------------|
| MODELDEPLOY_MODEL      | name of the model                              | (required)   |
| MODELDEPLOY_ENDPOINT   | name of the address that clients call          | the model's  |
| MODELDEPLOY_TARGET     | name of the Deployment Target block            | production   |
| MODELDEPLOY_SERVING    | name of the Local Serving block                | local        |
| MODELDEPLOY_HOME       | directory of the node                          | ~/.modeldeploy |
| MODELDEPLOY_URL        | control API of a node on another machine       | that directory |
| MODELDEPLOY_TOKEN      | its bearer token                               | that directory |
| MODELDEPLOY_CA_FILE    | authorities to trust at that address           | those Python trusts |
"""

import asyncio
import os
import sys

from prefect_modeldeploy import DeploymentTarget, LocalServing

FIELDS = {
    "home": "MODELDEPLOY_HOME",
    "url": "MODELDEPLOY_URL",
    "token": "MODELDEPLOY_TOKEN",
    "ca_file": "MODELDEPLOY_CA_FILE",
}


async def main() -> None:
    model = os.environ.get("MODELDEPLOY_MODEL")
    if not model:
        sys.exit("MODELDEPLOY_MODEL is not set: give the name of the model that the target is about")
    given = {field: value for field, name in FIELDS.items() if (value := os.environ.get(name))}
    serving = LocalServing.model_validate(given)
    async with serving.get_client() as client:  # one harmless call: is the node there, and do we get in?
        found = await client.find(model=model)
    serving_name = os.environ.get("MODELDEPLOY_SERVING", "local")
    await serving.save(serving_name, overwrite=True)
    target = DeploymentTarget(
        credentials=await LocalServing.aload(serving_name),
        model=model,
        endpoint=os.environ.get("MODELDEPLOY_ENDPOINT", model),
    )
    target_name = os.environ.get("MODELDEPLOY_TARGET", "production")
    await target.save(target_name, overwrite=True)
    print(
        f"saved local-serving/{serving_name} and deployment-target/{target_name}; {len(found)} deployments of {model}"
    )


if __name__ == "__main__":
    asyncio.run(main())
