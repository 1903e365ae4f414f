"""The five operations of the vendor's Python SDK (the seed document), with its parameters, over either API.

A parameter that an API lacks is refused by name. Answers have the SDK's shape (spec versions newest first), whichever
API they come from. Where the document breaks the vendor's own rules is in a table of the docs page.
"""

from collections.abc import Mapping
from typing import Any

from prefect_modeldeploy.errors import InvalidInput, NotFound, Problem
from prefect_modeldeploy.providers.gradient.answers import Answer, SpecVersion, Stored
from prefect_modeldeploy.providers.gradient.checks import checked_count, checked_id, whole
from prefect_modeldeploy.providers.gradient.graph import GraphApi
from prefect_modeldeploy.providers.gradient.rest import RestApi
from prefect_modeldeploy.providers.gradient.spec import Config, check, is_v0
from prefect_modeldeploy.transport import create_once


class NodeResources(Answer):
    """The hardware: machine type and replicas."""

    instance_type: str | None = None
    replicas: int | None = None


class NodeData(Answer):
    """A spec version's content."""

    image: str | None = None
    port: int | None = None
    resources: NodeResources | None = None


class Actor(Answer):
    """Who made a spec version; REST gives only an id, no name."""

    full_name: str | None = None
    avatar_url: str | None = None


class SpecNode(Answer):
    """One spec version."""

    id: str = ""
    data: NodeData | None = None
    endpoint_url: str | None = None
    actor: Actor | None = None


class SpecNodes(Answer):
    """Spec versions, newest first."""

    nodes: tuple[SpecNode, ...] = ()


class DeploymentNode(Answer):
    """A deployment as the SDK returns it."""

    id: str = ""
    name: str = ""
    deployment_specs: SpecNodes = SpecNodes()


class Changed(Answer):
    """Id of the deployment that was created, updated or deleted."""

    id: str


