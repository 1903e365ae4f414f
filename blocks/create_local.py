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

import os

from prefect_modeldeploy import DeploymentTarget, LocalServing
from prefect_modeldeploy.block_scripts import given, required, run, save

VARIABLES = {
    "home": "MODELDEPLOY_HOME",
    "url": "MODELDEPLOY_URL",
    "token": "MODELDEPLOY_TOKEN",
    "ca_file": "MODELDEPLOY_CA_FILE",
    "model": "MODELDEPLOY_MODEL",
    "endpoint": "MODELDEPLOY_ENDPOINT",
}


async def main() -> str:
    model = required("MODELDEPLOY_MODEL")
    fields = given(VARIABLES)
    endpoint = fields.pop("endpoint", fields.pop("model"))
    serving = LocalServing.model_validate(fields)
    async with serving.get_client() as client:  # one harmless call: is the node there, and do we get in?
        found = await client.find(model=model)
    target = DeploymentTarget(credentials=serving, model=model, endpoint=endpoint)  # before anything is saved
    name = os.environ.get("MODELDEPLOY_SERVING", "local")
    done = await save(serving, name)
    target.credentials = await LocalServing.aload(name)
    also = await save(target, os.environ.get("MODELDEPLOY_TARGET", "production"))
    return f"{done}, {also}; {len(found)} deployments of {model}"


if __name__ == "__main__":
    run(main, {**VARIABLES, "base_url": VARIABLES["url"]})
