"""The retired API, GraphQL "deployments v3": what the Python SDK `gradient` 1.11 to 2.99.4 speaks.

The vendor says that it is "no longer available since 15 July 2024". It knows no history call and no metrics: spec
versions come with the deployment, and their runs with them. Schema: Paperspace/cli (2023-01).
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx

from prefect_modeldeploy.errors import InvalidInput, Problem
from prefect_modeldeploy.providers.gradient.answers import LogRow, Run, SpecVersion, Stored
from prefect_modeldeploy.providers.gradient.problems import read_error, refusal, strange
from prefect_modeldeploy.providers.gradient.spec import Api, Config
from prefect_modeldeploy.transport import Transport, retry_after

DEFAULT_FIRST = 100
END_OF_LOG = "PSEOF"
LONGEST_LOG = 10_000

STATUS_OF = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "BAD_USER_INPUT": 400,
    "GRAPHQL_VALIDATION_FAILED": 400,
    "GRAPHQL_PARSE_FAILED": 400,
    "TOO_MANY_REQUESTS": 429,
    "INTERNAL_SERVER_ERROR": 500,
}
"""Codes in `extensions.code`, and the statuses that stand for them in REST."""

_DATA = """\
id error externalApplied dtCreated dtInvalid endpointUrl
actor { avatarUrl fullName } cluster { id }
data {
  image port protocol command enabled containerRegistry
  env { name value }
  models { id path }
  repositories { dataset mountPath repositories { url name ref username password } }
  resources { instanceType replicas autoscaling { enabled maxReplicas metrics { metric summary value } } }
}
"""


def _specs(runs: str) -> str:
    return f"""{_DATA}
