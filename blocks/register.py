"""Register this package's block types with the Prefect server, so that the UI offers them.

    python blocks/register.py

The same as `prefect block register -m prefect_modeldeploy`. Doing it again updates them.
"""

from typing import get_args

from prefect_modeldeploy import DeploymentTarget, Gateway
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.sources import Metrics

BLOCKS = (*get_args(Credentials), *get_args(Metrics), Gateway, DeploymentTarget)

if __name__ == "__main__":
    for block in BLOCKS:
        block.register_type_and_schema()
        print(f"registered: {block.get_block_type_slug()}")
