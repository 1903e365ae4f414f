"""Baseten's management API (`https://api.baseten.co/v1`), one typed method an operation, in the vendor's own words.

`client.py` builds our vocabulary on it. Paths, bodies and answers: the vendor's OpenAPI of 2026-08-22 and what the
`baseten` SDK 0.13.1 sends. Calls that set a state (activate, settings, rename) may be sent again after a lost answer;
those that start something new (create, promote, retry) may not.
"""

from typing import Any

from pydantic import SecretStr

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.baseten.answers import (
    Environment,
    LogLine,
    Metrics,
    Model,
    Retried,
    UploadTicket,
    VendorDeployment,
)
from prefect_modeldeploy.providers.baseten.requests import (
    AutoscalingSettings,
    BackpressureSettings,
    DeploymentPayload,
    EnvironmentChanges,
    LogQuery,
    MetricQuery,
    PromoteOptions,
    StartupQuery,
)
from prefect_modeldeploy.providers.baseten.words import quoted, read_answer
from prefect_modeldeploy.transport import Transport


class ManagementApi:
    """The operations on models, deployments, environments and what belongs to them.

    A `deployment` may also be the word `production` or `development` where the vendor takes it (get, activate,
    deactivate, retry, autoscaling).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # --- models ----------------------------------------------------------------------------------------------------

    async def models(self, *, name: str | None = None, team: str | None = None) -> list[Model]:
        """All models, or those of that exact name."""
        path = f"/v1/teams/{quoted(team)}/models" if team else "/v1/models"
        answer = await self._get(path, {"name": name})
        found = [read_answer(Model, raw, "model") for raw in answer.get("models", [])]
        # Servers before August 2026 do not know the filter.
        return [model for model in found if name is None or model.name == name]

    async def model(self, model: str) -> Model:
        """One model, by id."""
        return read_answer(Model, await self._get(f"/v1/models/{quoted(model)}"), "model")

    async def rename_model(self, model: str, name: str) -> Model:
        """Give a model another name."""
        path = f"/v1/models/{quoted(model)}"
        return read_answer(Model, await self._patch(path, {"name": _name("name", name)}), "model")

    async def delete_model(self, model: str) -> dict[str, Any]:
        """Delete a model with all its deployments and environments."""
        return await self._call("DELETE", f"/v1/models/{quoted(model)}")

    # --- deployments -----------------------------------------------------------------------------------------------

    async def deployments(self, model: str, *, name: str | None = None) -> list[dict[str, Any]]:
        """Whole answers of all deployments of a model, or of those of that exact name."""
        answer = await self._get(f"/v1/models/{quoted(model)}/deployments", {"name": name})
        return [raw for raw in answer.get("deployments", []) if name is None or raw.get("name") == name]

    async def deployment(self, model: str, deployment: str) -> dict[str, Any]:
        """Whole answer of one deployment."""
        return await self._get(_at(model, deployment))

    async def rename_deployment(self, model: str, deployment: str, name: str) -> dict[str, Any]:
        """Give a deployment another name, unique in its model."""
        checked_name = DeploymentPayload(config={}, deployment_name=_name("name", name)).deployment_name
        return await self._patch(_at(model, deployment), {"name": checked_name})

    async def delete_deployment(self, model: str, deployment: str) -> dict[str, Any]:
        """Delete a deployment; the vendor refuses the one that serves production."""
        return await self._call("DELETE", _at(model, deployment))

    async def activate(self, model: str, deployment: str) -> dict[str, Any]:
        """Start an inactive deployment. At most 20 a minute."""
        return await self._post(_at(model, deployment, "/activate"), idempotent=True)

    async def deactivate(self, model: str, deployment: str) -> dict[str, Any]:
        """Stop a deployment; it is not billed, and answers 404. At most 20 a minute."""
        return await self._post(_at(model, deployment, "/deactivate"), idempotent=True)

    async def retry(self, model: str, deployment: str) -> Retried:
        """Try a failed deployment again (not its promotion). At most 10 a minute. Look at `retried`."""
        return read_answer(Retried, await self._post(_at(model, deployment, "/retry")), "retry")

    async def promote(self, model: str, deployment: str, options: PromoteOptions | None = None) -> VendorDeployment:
        """Promote a deployment (or `development`, which makes a new one) to production."""
        body = options.sent() if options else {}
        if "scale_down_previous_deployment" in body:
            body["scale_down_previous_production"] = body.pop("scale_down_previous_deployment")
        return read_answer(VendorDeployment, await self._post(_at(model, deployment, "/promote"), body), "deployment")

    async def set_autoscaling(self, model: str, deployment: str, settings: AutoscalingSettings) -> dict[str, Any]:
        """Change how a deployment scales. `status` is ACCEPTED, QUEUED or UNCHANGED; it takes effect later."""
        return await self._patch(_at(model, deployment, "/autoscaling_settings"), settings.sent())

    async def set_backpressure(self, model: str, deployment: str, settings: BackpressureSettings) -> dict[str, Any]:
        """Change what happens to requests that find all replicas busy."""
        return await self._patch(_at(model, deployment, "/request_backpressure_settings"), settings.sent())

    async def terminate_replica(self, model: str, deployment: str, replica: str) -> dict[str, Any]:
        """End a replica (its short id is in the logs); the autoscaler starts another one."""
        # Not repeated: a second request could not tell a replica that is gone from one that never was.
        return await self._call("DELETE", _at(model, deployment, f"/replicas/{quoted(replica)}"), idempotent=False)

    async def config(self, model: str, deployment: str, output_format: str | None = None) -> dict[str, Any]:
        """The configuration: `config` (parsed) and `raw_config` (text; None before 2026-04-30)."""
        if output_format not in (None, "raw", "parsed", "both"):
            raise InvalidInput("output_format", output_format, "must be raw, parsed or both")
        return await self._get(_at(model, deployment, "/config"), {"output_format": output_format})

    async def download_url(self, model: str, deployment: str) -> str:
        """A presigned URL of the deployment's archive. It is a secret."""
        return str((await self._get(_at(model, deployment, "/download")))["download_url"])

    async def logs(self, model: str, deployment: str, query: LogQuery | None = None) -> list[LogLine]:
        """Lines of a deployment's log (beta)."""
        return _lines(await self._get(_at(model, deployment, "/logs"), query.sent() if query else {}))

    async def metrics(self, model: str, deployment: str, query: MetricQuery | None = None) -> Metrics:
        """Metrics of a deployment (beta); they lag by one to three minutes."""
        answer = await self._get(_at(model, deployment, "/metrics"), query.sent() if query else {})
        return read_answer(Metrics, answer, "metrics answer")

    async def startups(self, model: str, deployment: str, query: StartupQuery) -> dict[str, Any]:
        """Cold starts: `items`, `pagination`, `total_count`."""
        return await self._get(_at(model, deployment, "/startups"), query.sent())

    async def startup_summary(self, model: str, deployment: str, query: StartupQuery) -> dict[str, Any]:
        """Percentiles of cold starts, in all and by phase."""
        window = {"start_epoch_millis": query.start_epoch_millis, "end_epoch_millis": query.end_epoch_millis}
        return await self._get(_at(model, deployment, "/startups/summary"), window)

    # --- environments ----------------------------------------------------------------------------------------------

    async def environments(self, model: str) -> list[Environment]:
        """All environments of a model."""
        answer = await self._get(f"/v1/models/{quoted(model)}/environments")
        return [read_answer(Environment, raw, "environment") for raw in answer.get("environments", [])]

    async def environment(self, model: str, name: str) -> Environment:
        """One environment: what serves it, and the promotion that runs."""
        return read_answer(Environment, await self._get(_env(model, name)), "environment")

    async def create_environment(
        self, model: str, name: str, settings: EnvironmentChanges | None = None
    ) -> Environment:
        """Make an environment. It fails when there is one of that name."""
        body = {"name": _name("name", name), **(settings.sent() if settings else {})}
        answer = await self._post(f"/v1/models/{quoted(model)}/environments", body)
        return read_answer(Environment, answer, "environment")

    async def update_environment(self, model: str, name: str, changes: EnvironmentChanges) -> dict[str, Any]:
        """Change an environment. Accepted at once, applied later: read it again to see."""
        return await self._patch(_env(model, name), changes.sent())

    async def delete_environment(self, model: str, name: str) -> dict[str, Any]:
        """Delete an environment, which cancels its promotion; its deployment is scaled to zero, not deleted."""
        return await self._call("DELETE", _env(model, name))

    async def activate_environment(self, model: str, name: str) -> dict[str, Any]:
        """Start the deployment that serves an environment."""
        return await self._post(_env(model, name, "/activate"), idempotent=True)

    async def deactivate_environment(self, model: str, name: str) -> dict[str, Any]:
        """Stop the deployment that serves an environment."""
        return await self._post(_env(model, name, "/deactivate"), idempotent=True)

    async def promote_to_environment(
        self, model: str, name: str, deployment: str, options: PromoteOptions | None = None
    ) -> VendorDeployment:
        """Promote a deployment. The answer is what will serve: maybe a copy, with an id of its own."""
        body = {"deployment_id": deployment, **(options.sent() if options else {})}
        return read_answer(VendorDeployment, await self._post(_env(model, name, "/promote"), body), "deployment")

    async def cancel_promotion(self, model: str, name: str) -> str:
        """Cancel gracefully. CANCELED (done), or RAMPING_DOWN (a rolling one goes back step by step)."""
        return str((await self._post(_env(model, name, "/cancel_promotion")))["status"])

    async def pause_promotion(self, model: str, name: str) -> bool:
        """Hold a rolling promotion at its next step."""
        return await self._signal(model, name, "pause_promotion")

    async def resume_promotion(self, model: str, name: str) -> bool:
        """Let a paused promotion go on."""
        return await self._signal(model, name, "resume_promotion")

    async def force_cancel_promotion(self, model: str, name: str) -> bool:
        """Send all traffic back at once, even if the former deployment has too few replicas for it."""
        return await self._signal(model, name, "force_cancel_promotion")

    async def force_roll_forward_promotion(self, model: str, name: str) -> bool:
        """Send all traffic to the candidate at the next step, also out of a cancellation."""
        return await self._signal(model, name, "force_roll_forward_promotion")

    async def environment_logs(self, model: str, name: str, query: LogQuery | None = None) -> list[LogLine]:
        """Lines of the logs of an environment's deployments."""
        return _lines(await self._get(_env(model, name, "/logs"), query.sent() if query else {}))

    async def environment_metrics(self, model: str, name: str, query: MetricQuery | None = None) -> Metrics:
        """Metrics over all deployments that served an environment in that time."""
        return read_answer(
            Metrics, await self._get(_env(model, name, "/metrics"), query.sent() if query else {}), "answer"
        )

    async def environment_startups(self, model: str, name: str, query: StartupQuery) -> dict[str, Any]:
        """Cold starts of an environment's deployments."""
        return await self._get(_env(model, name, "/startups"), query.sent())

    # --- creating --------------------------------------------------------------------------------------------------

    async def prepare_upload(
        self, payload: DeploymentPayload, *, name: str | None = None, model: str | None = None, dry_run: bool = False
    ) -> UploadTicket:
        """Check a new deployment and get credentials for its archive; `name` for a new model, else `model` (id)."""
        if (name is None) == (model is None):
            raise InvalidInput("name", name, "give either the name of a new model, or the id of one that exists")
        body: dict[str, Any] = {"deployment": _sent(payload)}
        body |= {"name": name} if name is not None else {"model_id": model}
        body |= {"dry_run": True} if dry_run else {}
        # Checking twice, and unused credentials, do no harm.
        return read_answer(
            UploadTicket, await self._post("/v1/prepare_model_upload", body, idempotent=True), "upload ticket"
        )

    async def create_model(
        self, name: str, payload: DeploymentPayload, s3_key: str | None, *, team: str | None = None
    ) -> dict[str, Any]:
        """Make a model with its first deployment: `{"model", "deployment"}`."""
        source = {"kind": "model_archive", "name": _name("name", name), "deployment": _sent(payload), "s3_key": s3_key}
        path = f"/v1/teams/{quoted(team)}/models" if team else "/v1/models"
        return await self._post(path, {"source": source})

    async def create_deployment(self, model: str, payload: DeploymentPayload, s3_key: str | None) -> dict[str, Any]:
        """Add a deployment to a model: `{"model", "deployment"}`."""
        source = {"kind": "model_archive", "deployment": _sent(payload), "s3_key": s3_key}
        return await self._post(f"/v1/models/{quoted(model)}/deployments", {"source": source})

    # --- the rest --------------------------------------------------------------------------------------------------

    async def secrets(self, team: str | None = None) -> list[dict[str, Any]]:
        """Names of the secrets; their values are never told."""
        return list((await self._get(_team("/secrets", team))).get("secrets", []))

    async def put_secret(self, name: str, value: SecretStr, team: str | None = None) -> dict[str, Any]:
        """Create or replace a secret. Baseten takes `a_b` and `a-b` for the same name."""
        body = {"name": _name("name", name), "value": value.get_secret_value()}
        return await self._post(_team("/secrets", team), body, idempotent=True)

    async def delete_secret(self, name: str, team: str | None = None) -> dict[str, Any]:
        """Delete a secret."""
        return await self._call("DELETE", _team(f"/secrets/{quoted(name)}", team))

    async def instance_types(self) -> list[dict[str, Any]]:
        """Machines: id, name, memory in MiB, CPU in thousandths, GPUs."""
        return list((await self._get("/v1/instance_types"))["instance_types"])

    async def instance_type_prices(self) -> list[dict[str, Any]]:
        """Prices in US dollars a minute: `{"instance_type", "price"}`."""
        return list((await self._get("/v1/instance_type_prices"))["instance_types"])

    async def teams(self, name: str | None = None) -> list[dict[str, Any]]:
        """The teams of the organization."""
        return list((await self._get("/v1/teams", {"name": name})).get("teams", []))

    async def team_regions(self, team: str) -> list[dict[str, Any]]:
        """Regions that a team may deploy to: `slug`, `display_name`."""
        return list((await self._get(f"/v1/teams/{quoted(team)}/regions")).get("regions", []))

    async def environment_groups(self) -> list[dict[str, Any]]:
        """Names of environments over all models, and who may manage them."""
        return await self._items("/v1/environment_groups", {})

    async def restrict_environment(self, name: str, user_ids: list[str] | None) -> dict[str, Any]:
        """Let only these users manage the environments of that name; None lifts the restriction."""
        access: dict[str, Any] = {"is_restricted": user_ids is not None}
        access |= {"user_ids": user_ids} if user_ids is not None else {}
        return await self._patch(f"/v1/environment_groups/{quoted(name)}", {"manage_access": access})

    async def audit_logs(self, model: str | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Who did what, the newest first; all pages, up to 1,000 entries."""
        path = f"/v1/models/{quoted(model)}/audit_logs" if model else "/v1/audit_logs"
        return await self._items(path, filters)

    # --- plumbing --------------------------------------------------------------------------------------------------

    async def _items(self, path: str, filters: dict[str, Any]) -> list[dict[str, Any]]:
        """All pages of a list, up to 1,000 entries; a cursor that does not move ends it."""
        items: list[dict[str, Any]] = []
        seen: set[str | None] = set()
        cursor: str | None = None
        while len(items) < _MOST_ITEMS and cursor not in seen:
            seen.add(cursor)
            page = await self._get(path, {**filters, "cursor": cursor})
            items += page.get("items", [])
            pagination = page.get("pagination") or {}
            cursor = pagination.get("cursor")
            if not pagination.get("has_more") or not cursor:
                break
        return items[:_MOST_ITEMS]

    async def _signal(self, model: str, name: str, what: str) -> bool:
        return bool((await self._post(_env(model, name, f"/{what}"))).get("success"))

    async def _get(self, path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        set_ones = {key: value for key, value in (params or {}).items() if value is not None}
        return await self._call("GET", path, **({"params": set_ones} if set_ones else {}))

    async def _post(self, path: str, body: Any = None, *, idempotent: bool = False) -> dict[str, Any]:
        return await self._call("POST", path, idempotent=idempotent, **({} if body is None else {"json": body}))

    async def _patch(self, path: str, body: Any) -> dict[str, Any]:
        # All PATCHes set values: doing one twice is the same as once.
        return await self._call("PATCH", path, idempotent=True, json=body)

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await self._transport.call(method, path, **options)
        return dict(answer) if isinstance(answer, dict) else {}


_MOST_ITEMS = 1000


def _at(model: str, deployment: str, rest: str = "") -> str:
    return f"/v1/models/{quoted(model)}/deployments/{quoted(deployment)}{rest}"


def _env(model: str, name: str, rest: str = "") -> str:
    return f"/v1/models/{quoted(model)}/environments/{quoted(_name('environment', name))}{rest}"


def _team(path: str, team: str | None) -> str:
    return f"/v1/teams/{quoted(team)}{path}" if team else f"/v1{path}"


def _name(field: str, name: str) -> str:
    if not 1 <= len(name) <= 255:
        raise InvalidInput(field, name, "must have 1 to 255 characters")
    return name


def _lines(answer: dict[str, Any]) -> list[LogLine]:
    return [read_answer(LogLine, raw, "log line") for raw in answer.get("logs", [])]


def _sent(payload: DeploymentPayload) -> dict[str, Any]:
    body = payload.sent()
    if payload.autoscaling_schedule_settings is not None:
        body["autoscaling_schedule_settings"] = payload.autoscaling_schedule_settings.sent()
    return body
