"""Create or update the Foundry Credentials block, after one harmless call that shows whether we get in.

    FOUNDRY_BASE_URL=https://example.palantirfoundry.com FOUNDRY_TOKEN=... FOUNDRY_MODEL=ri.models... \
        python blocks/create_foundry.py

| variable                     | meaning                                                             | default    |
|------------------------------|---------------------------------------------------------------------|------------|
| FOUNDRY_BASE_URL             | address of the stack, without /api                                  | (required) |
| FOUNDRY_MODEL                | RID of a model, whose deployments are listed as the harmless call   | (required) |
| FOUNDRY_TOKEN                | a user's token; or the next two                                     | none       |
| FOUNDRY_CLIENT_ID            | id of an OAuth2 application                                         | none       |
| FOUNDRY_CLIENT_SECRET        | its secret                                                          | none       |
| FOUNDRY_PRODUCTION_BRANCH    | branch of the models that is production                             | master     |
| FOUNDRY_BLOCK                | name of the block                                                   | foundry    |
"""

import asyncio
import os
import sys

from pydantic import ValidationError

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.foundry import FoundryCredentials


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: see the table at the top of {sys.argv[0]}")
    return value


async def main() -> None:
    base_url, model, token = required("FOUNDRY_BASE_URL"), required("FOUNDRY_MODEL"), os.environ.get("FOUNDRY_TOKEN")
    application = {} if token else {"client_id": required("FOUNDRY_CLIENT_ID"),
                                    "client_secret": required("FOUNDRY_CLIENT_SECRET")}  # fmt: skip
    branches = {"production": os.environ.get("FOUNDRY_PRODUCTION_BRANCH", "master")}
    credentials = FoundryCredentials(base_url=base_url, token=token or None, branches=branches, **application)
    async with credentials.get_client() as client:
        found = await client.find(model=model)
    name = os.environ.get("FOUNDRY_BLOCK", "foundry")
    await credentials.save(name, overwrite=True)
    print(f"saved foundry-credentials/{name}; {len(found)} live deployments of {model}")


def run() -> None:
    """Do it; whatever goes wrong is one line."""
    try:
        asyncio.run(main())
    except ValidationError as error:
        sys.exit(f"foundry: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
    except ModelDeployError as error:
        sys.exit(str(error) if str(error).startswith("foundry: ") else f"foundry: {error}")


if __name__ == "__main__":
    run()
