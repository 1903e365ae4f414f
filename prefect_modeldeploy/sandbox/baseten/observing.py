"""Logs, metrics, cold starts, and what belongs to the organization: secrets, teams, instance types, audit logs."""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.sandbox.baseten.bodies import (
    EnvironmentGroup,
    Filter,
    LogsQuery,
    MetricsQuery,
    NewSecret,
    StartupsQuery,
)
from prefect_modeldeploy.sandbox.baseten.core import INSTANCE_TYPES
from prefect_modeldeploy.sandbox.baseten.managing import Managing
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
WEEK_MILLIS = 7 * 86400 * 1000
METRICS = {
    "baseten_replicas_active": ("COUNT", "GAUGE", [{}]),
    "baseten_inference_requests_total": ("COUNT", "COUNTER", [{"status": "2xx"}, {"status": "4xx"}, {"status": "5xx"}]),
    "baseten_end_to_end_response_time_seconds": ("SECONDS", "HISTOGRAM", [{"quantile": "0.5"}, {"stat": "avg"}]),
    "baseten_concurrent_requests": ("COUNT", "GAUGE", [{}]),
    "baseten_replicas_starting": ("COUNT", "GAUGE", [{}]),
}
DEFAULT_METRICS = list(METRICS)[:3]
METRICS_LAG_SECONDS = 180.0
"""How late a request shows in the metrics, at speed 1; until then it is as if it had not come. At speed 0 at once."""


