"""Who started a rollout: the identity that Prefect reports, else a self-declared one, marked so."""

import getpass
import os

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from prefect_modeldeploy.rollout import Actor


async def who_started() -> Actor:
    """Return who created the flow run; the user of this machine when Prefect does not know."""
    if flow_run.id:
        async with get_client() as client:
            creator = (await client.read_flow_run(flow_run.id)).created_by
        if creator is not None and creator.display_value:
            return Actor(name=creator.display_value, declared=False)
    return Actor(name=this_user(), declared=True)


def this_user() -> str:
    """Who runs this process, as the machine names them: self-declared."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, users may have no names
        return f"user {os.getuid()}"
