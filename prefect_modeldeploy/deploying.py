"""What `prefect deploy` does before it deploys: a build step of flows/prefect.yaml."""

from prefect.client.orchestration import get_client


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