class Observing(Managing):
    """What can be read besides."""

    # --- logs ------------------------------------------------------------------------------------------------------

    async def logs(self, request: Request) -> Response:
        """GET .../deployments/{deployment}/logs."""
        query = self.arguments(request, LogsQuery, "includes", "excludes")
        return JSONResponse({"logs": self._lines([self.deployment_of(request)], query)})

    async def logs_by_post(self, request: Request) -> Response:
        """POST .../deployments/{deployment}/logs (deprecated, used by truss)."""
        query = await self.body(request, LogsQuery)
        return JSONResponse({"logs": self._lines([self.deployment_of(request)], query)})

    async def environment_logs(self, request: Request) -> Response:
        """GET .../environments/{environment}/logs."""
        query = self.arguments(request, LogsQuery, "includes", "excludes")
        current = self.world["deployments"].get(self.environment_of(request)["current"] or "")
        return JSONResponse({"logs": self._lines([current] if current else [], query)})

    def _lines(self, records: list[Record], query: LogsQuery) -> list[Record]:
        end = query.end_epoch_millis if query.end_epoch_millis is not None else int(self.clock.now() * 1000) + 1
        start = query.start_epoch_millis if query.start_epoch_millis is not None else end - 30 * 60 * 1000
        if not 0 <= end - start <= WEEK_MILLIS:
            raise Refusal(400, "The window must not be negative, and not exceed 7 days.", "VALIDATION_ERROR")
        try:
            pattern = re.compile(query.search_pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise Refusal(400, f"search_pattern: {error}", "VALIDATION_ERROR") from None
        for record in records:
            self.status(record)
        found = [
            {"timestamp": str(at), "message": message, "replica": replica, "request_id": request_id, "level": level}
            for record in records
            for at, level, message, replica, request_id in record.get("log", [])
            if start <= at / 1e6 <= end
            and (query.min_level is None or LEVELS.index(level) >= LEVELS.index(query.min_level))
            and query.replica in (None, replica)
            and query.request_id in (None, request_id)
            and pattern.search(message)
            and all(part in message for part in query.includes)
            and not any(part in message for part in query.excludes)
        ]
        found.sort(key=lambda line: int(line["timestamp"]), reverse=query.direction == "desc")
        return found[: query.limit]

    # --- metrics ---------------------------------------------------------------------------------------------------

    async def metrics(self, request: Request) -> Response:
        """GET .../deployments/{deployment}/metrics."""
        query = self.arguments(request, MetricsQuery, "metrics")
        return JSONResponse(self._metrics(self.deployment_of(request), query))

    async def environment_metrics(self, request: Request) -> Response:
        """GET .../environments/{environment}/metrics."""
        query = self.arguments(request, MetricsQuery, "metrics")
        return JSONResponse(self._metrics(self.serving(self.environment_of(request)), query))

    def _metrics(self, record: Record, query: MetricsQuery) -> Record:
        names = query.metrics or DEFAULT_METRICS
        if unknown := [name for name in names if name not in METRICS]:
            raise Refusal(400, f"Unknown metrics: {unknown}.", "VALIDATION_ERROR")
        now = int(self.clock.ours() * 1000)
        if query.mode == "CURRENT" and (query.start_epoch_millis is not None or query.end_epoch_millis is not None):
            raise Refusal(400, "CURRENT takes no start and no end.", "VALIDATION_ERROR")
        end = query.end_epoch_millis if query.end_epoch_millis is not None else now
        start = query.start_epoch_millis if query.start_epoch_millis is not None else end - 3600 * 1000
        if not 0 < end - start <= WEEK_MILLIS:
            raise Refusal(400, "The window must be positive, and not exceed 7 days.", "VALIDATION_ERROR")
        series = query.mode == "SERIES"
        step = max(60, -(-(end - start) // 1000 // 500 // 60) * 60)
        starts = list(range(start, end, step * 1000)) if series else [start]
        self.status(record)
        return {
            "start_epoch_millis": start,
            "end_epoch_millis": end,
            "mode": query.mode,
            "step_seconds": step if series else None,
            "metric_descriptors": [
                {"name": name, "unit_hint": METRICS[name][0], "kind": METRICS[name][1], "label_sets": METRICS[name][2]}
                for name in names
            ],
            "metric_values": [
                {
                    "start_epoch_millis": at,
                    "values": [self._values(record, name, at, min(end, at + step * 1000) if series else end)
                               for name in names],
                }
                for at in starts
            ],
        }  # fmt: skip

    def _values(self, record: Record, name: str, start: int, end: int) -> list[float | None]:
        late = self.clock.lasting(METRICS_LAG_SECONDS) / (self.clock.speed or 1.0)
        end = min(end, int((self.clock.ours() - late) * 1000))
        seconds = [counts for second, counts in record.get("requests", {}).items() if start <= int(second) * 1000 < end]
        classes = {kind: float(sum(one.get(kind, 0) for one in seconds)) for kind in ("2xx", "4xx", "5xx")}
        match name:
            case "baseten_inference_requests_total":
                return list(classes.values())
            case "baseten_end_to_end_response_time_seconds":
                total = sum(classes.values())
                mean = sum(one.get("seconds", 0.0) for one in seconds) / total if total else None
                return [mean, mean]
            case "baseten_concurrent_requests":
                return [float(self.pool(record).in_flight)]
            case "baseten_replicas_starting":
                return [1.0 if self.status(record) == "WAKING_UP" else 0.0]
            case _:
                return [float(self.replicas(record))]

    async def startups(self, request: Request) -> Response:
        """GET .../startups: the emulator remembers the latest start only."""
        query = self.arguments(request, StartupsQuery)
        items = self._starts(request, query)
        page = {"has_more": False, "cursor": None}
        return JSONResponse({"items": items[: query.limit], "pagination": page, "total_count": len(items)})

    async def startup_summary(self, request: Request) -> Response:
        """GET .../startups/summary."""
        query = self.arguments(request, StartupsQuery)
        spans = [one["duration_ms"] for one in self._starts(request, query)]
        typical = spans[0] if spans else None
        keys = ("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
        total = {"sample_count": len(spans), **dict.fromkeys(keys, typical)}
        return JSONResponse(
            {
                "start_epoch_millis": query.start_epoch_millis,
                "end_epoch_millis": query.end_epoch_millis,
                "total_duration_ms": total,
                "phase_duration_ms": [{"phase": "READINESS", "duration_ms": total}],
            }
        )

    def _starts(self, request: Request, query: StartupsQuery) -> list[Record]:
        if query.end_epoch_millis <= query.start_epoch_millis:
            raise Refusal(400, "end_epoch_millis must be after start_epoch_millis.", "VALIDATION_ERROR")
        if "deployment" in request.path_params:
            record: Record | None = self.deployment_of(request)
        else:
            record = self.world["deployments"].get(self.environment_of(request)["current"] or "")
        if record is None or self.status(record) != "ACTIVE":
            return []
        started = int(record["life"]["since"] * 1000)
        lasted = int(self.timelines[record["life"]["timeline"]].duration * 1000)
        if not query.start_epoch_millis <= started <= query.end_epoch_millis:
            return []
        phase = {"phase": "READINESS", "status": "COMPLETED", "offset_ms": 0, "duration_ms": lasted}
        return [
            {
                "model_id": record["model_id"],
                "deployment_id": record["id"],
                "deployment_name": record["name"],
                "environment_name": self.environment_name(record),
                "replica_id": record["id"][:5],
                "started_at_epoch_millis": started,
                "ready_at_epoch_millis": started + lasted,
                "duration_ms": lasted,
                "outcome": "SUCCESS",
                "phase_summary": [phase],
            }
        ]

    # --- the organization ------------------------------------------------------------------------------------------

    async def list_secrets(self, _: Request) -> Response:
        """GET /v1/secrets."""
        return JSONResponse({"secrets": list(self.world["secrets"].values())})

    async def put_secret(self, request: Request) -> Response:
        """POST /v1/secrets; the value is not kept."""
        name = _normal((await self.body(request, NewSecret)).name)
        known = self.world["secrets"].get(name)
        record = known or {
            "id": self.world.new_id("secret"),
            "created_at": self.clock.stamp(),
            "name": name,
            "team_name": "Default",
        }
        self.world["secrets"][name] = record
        return JSONResponse(record)

    async def delete_secret(self, request: Request) -> Response:
        """DELETE /v1/secrets/{name}."""
        name = _normal(request.path_params["name"])
        if self.world["secrets"].pop(name, None) is None:
            raise Refusal(404, "No Secret matches the given query.")
        return JSONResponse({"name": name})

    async def instance_types(self, _: Request) -> Response:
        """GET /v1/instance_types."""
        return JSONResponse({"instance_types": [_without_price(one) for one in INSTANCE_TYPES.values()]})

    async def instance_type_prices(self, _: Request) -> Response:
        """GET /v1/instance_type_prices."""
        prices = [{"instance_type": _without_price(one), "price": one["price"]} for one in INSTANCE_TYPES.values()]
        return JSONResponse({"instance_types": prices})

    def team(self) -> Record:
        """The one team."""
        facts = self.world.facts
        return {"id": facts["team_id"], "name": "Default", "default": True, "created_at": facts["created_at"]}

    def check_team(self, request: Request) -> None:
        """Refuse a team that is not there."""
        if request.path_params.get("team", self.world.facts["team_id"]) != self.world.facts["team_id"]:
            raise Refusal(404, "No Team matches the given query.")

    async def teams(self, request: Request) -> Response:
        """GET /v1/teams."""
        name = self.arguments(request, Filter).name
        return JSONResponse({"teams": [self.team()] if name in (None, "Default") else []})

    async def get_team(self, request: Request) -> Response:
        """GET /v1/teams/{team}."""
        self.check_team(request)
        return JSONResponse(self.team())

    async def regions(self, request: Request) -> Response:
        """GET /v1/teams/{team}/regions."""
        self.check_team(request)
        return JSONResponse({"regions": [{"slug": "us-west", "display_name": "US West"}]})

    async def audit_logs(self, request: Request) -> Response:
        """GET /v1/audit_logs and /v1/models/{model}/audit_logs, the newest first, by pages of 50."""
        wanted = self.model_of(request)["id"] if "model" in request.path_params else None
        entries = sorted(self.world["audit"].items(), reverse=True)
        cursor = request.query_params.get("cursor") or "~"
        found = [(key, one) for key, one in entries if key < cursor and wanted in (None, one["event_data"]["model_id"])]
        more = len(found) > 50
        page = {"has_more": more, "cursor": found[49][0] if more else None}
        return JSONResponse({"items": [one for _, one in found[:50]], "pagination": page})

    async def environment_groups(self, _: Request) -> Response:
        """GET /v1/environment_groups."""
        names = dict.fromkeys(one["name"] for one in self.world["environments"].values())
        page = {"has_more": False, "cursor": None}
        return JSONResponse({"items": [self._group(name) for name in names], "pagination": page})

    async def environment_group(self, request: Request) -> Response:
        """GET and PATCH /v1/environment_groups/{environment}."""
        name = request.path_params["environment"]
        if name not in {one["name"] for one in self.world["environments"].values()}:
            raise Refusal(404, "No EnvironmentGroup matches the given query.")
        if request.method == "PATCH":
            asked = await self.body(request, EnvironmentGroup)
            self.world["groups"][name] = asked.manage_access.model_dump()
        return JSONResponse(self._group(name))

    def _group(self, name: str) -> Record:
        access: dict[str, Any] = self.world["groups"].get(name, {"is_restricted": False, "user_ids": []})
        team = self.team()
        shown = {"is_restricted": access["is_restricted"], "users": []}
        return {"name": name, "team_id": team["id"], "team_name": team["name"], "manage_access": shown}


def _normal(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "-", name)


def _without_price(kind: Record) -> Record:
    return {name: value for name, value in kind.items() if name != "price"}