class SeedOperations:
    """`create_deployment`, `update_deployment`, `delete_deployment`, `list_deployments`, `get_deployment`."""

    _api: RestApi | GraphApi

    async def create_deployment(
        self, name: str, project_id: str, spec: Mapping[str, Any], cluster_id: str | None = None
    ) -> Changed:
        """Create a deployment, never a second one of that name.

        Args:
            name: Unique within the project among non-deleted deployments.
            project_id: Project that it belongs to.
            spec: The Deployment Spec, in the vendor's words.
            cluster_id: Cluster that it runs on (GraphQL only).

        Raises:
            InvalidInput: A field of the spec cannot work, or the API lacks a parameter.
            Conflict: The vendor says that the name is taken.
        """
        self._no_cluster(cluster_id)
        config = check(_named_spec(spec, name, self._api), self._api.api)

        async def send() -> str:
            if isinstance(self._api, RestApi):
                return await self._api.send(config, project_id=project_id)
            given = {"name": name, "clusterId": cluster_id, "projectId": project_id, "spec": _bare(config)}
            return await self._api.create(given)

        async def look_up() -> str | None:
            found = await self._api.find(name=name, project_id=project_id)
            return found[0].id if found else None

        return Changed(id=await create_once(send, look_up))

    async def update_deployment(
        self,
        id: str | None = None,
        *,
        name: str | None = None,
        project_id: str | None = None,
        spec: Mapping[str, Any] | None = None,
        cluster_id: str | None = None,
    ) -> Changed:
        """Update a deployment: only what is given; a spec replaces the whole former one.

        Args:
            id: Which one. The seed document forgets it: without, the deployment of that name in the project is meant.
            name: Its new name (with `id`), or which one (without).
            project_id: Its new project (GraphQL, with `id`), or where to look (without).
            spec: The new Deployment Spec.
            cluster_id: Its new cluster (GraphQL only).
        """
        self._no_cluster(cluster_id)
        if id is None:
            stored = await self._named_in(name, project_id)
            id, name, project_id = stored.id, None, None
        checked_id(id, "id")
        if isinstance(self._api, RestApi):
            return Changed(id=await self._update_rest(self._api, id, name, project_id, spec))
        given: dict[str, Any] = {"id": id}
        given |= {
            key: value
            for key, value in {"name": name, "projectId": project_id, "clusterId": cluster_id}.items()
            if value is not None
        }
        if spec is not None:
            given["spec"] = _bare(check(_named_spec(spec, name or "-", self._api), "graphql"))
        return Changed(id=await self._api.update(given))

    async def delete_deployment(self, id: str) -> Changed:
        """Delete a deployment. Raises NotFound."""
        await self._api.delete(checked_id(id, "id"))
        return Changed(id=id)

    async def list_deployments(
        self,
        name: str | None = None,
        project_id: str | None = None,
        cluster_id: str | None = None,
        first: int | None = 100,
    ) -> list[DeploymentNode]:
        """List deployments.

        Args:
            name: Only those of this name.
            project_id: Only those of this project; None: of the team.
            cluster_id: Only spec versions on this cluster (GraphQL only).
            first: How many at most; None: 100.
        """
        self._no_cluster(cluster_id)
        first = checked_count("first", 100 if first is None else first)
        if isinstance(self._api, GraphApi):
            nodes = await self._api.nodes(name=name, project_id=project_id, cluster_id=cluster_id, first=first)
            return [DeploymentNode.model_validate(node) for node in nodes]
        found = await self._api.find(name=name, project_id=project_id, first=first)
        return [_node(stored, [stored.latest_spec] if stored.latest_spec else []) for stored in found]

    async def get_deployment(self, id: str) -> DeploymentNode:
        """Return one deployment with its spec versions. Raises NotFound."""
        checked_id(id, "id")
        if isinstance(self._api, GraphApi):
            return DeploymentNode.model_validate(await self._api.node(id))
        stored = await self._api.get(id)
        return _node(stored, await self._api.versions(id, first=100))

    async def _update_rest(
        self, api: RestApi, id: str, name: str | None, project_id: str | None, spec: Mapping[str, Any] | None
    ) -> str:
        stored = await api.get(id)
        if project_id is not None and project_id != stored.project_id:
            raise InvalidInput("project_id", project_id, "REST v1 cannot move a deployment to another project")
        if spec is None:
            config = {**whole(stored), "name": name or stored.name}
            return await api.send(config, deployment_id=id, project_id=stored.project_id)
        config = check(_named_spec(spec, name or stored.name, api), "rest")
        return await api.send(config, deployment_id=id, project_id=stored.project_id)

    async def _named_in(self, name: str | None, project_id: str | None) -> Stored:
        if name is None:
            raise InvalidInput("id", None, "give the id, or the name and project of the deployment")
        for stored in await self._api.find(name=name, project_id=project_id):
            return stored
        raise NotFound("gradient", f"update {name!r}", Problem("no deployment has this name"))

    def _no_cluster(self, cluster_id: str | None) -> None:
        if cluster_id is not None and isinstance(self._api, RestApi):
            raise InvalidInput("cluster_id", cluster_id, "REST v1 has no clusters; use a block with api='graphql'")


def _named_spec(spec: Mapping[str, Any], name: str, api: RestApi | GraphApi) -> Config:
    """The spec with its name; without an apiVersion it is v1, or v0alpha0 where it names an `instanceType`."""
    config = {**spec, "name": spec.get("name", name)}
    if config["name"] != name:
        raise InvalidInput("spec.name", config["name"], f"differs from name={name!r}")
    if isinstance(api, RestApi) and "apiVersion" not in config:
        config["apiVersion"] = "v0alpha0" if is_v0(config) else "v1"
    return config


def _bare(config: Config) -> Config:
    return {name: value for name, value in config.items() if name != "name"}


def _node(stored: Stored, versions: list[SpecVersion]) -> DeploymentNode:
    """A REST answer in the SDK's shape."""
    nodes = [
        {
            "id": version.id,
            "data": _node_data(version.data),
            "endpointUrl": stored.endpoint,
            "actor": {"id": version.user_id},
        }
        for version in versions
    ]
    return DeploymentNode.model_validate({"id": stored.id, "name": stored.name, "deploymentSpecs": {"nodes": nodes}})


def _node_data(config: Config | None) -> Config | None:
    if config is None:
        return None
    resources = config.get("resources") or {}
    machine = resources.get("instanceType") or resources.get("machineType")
    ports = resources.get("ports") or [None]
    return {
        **config,
        "port": config.get("port", ports[0]),
        "resources": {**resources, "instanceType": machine},
    }
