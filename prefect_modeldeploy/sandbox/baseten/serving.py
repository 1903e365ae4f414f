"""The inference host: predictions that wake, park and fail as Baseten's do, sync and async."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.baseten.bodies import AsyncPredict
from prefect_modeldeploy.sandbox.baseten.core import FAILED, OFF
from prefect_modeldeploy.sandbox.baseten.managing import Handler
from prefect_modeldeploy.sandbox.baseten.observing import Observing
from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

PARKED_SECONDS = 30.0
"""How long a request is parked while a deployment wakes, in our time (the vendor: 1200 s)."""

_JSON: TypeAdapter[Any] = TypeAdapter(JsonValue)


class Serving(Observing):
    """Predict, async predict, wake."""

    def inference_routes(self) -> list[BaseRoute]:
        """The paths of one model's host, below the prefixes that stand in for host names."""
        targets = {
            "/production": ("environment", "production"),
            "/development": ("deployment", "development"),
            "/environments/{environment}": ("environment", None),
            "/deployment/{deployment}": ("deployment", None),
        }
        found: list[BaseRoute] = []
        for prefix in ("/inference/model-{model}", "/inference/m/{model}", "/m/{model}", "/inference"):
            for path, (kind, name) in targets.items():
                found += self._target_routes(prefix + path, self._finder(kind, name))
            found += [
                Route(f"{prefix}/async_request/{{request}}", self.async_status, methods=["GET"]),
                Route(f"{prefix}/async_request/{{request}}", self.async_cancel, methods=["DELETE"]),
            ]
        regional = "/inference/regional/{model}/{environment}"
        return found + self._target_routes(regional, self._finder("environment", None))

    def _target_routes(self, path: str, find: Callable[[Request], Record]) -> list[BaseRoute]:
        def bound(handler: Callable[[Request, Record], Any]) -> Handler:
            async def run(request: Request) -> Response:
                try:
                    answer: Response = await handler(request, find(request))
                except Refusal as refusal:
                    raise Refusal(
                        refusal.status, refusal.message, _inference_code(refusal), **{**refusal.details, "inference": 1}
                    ) from None
                return answer

            return run

        return [
            Route(f"{path}/predict", bound(self.predict), methods=["POST"]),
            Route(f"{path}/sync/{{route:path}}", bound(self.predict), methods=["POST"]),
            Route(f"{path}/async_predict", bound(self.async_predict), methods=["POST"]),
            Route(f"{path}/async_queue_status", bound(self.queue_status), methods=["GET"]),
            Route(f"{path}/wake", bound(self.wake), methods=["POST"]),
        ]

    def _finder(self, kind: str, name: str | None) -> Callable[[Request], Record]:
        def find(request: Request) -> Record:
            if kind == "deployment":
                return self._named_deployment(request, name or request.path_params["deployment"])
            model = self.find_model(request.path_params.get("model", self.world.facts["model_id"]))
            env = self.find_environment(model, name or request.path_params["environment"])
            return self._routed(env)

        return find

    def _named_deployment(self, request: Request, deployment: str) -> Record:
        if "model" not in request.path_params and deployment in self.world["deployments"]:
            # Below the bare prefix a deployment is found by its own id: the host would name the model.
            record = self.world["deployments"][deployment]
            return self.find_deployment(self.world["models"][record["model_id"]], deployment)
        model = self.find_model(request.path_params.get("model", self.world.facts["model_id"]))
        self.settle_all(model)
        return self.find_deployment(model, deployment)

    def _routed(self, env: Record) -> Record:
        """What answers a request to an environment: during a rolling promotion both do, by their shares."""
        promotion = self.world["promotions"].get(env["promotion"] or "")
        if promotion is not None:
            share = self.percent(promotion)
            number = promotion["calls"] = promotion.get("calls", 0) + 1
            if number * share // 100 > (number - 1) * share // 100:
                return self.world["deployments"][promotion["candidate"]]
        record = self.world["deployments"].get(env["current"] or "")
        if record is None:
            raise Refusal(404, "Model does not exist", "model_does_not_exist")
        if self.status(record) in FAILED | {"UNHEALTHY"}:
            raise Refusal(500, "Model is unhealthy, it is not ready to make predictions", "model_not_ready")
        return record

    # --- requests --------------------------------------------------------------------------------------------------

    async def predict(self, request: Request, record: Record) -> Response:
        """POST .../predict."""
        payload = _payload(await request.body())
        status = self.status(record)
        if status in OFF or status in FAILED:
            raise Refusal(404, "Model version is not active", "model_does_not_exist")
        started = time.monotonic()
        try:
            await self._wait_until_up(record)
            answer = await self._answer(record, payload)
        except Refusal as refusal:
            self.count(record, refusal.status, time.monotonic() - started)
            raise
        self.count(record, 200, time.monotonic() - started)
        headers = {"x-baseten-request-id": uuid.uuid4().hex, "x-baseten-model-prediction-attempts": "1"}
        return JSONResponse(answer, headers=headers)

    async def _wait_until_up(self, record: Record) -> None:
        """Park the request while the deployment starts or wakes."""
        deadline = time.monotonic() + PARKED_SECONDS
        while self.word(record) != "ACTIVE":
            if self.status(record) in OFF | FAILED or time.monotonic() > deadline:
                raise Refusal(500, "Model is not ready, it is still starting up", "model_not_ready")
            await self.clock.sleep(0.2)
        self.status(record)
        if not await self.pool(record).woken(self.scaling(record), max(0.0, deadline - time.monotonic())):
            raise Refusal(500, "Model is not ready, it is still waking up", "model_not_ready")

    async def _answer(self, record: Record, payload: Any) -> Any:
        model = self.world["models"][record["model_id"]]
        names = [record["id"], record["name"], model["id"], model["name"]]
        async with self.pool(record).request(self.scaling(record)):
            try:
                return await self.shared.behaviours.answer(self.name, names, payload)
            except ModelFailed as error:
                self.log(record, "ERROR", f"predict failed: {error}")
                raise Refusal(500, f"Internal Server Error: {error}", "application_error") from None

    async def wake(self, _: Request, record: Record) -> Response:
        """POST .../wake."""
        if self.status(record) in OFF | FAILED:
            raise Refusal(404, "Model version is not active", "model_does_not_exist")
        if self.word(record) == "ACTIVE":
            self.pool(record).start_first()
        return Response(status_code=202)

    async def async_predict(self, request: Request, record: Record) -> Response:
        """POST .../async_predict: answered at once; nothing is sent to the webhook."""
        asked = await self.body(request, AsyncPredict)
        request_id = self.world.new_id("request", 12)
        if self.status(record) in OFF | FAILED:
            raise Refusal(404, "Model version is not active", "model_does_not_exist")
        try:
            await self._answer(record, asked.model_input)
            status, errors = "SUCCEEDED", []
        except Refusal as refusal:
            status, errors = "FAILED", [{"code": "MODEL_PREDICT_ERROR", "message": refusal.message}]
        self.world["async_requests"][request_id] = {
            "request_id": request_id,
            "model_id": record["model_id"],
            "deployment_id": record["id"],
            "status": status,
            "webhook_status": "NO_WEBHOOK_PROVIDED" if asked.webhook_endpoint is None else "PENDING",
            "created_at": self.clock.stamp(),
            "status_at": self.clock.stamp(),
            "errors": errors,
        }
        return JSONResponse({"request_id": request_id}, 201)

    async def queue_status(self, _: Request, record: Record) -> Response:
        """GET .../async_queue_status."""
        busy = self.pool(record).in_flight
        counts = {"num_queued_requests": 0, "num_in_progress_requests": busy}
        return JSONResponse({"model_id": record["model_id"], "deployment_id": record["id"], **counts})

    def _async_request(self, request: Request) -> Record:
        found = self.world["async_requests"].get(request.path_params["request"])
        if found is None:
            raise Refusal(404, "No such request", inference=1)
        return found

    async def async_status(self, request: Request) -> Response:
        """GET /async_request/{request}."""
        return JSONResponse(self._async_request(request))

    async def async_cancel(self, request: Request) -> Response:
        """DELETE /async_request/{request}: it is too late always, since requests are answered at once."""
        found = self._async_request(request)
        message = f"Request is {found['status']} and cannot be canceled."
        return JSONResponse({"request_id": found["request_id"], "canceled": False, "message": message})


def _payload(raw: bytes) -> Any:
    try:
        return _finite(_JSON.validate_json(raw))
    except ValidationError as error:
        text = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise Refusal(400, f"The body is no JSON: {text}", "client_error") from None


def _finite(value: Any) -> Any:
    left = [value]
    while left:
        match left.pop():
            case float() as number if number != number or number in (float("inf"), float("-inf")):
                raise Refusal(400, "The body holds a number that JSON has not", "client_error")
            case list() as items:
                left.extend(items)
            case dict() as mapping:
                left.extend(mapping.values())
    return value


def _inference_code(refusal: Refusal) -> str | None:
    if refusal.status == 404:
        return "model_does_not_exist"
    return "client_error" if refusal.status == 400 else refusal.code
