"""Create or update the Scale Credentials block, after one harmless call that shows whether the key works.

    SCALE_API_KEY=... python blocks/create_scale.py

| variable         | meaning                                             | default                   |
|------------------|-----------------------------------------------------|---------------------------|
| SCALE_API_KEY    | API key of the Scale platform                       | (required)                |
| SCALE_ACCOUNT_ID | id of the account to work in                        | the key's own             |
| SCALE_BASE_URL   | address of the API                                  | https://api.egp.scale.com |
| SCALE_API        | which API deploys: v4 or v5                         | v4                        |
| SCALE_BLOCK      | name of the block                                   | scale                     |
"""

import os

from prefect_modeldeploy.block_scripts import changed, given, run, save, saved
from prefect_modeldeploy.providers.scale import ScaleCredentials

VARIABLES = {
    "api_key": "SCALE_API_KEY",
    "account_id": "SCALE_ACCOUNT_ID",
    "base_url": "SCALE_BASE_URL",
    "api": "SCALE_API",
}


async def main() -> str:
    fields, name = given(VARIABLES, "api_key"), os.environ.get("SCALE_BLOCK", "scale")
    credentials = changed(ScaleCredentials, await saved(ScaleCredentials, name), fields)
    async with credentials.get_client() as client:
        found = await client.find()
    done = await save(credentials, name)
    return f"{done}; {len(found)} deployments"


if __name__ == "__main__":
    run(main, VARIABLES)