deploymentRuns(first: ${runs}) {{ nodes {{
  id availableReplicas readyReplicas replicas
  deploymentRunInstances(first: ${runs}) {{ nodes {{ id phase state stateMessage dtStarted dtFinished }} }}
}} }}"""


GET = f"""query getDeployment($id: UUID!, $first: Int!, $runs: Int!) {{
  deployment(id: $id) {{ id name dtCreated deploymentSpecs(first: $first) {{ nodes {{ {_specs("runs")} }} }} }}
}}"""

LIST = f"""query getDeployments($first: Int!, $specs: Int!, $runs: Int!, $after: String, $projectId: String, $name: String) {{
  deployments(first: $first, after: $after, projectId: $projectId, name: $name) {{
    nodes {{ id name dtCreated deploymentSpecs(first: $specs) {{ nodes {{ {_specs("runs")} }} }} }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}"""  # noqa: E501

SDK_GET = f"""query getDeployment($id: UUID!, $first: Int!) {{
  deployment(id: $id) {{ id name deploymentSpecs(first: $first) {{ nodes {{ {_specs("first")} }} }} }}
}}"""

SDK_LIST = f"""query getDeployments($first: Int!, $projectId: String, $clusterId: String, $name: String) {{
  deployments(first: $first, projectId: $projectId, name: $name) {{
    nodes {{ id name deploymentSpecs(first: $first, clusterId: $clusterId) {{ nodes {{ {_specs("first")} }} }} }}
  }}
}}"""

CREATE = """mutation createDeployment($input: CreateDeploymentInput!) {
  createDeployment(input: $input) { deployment { id } }
}"""

UPDATE = """mutation updateDeployment($input: UpdateDeploymentInput!) {
  updateDeployment(input: $input) { deployment { id } }
}"""

DELETE = """mutation deleteDeployment($input: DeleteDeploymentInput!) {
  deleteDeployment(input: $input) { deployment { id } }
}"""


_MISSING = Problem("Deployment not found", 404, "NOT_FOUND")


class GraphApi:
    """Typed calls of the GraphQL API.

    Args:
        transport: Bound to the GraphQL host.
        path: Path of the GraphQL API on it.
        logs: Bound to the log host, which takes the key in `X-API-Key`.
        project_id: Project of the lists, and of what is created.
        cluster_id: Cluster of what is created; None: the vendor's choice.
    """

    api: ClassVar[Api] = "graphql"

    def __init__(
        self,
        transport: Transport,
        logs: Transport,
        project_id: str | None = None,
        cluster_id: str | None = None,
        path: str = "/graphql",
    ) -> None:
        self._transport, self._logs, self._path = transport, logs, path
        self._project_id, self._cluster_id = project_id, cluster_id

    async def get(self, deployment_id: str, *, first: int = 1) -> Stored:
        """Return one, with so many of its spec versions. Raises NotFound."""
        variables = {"id": deployment_id, "first": first, "runs": DEFAULT_FIRST}
        node = await self._ask("deployment", GET, variables)
        if node is None:
            raise refusal("query getDeployment", _MISSING)
        return _stored(node)

    async def find(
        self, *, name: str | None = None, project_id: str | None = None, first: int | None = None
    ) -> list[Stored]:
        """Return the deployments of a project, else of the block's, else of the team."""
        variables = {
            "first": min(first or DEFAULT_FIRST, DEFAULT_FIRST), "specs": 1, "runs": DEFAULT_FIRST, "after": None,
            "projectId": project_id or self._project_id, "name": name,
        }  # fmt: skip
        found: list[Stored] = []
        seen = set[str]()
        while True:
            page = await self._ask("deployments", LIST, variables)
            nodes = page.get("nodes") if isinstance(page, dict) else None
            if not isinstance(nodes, list):
                raise strange("query getDeployments", "the answer has no nodes")
            found += [stored for stored in map(_stored, nodes) if name is None or stored.name == name]
            info = page.get("pageInfo") or {}
            cursor = info.get("endCursor")
            if not info.get("hasNextPage") or not cursor or (first is not None and len(found) >= first):
                return found[:first]
            if cursor in seen:
                raise strange("query getDeployments", "its pages do not end")
            seen.add(cursor)
            variables["after"] = cursor

    async def send(self, config: Config, *, deployment_id: str | None = None, project_id: str | None = None) -> str:
        """Create, or replace the spec of one, and return its id."""
        spec = {name: value for name, value in config.items() if name != "name"}
        if deployment_id is not None:
            return await self.update({"id": deployment_id, "spec": spec})
        project = project_id or self._project_id
        if not project:
            raise InvalidInput("project_id", None, "set the project on the credentials block")
        return await self.create(
            {"name": config["name"], "clusterId": self._cluster_id, "projectId": project, "spec": spec}
        )

    async def create(self, given: Mapping[str, Any]) -> str:
        """The mutation `createDeployment`; not repeated."""
        return _id(await self._tell("createDeployment", CREATE, given), "createDeployment")

    async def update(self, given: Mapping[str, Any]) -> str:
        """The mutation `updateDeployment` with only the fields that are given; not repeated."""
        return _id(await self._tell("updateDeployment", UPDATE, given), "updateDeployment")

    async def delete(self, deployment_id: str) -> None:
        """Delete one. Raises NotFound."""
        answer = await self._ask("deleteDeployment", DELETE, {"input": {"id": deployment_id}})
        _id(answer, "deleteDeployment")

    async def node(self, deployment_id: str, *, first: int = DEFAULT_FIRST) -> dict[str, Any]:
        """One deployment as the SDK asks for it, with up to `first` spec versions. Raises NotFound."""
        node = await self._ask("deployment", SDK_GET, {"id": deployment_id, "first": first})
        if not isinstance(node, dict):
            raise refusal("query getDeployment", _MISSING)
        return node

    async def nodes(
        self, *, name: str | None, project_id: str | None, cluster_id: str | None, first: int
    ) -> list[dict[str, Any]]:
        """Deployments as the SDK asks for them: one page."""
        variables = {"first": first, "projectId": project_id, "clusterId": cluster_id, "name": name}
        page = await self._ask("deployments", SDK_LIST, variables)
        return [node for node in page["nodes"] if isinstance(node, dict)]

    async def versions(self, deployment_id: str, *, first: int = DEFAULT_FIRST) -> list[SpecVersion]:
        """The history of specs, newest first."""
        answer = await self._ask("deployment", GET, {"id": deployment_id, "first": first, "runs": 1})
        if answer is None:
            raise refusal("query getDeployment", _MISSING)
        nodes = (answer.get("deploymentSpecs") or {}).get("nodes") or []
        return [_version(node, answer.get("name", "")) for node in nodes]

    async def runs(self, deployment_id: str) -> list[Run]:
        """The active runs of the newest spec versions."""
        return [run for version in await self.versions(deployment_id, first=5) for run in version.runs or ()]

    async def logs(self, deployment_id: str, *, tail: int, instance_id: str | None = None) -> list[LogRow]:
        """The last rows of the log, oldest first; read from the start, since the log host knows no end."""
        if instance_id is not None:
            raise InvalidInput(
                "instance_id", instance_id, "the GraphQL API's log host has no such filter; use api=rest"
            )
        rows: list[LogRow] = []
        line = 1
        while True:
            params = {"gradientDeploymentId": deployment_id, "line": line, "limit": LONGEST_LOG}
            page = await self._logs.call("GET", "/jobs/logs", params=params)
            if not isinstance(page, list):
                raise strange("GET /jobs/logs", "the answer is not a list")
            read = [_row(row) for row in page if isinstance(row, dict) and row.get("message") != END_OF_LOG]
            rows = [*rows, *read][-tail:]
            if len(page) < LONGEST_LOG or len(read) < len(page):
                return rows
            line += len(page)

    async def _ask(self, field: str, query: str, variables: Mapping[str, Any]) -> Any:
        """A query, or what is safe to repeat."""
        return await self._send(field, query, variables, repeatable=True)

    async def _tell(self, field: str, query: str, given: Mapping[str, Any]) -> Any:
        return await self._send(field, query, {"input": given}, repeatable=False)

    async def _send(self, field: str, query: str, variables: Mapping[str, Any], *, repeatable: bool) -> Any:
        body = {"query": query, "variables": variables}
        answer = await self._transport.call("POST", self._path, json=body, idempotent=repeatable)
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if errors:
            raise refusal(f"graphql {field}", graph_problem(errors))
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict) or field not in data:
            raise strange(f"graphql {field}", "the answer has neither data nor errors", unknown=not repeatable)
        return data[field]


def graph_problem(errors: Any) -> Problem:
    """What a list of GraphQL errors says."""
    known = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    message = "; ".join(str(error.get("message")) for error in known) or json.dumps(errors)[:500]
    code = next((str(e["extensions"]["code"]) for e in known if (e.get("extensions") or {}).get("code")), None)
    return Problem(message, STATUS_OF.get(code or "", 400), code, {"errors": known} if known else None)


def read_graph_error(response: httpx.Response) -> Problem:
    """An error answer: GraphQL's `errors`, else the log host's envelope, else its text."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not body.get("errors"):
        return read_error(response)
    said = graph_problem(body["errors"])
    return Problem(said.message, response.status_code, said.code, said.parameters, retry_after(response))


def _id(answer: Any, field: str) -> str:
    deployment = answer.get("deployment") if isinstance(answer, dict) else None
    if isinstance(deployment, dict) and deployment.get("id"):
        return str(deployment["id"])
    raise strange(f"graphql {field}", "the answer has no deployment id", unknown=True)


def _stored(node: Mapping[str, Any]) -> Stored:
    if not node.get("id"):
        raise strange("graphql deployment", "the answer is not a deployment: it has no id")
    nodes = (node.get("deploymentSpecs") or {}).get("nodes") or []
    latest = _version(nodes[0], str(node.get("name", ""))) if nodes else None
    return Stored.model_validate(
        {
            "id": node["id"],
            "name": node.get("name"),
            "dtCreated": node.get("dtCreated"),
            "endpoint": nodes[0].get("endpointUrl") if nodes else None,
            "latestSpec": latest,
            "raw": dict(node),
        }
    )


def _version(node: Mapping[str, Any], name: str) -> SpecVersion:
    data = node.get("data")
    runs = [_run(run) for run in (node.get("deploymentRuns") or {}).get("nodes") or []]
    # What is null was not set: sent back as it is, it would be refused.
    config = {"name": name, **_without_nulls(data)} if isinstance(data, dict) else None
    return SpecVersion.model_validate({**node, "data": config, "runs": runs})


def _run(node: Mapping[str, Any]) -> dict[str, Any]:
    instances = (node.get("deploymentRunInstances") or {}).get("nodes") or []
    return {**node, "instances": instances}


def _row(row: Mapping[str, Any]) -> LogRow:
    return LogRow.model_validate({**row, "dtCreated": row.get("timestamp")})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
