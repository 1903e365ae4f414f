"""The current API, `https://api.paperspace.com/v1`: one typed call per operation.

There is no call to scale, stop, promote or roll back: everything is an upsert of the whole spec.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.gradient.answers import (
    Activity,
    Answer,
    LogRow,
    Run,
    Sample,
    Session,
    SpecVersion,
    Stored,
    read_samples,
)
from prefect_modeldeploy.providers.gradient.problems import STATUS_OF, problem_of, refusal, strange
from prefect_modeldeploy.providers.gradient.spec import Api, Config
from prefect_modeldeploy.transport import Transport

A = TypeVar("A", bound=Answer)

Metric = Literal[
    "requests_total", "cpu", "memory", "gpu", "requests_per_second", "requests_duration_seconds_1m",
    "requests_duration_seconds_5m",
]  # fmt: skip
Timeframe = Literal["hour", "12_hours", "day", "1_week", "2_weeks"]

LONGEST_PAGE = 120
MOST_PAGES = 1000


class RestApi:
    """Typed calls of REST v1.

    Args:
        transport: Bound to the base URL, with the API key as bearer token.
        project_id: Project of the lists, and of what is created; None: all of the team's (lists only).
    """

    api: ClassVar[Api] = "rest"

    def __init__(self, transport: Transport, project_id: str | None = None) -> None:
        self._transport, self._project_id = transport, project_id

    # --- deployments ----------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Stored:
        """Return one. Raises NotFound."""
        return _stored(await self._call("GET", f"/deployments/{deployment_id}"))

    async def find(
        self, *, name: str | None = None, project_id: str | None = None, first: int | None = None
    ) -> list[Stored]:
        """Return the deployments of a project, else of the block's, else of the team; newest first."""
        project = project_id or self._project_id
        path = f"/projects/{quote(project, safe='')}/deployments" if project else "/deployments"
        params = {"name": name} if name and project else {}
        found = []
        async for item in self._pages(path, params, first):
            stored = _stored(item)
            if name is None or stored.name == name:
                found.append(stored)
            if first is not None and len(found) >= first:
                break
        return found

    async def send(self, config: Config, *, deployment_id: str | None = None, project_id: str | None = None) -> str:
        """Upsert the whole spec once and return the deployment's id. Not repeated: each upsert makes a spec version."""
        project = project_id or self._project_id
        if not project:
            raise InvalidInput("project_id", None, "set the project on the credentials block")
        body = {"projectId": project, "config": config}
        if deployment_id is not None:
            body["deploymentId"] = deployment_id
        answer = await self._call("POST", "/deployments", json=body)
        if isinstance(answer, dict) and isinstance(answer.get("deploymentId"), str):
            return str(answer["deploymentId"])
        raise strange("POST /deployments", "the answer has no deploymentId", unknown=True)

    async def delete(self, deployment_id: str) -> None:
        """Delete one. Raises NotFound."""
        await self._call("DELETE", f"/deployments/{deployment_id}")

    async def versions(self, deployment_id: str, *, first: int = LONGEST_PAGE) -> list[SpecVersion]:
        """The history of specs, newest first."""
        path = f"/deployments/{deployment_id}/history"
        return [SpecVersion.model_validate(item) async for item in self._pages(path, {}, first)]

    async def runs(self, deployment_id: str, *, limit: int | None = None) -> list[Run]:
        """The active runs, each with its instances."""
        answer = await self._call("GET", f"/deployments/{deployment_id}/runs", params=_given(limit=limit))
        return _list(Run, answer)

    # --- what happened --------------------------------------------------------------------------------------------

    async def logs(self, deployment_id: str, *, tail: int, instance_id: str | None = None) -> list[LogRow]:
        """The last rows of the log, oldest first; of one instance, or of all."""
        path, params = f"/deployments/{deployment_id}/logs", _given(instanceId=instance_id)
        rows = [LogRow.model_validate(item) async for item in self._pages(path, params, tail)]
        return rows[::-1]

    async def metrics(self, deployment_id: str, metric: Metric, timeframe: Timeframe | None = None) -> list[Sample]:
        """Samples of a metric; `instance_id` is set where the vendor tells instances apart."""
        params = _given(metric=metric, timeframe=timeframe)
        return read_samples(await self._call("GET", f"/deployments/{deployment_id}/metrics", params=params))

    async def activity(
        self, *, deployment_id: str | None = None, project_id: str | None = None, first: int = 100
    ) -> list[Activity]:
        """Who did what in a project, newest first."""
        project = project_id or self._project_id
        if not project:
            raise InvalidInput("project_id", None, "activity is kept by project: name one")
        path = f"/projects/{quote(project, safe='')}/activity"
        params = _given(deploymentId=deployment_id)
        return [Activity.model_validate(item) async for item in self._pages(path, params, first)]

    async def session(self) -> Session:
        """Whose key it is: a harmless call that checks the credentials."""
        return Session.model_validate(await self._call("GET", "/auth/session"))

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _pages(self, path: str, params: Mapping[str, Any], first: int | None) -> AsyncIterator[Any]:
        """All items, at most `first`. A cursor that comes twice would mean pages without end: an error."""
        limit = LONGEST_PAGE if first is None else max(1, min(first, LONGEST_PAGE))
        asked = {**params, "limit": limit, "orderBy": "dtCreated", "order": "desc"}
        seen, given = set[str](), 0
        for _ in range(MOST_PAGES):
            page = await self._call("GET", path, params=asked)
            items = page.get("items") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise strange(f"GET {path}", "the answer is not a page: it has no items")
            for item in items:
                if first is not None and given >= first:
                    return
                given += 1
                yield item
            cursor = page.get("nextPage")
            if not page.get("hasMore") or not cursor or given == first:
                return
            if str(cursor) in seen:
                break
            seen.add(str(cursor))
            asked["after"] = cursor
        raise strange(f"GET {path}", "its pages do not end")

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = await self._transport.call(method, path, **options)
        if isinstance(answer, dict) and {"code", "message"} <= set(answer) and len(answer) <= 3:
            # The vendor's own CLI takes such a body for an error whatever the status says.
            status = STATUS_OF.get(str(answer["code"]), 400)
            raise refusal(f"{method} {path}", problem_of(answer, status))
        return answer


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _stored(answer: Any) -> Stored:
    if not isinstance(answer, dict) or not answer.get("id"):
        raise strange("GET /deployments", "the answer is not a deployment: it has no id")
    return Stored.model_validate({**answer, "raw": answer})


def _list(kind: type[A], answer: Any) -> list[A]:
    if not isinstance(answer, list):
        raise strange("GET", "the answer is not a list")
    return [kind.model_validate(item) for item in answer if isinstance(item, dict)]
