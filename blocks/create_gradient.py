"""Create or update the Gradient Credentials block, after one harmless call that shows whether the key works.

    PAPERSPACE_API_KEY=... GRADIENT_PROJECT=... python blocks/create_gradient.py

| variable              | meaning                                                      | default          |
|-----------------------|--------------------------------------------------------------|------------------|
| PAPERSPACE_API_KEY    | API key of the team                                          | (required)       |
| GRADIENT_PROJECT      | id of the project of the deployments                         | (required)       |
| GRADIENT_API          | rest, or the retired graphql                                 | rest             |
| GRADIENT_BASE_URL     | address of the API                                           | Paperspace's own |
| GRADIENT_LOGS_URL     | address of the log host (graphql only)                       | Paperspace's own |
| GRADIENT_CLUSTER      | id of the cluster of new deployments (graphql only)          | none             |
| GRADIENT_ENDPOINT_KEY | password of deployments that are protected by basicAuthKey   | none             |
| GRADIENT_BLOCK        | name of the block                                            | gradient         |
"""

import os

from prefect_modeldeploy.block_scripts import changed, given, run, save, saved
from prefect_modeldeploy.providers.gradient import GradientCredentials

VARIABLES = {
    "api_key": "PAPERSPACE_API_KEY",
    "project_id": "GRADIENT_PROJECT",
    "api": "GRADIENT_API",
    "base_url": "GRADIENT_BASE_URL",
    "logs_url": "GRADIENT_LOGS_URL",
    "cluster_id": "GRADIENT_CLUSTER",
    "endpoint_key": "GRADIENT_ENDPOINT_KEY",
}


async def main() -> str:
    fields, name = given(VARIABLES, "api_key", "project_id"), os.environ.get("GRADIENT_BLOCK", "gradient")
    credentials = changed(GradientCredentials, await saved(GradientCredentials, name), fields)
    async with credentials.get_client() as client:
        found = await client.find()
    done = await save(credentials, name)
    return f"{done}; {len(found)} deployments in the project"


if __name__ == "__main__":
    run(main, VARIABLES)
