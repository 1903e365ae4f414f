"""What `prefect deploy` does before it deploys: the build steps of flows/prefect.yaml."""

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound


async def automations_enabled(names: list[str]) -> dict[str, bool]:
    """Whether these automations are on; of one that does not exist yet, nothing.

    Prefect makes the automations of a deployment anew, and on, every time that it is deployed: what a person has
    switched off in the UI stays off only if the file says so.
    """
    found = dict[str, bool]()
    async with get_client() as client:
        for name in names:
            if those := await client.read_automations_by_name(name):
                found[name] = all(one.enabled for one in those)
    return found


async def schedules_off(deployments: dict[str, str]) -> dict[str, bool]:
    """`False`, by slug, for each schedule that makes no runs now; of all others nothing.

    Prefect ends the pause of a deployment every time that it is deployed, and makes all its schedules anew and on where
    a person has added one without a slug: they stay off only if the file says so. The pause itself a file cannot keep.
    It stops schedules only: triggers start a paused deployment too.

    Args:
        deployments: `flow/deployment`, by the slug of its schedule.
    """
    found = dict[str, bool]()
    async with get_client() as client:
        for slug, name in deployments.items():
            try:
                deployment = await client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            if deployment.paused or any(one.slug == slug and not one.active for one in deployment.schedules):
                found[slug] = False
    return found
