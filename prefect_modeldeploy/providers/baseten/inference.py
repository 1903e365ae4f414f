"""Baseten's inference API: one host a model, the deployment or environment in the path.

    https://model-{model_id}.api.baseten.co/{target}/predict

`target` is what `deployment`, `environment`, PRODUCTION or DEVELOPMENT give.
"""

from typing import Any

import httpx

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.baseten.requests import AsyncRequest
from prefect_modeldeploy.providers.baseten.words import quoted
from prefect_modeldeploy.transport import Transport
from prefect_modeldeploy.urls import check_base_url

PRODUCTION = "production"
DEVELOPMENT = "development"


def deployment(deployment_id: str) -> str:
    """The target for one deployment, by the vendor's id."""
    return f"deployment/{quoted(deployment_id)}"


def environment(name: str) -> str:
    """The target for whatever serves an environment."""
    return f"environments/{quoted(name)}"


def check_inference_url(url: str, *, allow_http: bool = False) -> str:
    """Return the template of the address of a model.

    Raises:
        InvalidInput: It is no https URL, or plain http to another machine and that was not allowed.
    """
    if "{model_id}" not in url:
        url = url.rstrip("/") + "/model-{model_id}"
    try:
        check_base_url("inference_url", url.replace("{model_id}", "x"), allow_http=allow_http)
    except InvalidInput as error:
        raise InvalidInput("inference_url", url if "@" not in url else "***", error.hint) from None
    return url.rstrip("/")


class InferenceApi:
    """The operations of the inference host.

    Args:
        transport: With the credentials.
        template: Address of a model, with `{model_id}` in it.
        timeout_seconds: For one prediction, waking included.
    """

    def __init__(self, transport: Transport, template: str, timeout_seconds: float) -> None:
        self._transport, self._template = transport, template
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, 10.0))

    def url(self, model: str, target: str) -> str:
        """Where a deployment or environment answers; `/predict` follows."""
        return f"{self._template.replace('{model_id}', quoted(model))}/{target}"

    async def predict(self, model: str, target: str, payload: Any, *, path: str = "predict") -> Any:
        """Send one request; parked by Baseten while the deployment wakes, up to the timeout.

        Args:
            model: Model id.
            target: Deployment or environment.
            payload: Any JSON.
            path: `predict`, or `sync/<route>` for a custom server's own routes.
        """
        url = f"{self.url(model, target)}/{path.lstrip('/')}"
        return await self._transport.call("POST", url, json=payload, timeout=self._timeout)

    async def async_predict(self, model: str, target: str, request: AsyncRequest) -> str:
        """Queue a request; returns its id."""
        answer = await self._transport.call("POST", f"{self.url(model, target)}/async_predict", json=request.sent())
        return str(answer["request_id"])

    async def async_status(self, model: str, request_id: str) -> dict[str, Any]:
        """Where a queued request stands; known for an hour."""
        return dict(await self._transport.call("GET", self.url(model, f"async_request/{quoted(request_id)}")))

    async def cancel_async(self, model: str, request_id: str) -> dict[str, Any]:
        """Take a request out of the queue."""
        return dict(await self._transport.call("DELETE", self.url(model, f"async_request/{quoted(request_id)}")))

    async def queue_status(self, model: str, target: str) -> dict[str, Any]:
        """How many requests wait, and how many are being answered."""
        return dict(await self._transport.call("GET", f"{self.url(model, target)}/async_queue_status"))

    async def wake(self, model: str, target: str) -> None:
        """Start a replica of what was scaled to zero, without a request."""
        await self._transport.send("POST", f"{self.url(model, target)}/wake", idempotent=True)
