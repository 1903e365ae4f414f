"""An emulator of Baseten: management API, inference host, the part of GraphQL that truss uses, and a stand-in for S3.

One port stands in for all of Baseten's hosts:

| Baseten                                       | here                                            |
|-----------------------------------------------|-------------------------------------------------|
| https://api.baseten.co/v1                     | /v1                                             |
| https://model-{id}.api.baseten.co             | /inference/model-{id} (also /inference/m/{id}, /m/{id}) |
| https://model-{id}-{env}.api.baseten.co       | /inference/regional/{id}/{env}                  |
| https://app.baseten.co/graphql/               | /graphql/                                       |
| S3                                            | /s3/{bucket}/{key}, signatures checked          |

`/inference` without a model is the seeded model's host; below it a deployment of any model is found by its own id.

Fates of life cycles (control API): `create` (BUILDING, DEPLOYING, LOADING_MODEL), `push` (a deployment that is pushed
to, or copied for, an environment that serves already: it passes SCALED_TO_ZERO), `activate`, `deactivate`, `promotion`
(RELEASING). A failure with "capacity" in its reason ends INACTIVE, silently; with "unhealthy", UNHEALTHY.

What is unknown about Baseten, and what the emulator does: the table in docs/sandbox.md.
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.baseten.bodies import Autoscaling, Payload
from prefect_modeldeploy.sandbox.baseten.creating import s3_error
from prefect_modeldeploy.sandbox.baseten.graphql import Graph
from prefect_modeldeploy.sandbox.emulator import Refusal

_SEEDED_FOR_SECONDS = 86400.0
_OPEN = ("/s3/", "/download/")
"""Paths with credentials of another kind, which their handlers check."""


class BasetenEmulator(Graph):
    """All of it."""

    def seed(self) -> None:
        """A model with one healthy deployment in production."""
        facts = self.world.facts
        facts.update(
            api_key=self.new_secret("sandbox"),
            s3_access_id="SANDBOXACCESSID",
            s3_secret=self.new_secret("s3"),
            s3_session_token=self.new_secret("session"),
            download_secret=self.new_secret("download"),
            team_id=self.world.new_id("team"),
            created_at=self.clock.stamp(),
        )
        model = self.add_model("sandbox-model")
        payload = Payload(
            config={"model_name": "sandbox-model"}, autoscaling_settings=Autoscaling(min_replica=1, max_replica=4)
        )
        record = self.add_deployment(model, "deployment-1", payload, "create", None)
        record["life"].update(since=record["life"]["since"] - _SEEDED_FOR_SECONDS, fate=None)
        record.pop("unseen", None)
        self.world.count(f"name-{model['id']}")
        env = self.world["environments"][f"{model['id']}/production"]
        env.update(current=record["id"], instance_type="1x4", autoscaling=dict(record["autoscaling"]))
        facts.update(model_id=model["id"], deployment_id=record["id"])

    def describe(self, url: str) -> dict[str, Any]:
        """This provider's object in the ready file."""
        self.own_url, facts = url, self.world.facts
        return {
            "base_url": url,
            "inference_url": f"{url}/inference",
            "api_key": facts["api_key"],
            "seed": {"model_id": facts["model_id"], "deployment_id": facts["deployment_id"]},
        }

    async def authenticate(self, request: Request) -> None:
        """`Authorization: Api-Key ...` or `Bearer ...`, on both hosts."""
        path = request.url.path
        if path.startswith(_OPEN):
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() in ("api-key", "bearer") and key == self.world.facts["api_key"]:
            return
        if path.startswith(("/inference", "/m/")):
            raise Refusal(401, "Unauthorized", "unauthorized", inference=1)
        raise Refusal(403, "Authorization error", "PERMISSION_DENIED")

    def envelope(self, refusal: Refusal) -> Response:
        """S3's errors are its own."""
        return s3_error(refusal) if refusal.details.get("s3") else super().envelope(refusal)

    def routes(self) -> Sequence[BaseRoute]:
        """Everything."""
        return [
            *self._model_routes(),
            *self._deployment_routes(),
            *self._environment_routes(),
            *self._organization_routes(),
            *self.inference_routes(),
            Route("/graphql/", self.graphql, methods=["POST"]),
            Route("/s3/{bucket}/{key:path}", self.s3, methods=["PUT", "POST"]),
            Route("/download/{key:path}", self.download, methods=["GET"]),
        ]

    def _model_routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models", self.create_model, methods=["POST"]),
            Route("/v1/teams/{team}/models", self.list_models, methods=["GET"]),
            Route("/v1/teams/{team}/models", self.create_model, methods=["POST"]),
            Route("/v1/prepare_model_upload", self.prepare, methods=["POST"]),
            Route("/v1/models/{model}", self.get_model, methods=["GET"]),
            Route("/v1/models/{model}", self.rename_model, methods=["PATCH"]),
            Route("/v1/models/{model}", self.delete_model, methods=["DELETE"]),
            Route("/v1/models/{model}/audit_logs", self.audit_logs, methods=["GET"]),
        ]

    def _deployment_routes(self) -> list[BaseRoute]:
        base, one = "/v1/models/{model}/deployments", "/v1/models/{model}/deployments/{deployment}"
        return [
            Route(base, self.list_deployments, methods=["GET"]),
            Route(base, self.create_deployment, methods=["POST"]),
            Route(one, self.get_deployment, methods=["GET"]),
            Route(one, self.rename_deployment, methods=["PATCH"]),
            Route(one, self.delete_deployment, methods=["DELETE"]),
            Route(f"{one}/activate", self.activate, methods=["POST"]),
            Route(f"{one}/deactivate", self.deactivate, methods=["POST"]),
            Route(f"{one}/retry", self.retry, methods=["POST"]),
            Route(f"{one}/promote", self.promote_deployment, methods=["POST"]),
            Route(f"{one}/autoscaling_settings", self.set_autoscaling, methods=["PATCH"]),
            Route(f"{one}/request_backpressure_settings", self.set_backpressure, methods=["PATCH"]),
            Route(f"{one}/replicas/{{replica}}", self.terminate_replica, methods=["DELETE"]),
            Route(f"{one}/config", self.config, methods=["GET"]),
            Route(f"{one}/download", self.download_url, methods=["GET"]),
            Route(f"{one}/logs", self.logs, methods=["GET"]),
            Route(f"{one}/logs", self.logs_by_post, methods=["POST"]),
            Route(f"{one}/metrics", self.metrics, methods=["GET"]),
            Route(f"{one}/startups", self.startups, methods=["GET"]),
            Route(f"{one}/startups/summary", self.startup_summary, methods=["GET"]),
        ]

    def _environment_routes(self) -> list[BaseRoute]:
        base, one = "/v1/models/{model}/environments", "/v1/models/{model}/environments/{environment}"
        signals = ("pause", "resume", "force_cancel", "force_roll_forward")
        return [
            Route(base, self.list_environments, methods=["GET"]),
            Route(base, self.create_environment, methods=["POST"]),
            Route(one, self.get_environment, methods=["GET"]),
            Route(one, self.update_environment, methods=["PATCH"]),
            Route(one, self.delete_environment, methods=["DELETE"]),
            Route(f"{one}/activate", self.activate_environment, methods=["POST"]),
            Route(f"{one}/deactivate", self.deactivate_environment, methods=["POST"]),
            Route(f"{one}/promote", self.promote_to, methods=["POST"]),
            Route(f"{one}/cancel_promotion", self.cancel_promotion, methods=["POST"]),
            *(Route(f"{one}/{name}_promotion", self.signal(name), methods=["POST"]) for name in signals),
            Route(f"{one}/logs", self.environment_logs, methods=["GET"]),
            Route(f"{one}/metrics", self.environment_metrics, methods=["GET"]),
            Route(f"{one}/startups", self.startups, methods=["GET"]),
            Route(f"{one}/startups/summary", self.startup_summary, methods=["GET"]),
        ]

    def _organization_routes(self) -> list[BaseRoute]:
        groups = [
            Route(f"{prefix}/environment_groups", self.environment_groups, methods=["GET"])
            for prefix in ("/v1", "/v1/teams/{team}")
        ] + [
            Route(f"{prefix}/environment_groups/{{environment}}", self.environment_group, methods=["GET", "PATCH"])
            for prefix in ("/v1", "/v1/teams/{team}")
        ]
        secrets: list[BaseRoute] = []
        for prefix in ("/v1", "/v1/teams/{team}"):
            secrets += [
                Route(f"{prefix}/secrets", self.list_secrets, methods=["GET"]),
                Route(f"{prefix}/secrets", self.put_secret, methods=["POST"]),
                Route(f"{prefix}/secrets/{{name}}", self.delete_secret, methods=["DELETE"]),
            ]
        return [
            *secrets,
            *groups,
            Route("/v1/instance_types", self.instance_types, methods=["GET"]),
            Route("/v1/instance_type_prices", self.instance_type_prices, methods=["GET"]),
            Route("/v1/teams", self.teams, methods=["GET"]),
            Route("/v1/teams/{team}", self.get_team, methods=["GET"]),
            Route("/v1/teams/{team}/regions", self.regions, methods=["GET"]),
            Route("/v1/audit_logs", self.audit_logs, methods=["GET"]),
        ]


EMULATOR = BasetenEmulator
