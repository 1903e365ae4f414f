"""Which deployment has which environment: what a model server serves from has the role that the server stands for."""

from collections.abc import Mapping, Sequence

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.providers.scale.schemas import ScaleServer
from prefect_modeldeploy.providers.scale.translate import split_id


def server_name(model_name: str, environment: str) -> str:
    """How the model server of an environment is named when we make it; its alias is the same."""
    return f"{model_name}-{environment}"


def server_of(environment: str, model_name: str, servers: Sequence[ScaleServer]) -> ScaleServer | None:
    """The server with this id or alias, else the one that is named for this environment of the model."""
    addressed = [one for one in servers if environment in (one.model_server_id, one.alias)]
    named = [one for one in servers if one.name == server_name(model_name, environment)]
    return next(iter([*addressed, *named]), None)


def role_of(own_id: str, label: str | None, model_name: str, servers: Sequence[ScaleServer]) -> str | None:
    """The environment of a deployment.

    Args:
        own_id: The vendor's id of the deployment.
        label: What it was meant for when it was created. It holds until a server stands for that environment.
        model_name: Name of its model.
        servers: All model servers.
    """
    holder = server_of(label, model_name, servers) if label else None
    if holder is not None and holder.model_deployment_id == own_id:
        return label
    for server in servers:
        if server.model_deployment_id == own_id:
            prefix = server_name(model_name, "")
            named = server.name.removeprefix(prefix) if server.name.startswith(prefix) else ""
            return named or server.alias or server.name
    return None if holder is not None else label


def with_roles(
    found: Sequence[Deployment], model_names: Mapping[str, str], servers: Sequence[ScaleServer]
) -> list[Deployment]:
    """The deployments with the environments that they have, instead of those that they were meant for."""
    roles = (role_of(split_id(one.id)[1], one.environment, model_names.get(one.model_id, ""), servers) for one in found)
    return [one.model_copy(update={"environment": role}) for one, role in zip(found, roles, strict=True)]
