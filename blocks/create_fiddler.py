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

import os

from prefect_modeldeploy.block_scripts import changed, given, run, save, saved
from prefect_modeldeploy.providers.fiddler import FiddlerCredentials

VARIABLES = {
    "base_url": "FIDDLER_URL",
    "token": "FIDDLER_TOKEN",
    "project": "FIDDLER_PROJECT",
    "organization": "FIDDLER_ORGANIZATION",
}


async def main() -> str:
    fields, name = given(VARIABLES, "base_url", "token"), os.environ.get("FIDDLER_BLOCK", "fiddler")
    credentials = changed(FiddlerCredentials, await saved(FiddlerCredentials, name), fields)
    async with credentials.get_client() as client:
        found = await client.api.models()
    done = await save(credentials, name)
    return f"{done}; {client.api.generation} API, {len(found)} model versions"


if __name__ == "__main__":
    run(main, VARIABLES)
