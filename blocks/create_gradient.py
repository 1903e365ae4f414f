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

import asyncio
import os
import sys
from typing import Any

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.gradient import GradientCredentials

OPTIONAL = {
    "GRADIENT_API": "api",
    "GRADIENT_BASE_URL": "base_url",
    "GRADIENT_LOGS_URL": "logs_url",
    "GRADIENT_CLUSTER": "cluster_id",
    "GRADIENT_ENDPOINT_KEY": "endpoint_key",
}


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: see the table at the top of {sys.argv[0]}")
    return value


async def main() -> None:
    given: dict[str, Any] = {field: os.environ[name] for name, field in OPTIONAL.items() if os.environ.get(name)}
    credentials = GradientCredentials(
        api_key=required("PAPERSPACE_API_KEY"), project_id=required("GRADIENT_PROJECT"), **given
    )
    async with credentials.get_client() as client:
        found = await client.find()
    name = os.environ.get("GRADIENT_BLOCK", "gradient")
    await credentials.save(name, overwrite=True)
    print(f"saved gradient-credentials/{name}; {len(found)} deployments in the project")


def run() -> None:
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(str(error) if str(error).startswith("gradient: ") else f"gradient: {error}")


if __name__ == "__main__":
    run()
