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

import os

from prefect_modeldeploy.block_scripts import changed, given, run, save, saved
from prefect_modeldeploy.providers.foundry import FoundryCredentials

VARIABLES = {
    "base_url": "FOUNDRY_BASE_URL",
    "token": "FOUNDRY_TOKEN",
    "client_id": "FOUNDRY_CLIENT_ID",
    "client_secret": "FOUNDRY_CLIENT_SECRET",
    "model": "FOUNDRY_MODEL",
}


async def main() -> str:
    application = ("client_id", "client_secret")
    is_one = any(os.environ.get(VARIABLES[field]) for field in application)
    fields = given(VARIABLES, "base_url", "model", *(application if is_one else ["token"]))
    model, name = fields.pop("model"), os.environ.get("FOUNDRY_BLOCK", "foundry")
    instead = {"token": None} if is_one else dict.fromkeys(application)  # a block has the one or the other
    credentials = changed(FoundryCredentials, await saved(FoundryCredentials, name), {**fields, **instead})
    if branch := os.environ.get("FOUNDRY_PRODUCTION_BRANCH"):
        credentials.branches = {**credentials.branches, "production": branch}
    async with credentials.get_client() as client:
        found = await client.find(model=model)
    done = await save(credentials, name)
    return f"{done}; {len(found)} live deployments of {model}"


if __name__ == "__main__":
    run(main, VARIABLES)
