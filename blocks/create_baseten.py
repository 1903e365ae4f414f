"""Create or update the Baseten Credentials block, after one harmless call that shows whether the key works.

    BASETEN_API_KEY=... python blocks/create_baseten.py

| variable              | meaning                                                    | default                    |
|-----------------------|------------------------------------------------------------|----------------------------|
| BASETEN_API_KEY       | API key: personal, or of a workspace, allowed to manage    | (required)                 |
| BASETEN_BASE_URL      | address of the management API                              | https://api.baseten.co     |
| BASETEN_INFERENCE_URL | address of a model, with {model_id} in it                  | Baseten's own              |
| BASETEN_BLOCK         | name of the block                                          | baseten                    |
"""

import os

from prefect_modeldeploy.block_scripts import changed, given, run, save, saved
from prefect_modeldeploy.providers.baseten import BasetenCredentials

VARIABLES = {"api_key": "BASETEN_API_KEY", "base_url": "BASETEN_BASE_URL", "inference_url": "BASETEN_INFERENCE_URL"}


async def main() -> str:
    fields, name = given(VARIABLES, "api_key"), os.environ.get("BASETEN_BLOCK", "baseten")
    credentials = changed(BasetenCredentials, await saved(BasetenCredentials, name), fields)
    async with credentials.get_client() as client:
        models = await client.management.models()
    done = await save(credentials, name)
    return f"{done}; {len(models)} models"


if __name__ == "__main__":
    run(main, VARIABLES)
