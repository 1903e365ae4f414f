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

import asyncio
import os
import sys

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.scale import ScaleCredentials

FIELDS = {"account_id": "SCALE_ACCOUNT_ID", "base_url": "SCALE_BASE_URL", "api": "SCALE_API"}


async def main() -> None:
    key = os.environ.get("SCALE_API_KEY")
    if not key:
        sys.exit("SCALE_API_KEY is not set: give the API key of the Scale platform")
    given = {field: value for field, name in FIELDS.items() if (value := os.environ.get(name))}
    credentials = ScaleCredentials.model_validate({"api_key": key, **given})
    async with credentials.get_client() as client:
        found = await client.find()
    name = os.environ.get("SCALE_BLOCK", "scale")
    await credentials.save(name, overwrite=True)
    print(f"saved scale-credentials/{name}; {len(found)} deployments")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(f"scale: {error}")
