"""Register this package's block types with the Prefect server, so that the UI offers them.

    python blocks/register.py

The same as `prefect block register -m prefect_modeldeploy`. Doing it again updates them.
"""

from typing import get_args

from prefect_modeldeploy import DeploymentTarget, FreezeCalendar, Gateway
from prefect_modeldeploy.block_scripts import run
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.sources import Metrics

BLOCKS = (*get_args(Credentials), *get_args(Metrics), FreezeCalendar, Gateway, DeploymentTarget)


async def main() -> str:
    for block in BLOCKS:
        await block.aregister_type_and_schema()
    return f"registered: {', '.join(block.get_block_type_slug() for block in BLOCKS)}"


if __name__ == "__main__":
    run(main)
