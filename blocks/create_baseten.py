"""Create or update the Baseten Credentials block, after one harmless call that shows whether the key works.

    BASETEN_API_KEY=... python blocks/create_baseten.py

| variable              | meaning                                                    | default                    |
|-----------------------|------------------------------------------------------------|----------------------------|
| BASETEN_API_KEY       | API key: personal, or of a workspace, allowed to manage    | (required)                 |
| BASETEN_BASE_URL      | address of the management API                              | https://api.baseten.co     |
| BASETEN_INFERENCE_URL | address of a model, with {model_id} in it                  | Baseten's own              |
| BASETEN_BLOCK         | name of the block                                          | baseten                    |
"""

import asyncio
import os
import sys

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.baseten import BasetenCredentials


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: see the table at the top of {sys.argv[0]}")
    return value


async def main() -> None:
    given = {"base_url": os.environ.get("BASETEN_BASE_URL"), "inference_url": os.environ.get("BASETEN_INFERENCE_URL")}
    credentials = BasetenCredentials(
        api_key=required("BASETEN_API_KEY"), **{name: value for name, value in given.items() if value}
    )
    async with credentials.get_client() as client:
        models = await client.management.models()
    name = os.environ.get("BASETEN_BLOCK", "baseten")
    await credentials.save(name, overwrite=True)
    print(f"saved baseten-credentials/{name}; {len(models)} models")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(str(error) if str(error).startswith("baseten: ") else f"baseten: {error}")
