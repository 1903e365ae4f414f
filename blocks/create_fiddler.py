"""Create or update the Fiddler Credentials block, after one harmless call that shows whether the token works.

    FIDDLER_URL=https://acme.fiddler.ai FIDDLER_TOKEN=... python blocks/create_fiddler.py

| variable             | meaning                                                          | default    |
|----------------------|------------------------------------------------------------------|------------|
| FIDDLER_URL          | root of the Fiddler server                                       | (required) |
| FIDDLER_TOKEN        | API token                                                        | (required) |
| FIDDLER_PROJECT      | name or UUID of the project of the models                        | none       |
| FIDDLER_ORGANIZATION | name of the organization, for servers older than 24.4 (v2 API)   | none       |
| FIDDLER_BLOCK        | name of the block                                                | fiddler    |
"""

import asyncio
import os
import sys

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.fiddler import FiddlerCredentials


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: the table at the top of create_fiddler.py says what it is")
    return value


async def main() -> None:
    credentials = FiddlerCredentials(
        base_url=required("FIDDLER_URL"),
        token=required("FIDDLER_TOKEN"),
        project=os.environ.get("FIDDLER_PROJECT"),
        organization=os.environ.get("FIDDLER_ORGANIZATION"),
    )
    async with credentials.get_client() as client:
        found = await client.api.models()
    name = os.environ.get("FIDDLER_BLOCK", "fiddler")
    await credentials.save(name, overwrite=True)
    print(f"saved fiddler-credentials/{name}; {client.api.generation} API, {len(found)} model versions")


def run() -> None:
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(f"fiddler: {str(error).removeprefix('fiddler: ')}")


if __name__ == "__main__":
    run()
