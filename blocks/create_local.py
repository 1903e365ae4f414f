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

from prefect_modeldeploy import LocalServing
from prefect_modeldeploy.block_scripts import changed, changed_target, given, run, save, saved

VARIABLES = {
    "home": "MODELDEPLOY_HOME",
    "url": "MODELDEPLOY_URL",
    "token": "MODELDEPLOY_TOKEN",
    "ca_file": "MODELDEPLOY_CA_FILE",
}
OF_THE_TARGET = {"model": "MODELDEPLOY_MODEL", "endpoint": "MODELDEPLOY_ENDPOINT"}


async def main() -> str:
    fields = given(OF_THE_TARGET, "model")
    name = os.environ.get("MODELDEPLOY_SERVING", "local")
    target_name = os.environ.get("MODELDEPLOY_TARGET", "production")
    serving = changed(LocalServing, await saved(LocalServing, name), given(VARIABLES))
    async with serving.get_client() as client:  # one harmless call: is the node there, and do we get in?
        found = await client.find(model=fields["model"])
    target = await changed_target(target_name, {**fields, "credentials": serving})  # before anything is saved
    done = await save(serving, name)
    target.credentials = await LocalServing.aload(name)
    also = await save(target, target_name)
    return f"{done}, {also}; {len(found)} deployments of {target.model}"


if __name__ == "__main__":
    run(main, {**VARIABLES, **OF_THE_TARGET, "base_url": VARIABLES["url"]})
