"""Single requests to models from other machines: those reach the control API alone, so it passes them on."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from prefect_modeldeploy.local.refusals import Refused

ARM_HEADER = "X-Modeldeploy-Arm"
"""Names the arm of an endpoint that shall answer."""

ANSWER_SECONDS = 150.0
"""A request may be held while a model wakes."""


class Relay:
    """Sends a body to the gateway and returns the answer as it is: for samples and labelled sets, not for clients."""

    def __init__(self, gateway_url: Callable[[], str]) -> None:
        self._gateway_url = gateway_url

    async def post(self, request: Request) -> Response:
        """Pass one request on."""
        import httpx  # here: most nodes never need it

        names = ("content-type", ARM_HEADER)
        headers = {name: value for name in names if (value := request.headers.get(name))}
        url = f"{self._gateway_url()}/{request.path_params['path']}"
        # A connection of its own for each: one that was open at a reload may be answered by the former state.
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as gateway:
            try:
                answer = await gateway.post(url, content=await request.body(), headers=headers)
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
                raise Refused("unavailable", f"the gateway does not answer: {why}") from error
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
