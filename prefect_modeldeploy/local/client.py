"""The control API from the other side: one method per route, our vocabulary in and out. No Prefect here."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem, ProviderError, StaleEpoch
from prefect_modeldeploy.local.measured import from_json
from prefect_modeldeploy.local.relay import ANSWER_SECONDS, ARM_HEADER
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.endpoint import Endpoint
from prefect_modeldeploy.traffic.windows import PAGE, EndpointWindow
from prefect_modeldeploy.transport import RetryPolicy, SecretHeader, Transport, read_problem, trusted

S = TypeVar("S", DeploymentSpec, DeploymentUpdate)

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_PATH_OPTIONS = ("python", "working_directory")


class NodeClient:
    """Speaks to one node, and is a `TrafficRouter` for its endpoints. Use as an async context manager.

    Args:
        control_url: The node's control API; https unless it is on loopback.
        token: Its bearer token.
        policy: How long to retry.
        tls: Which authorities to trust; None: those that Python trusts.
        allow_http: Allow plain http to another machine.

    Raises:
        AuthenticationFailed, NotFound, Conflict, ProviderUnavailable: `provider` is "local".
        StaleEpoch: A newer rollout owns the endpoint.
        InvalidInput: The node refused a value; the message names the field.
    """

    def __init__(
        self,
        control_url: str,
        token: SecretStr,
        *,
        policy: RetryPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        allow_http: bool = False,
    ) -> None:
        # With a transport of its own httpx asks no proxy of the environment, which could not reach this machine.
        self._near = urlsplit(control_url).hostname in _THIS_MACHINE
        own = tls is not None or self._near
        self._transport = Transport(
            "local",
            control_url,
            auth=SecretHeader(token, scheme="Bearer"),
            secrets=[token],
            policy=policy,
            read_error=_read_error,
            allow_http=allow_http,
            http=httpx.AsyncHTTPTransport(verify=tls or trusted()) if own else None,
        )

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    # --- the node --------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """The node: place, pid, home, gateway_url, gateway_healthy, counts."""
        answer: dict[str, Any] = await self._call("GET", "/v1/status")
        return answer

    async def place(self) -> str:
        """What tells the node from all others; empty when it is of an older version, and does not say."""
        return str((await self.status()).get("place", ""))

    # --- deployments -----------------------------------------------------------------------------------------------

    async def list_deployments(self, *, model: str | None = None) -> list[Deployment]:
        """All deployments, or those of one model, by name."""
        answer = await self._call("GET", "/v1/deployments")
        found = [Deployment.model_validate(item) for item in answer["deployments"]]
        return [deployment for deployment in found if model is None or deployment.model_id == model]

    async def get_deployment(self, deployment_id: str) -> Deployment:
        """One deployment. Raises NotFound."""
        return await self._deployment("GET", deployment_id)

    async def create_deployment(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment, or return the one of the same name and spec. Raises Conflict if the spec differs.

        Relative paths in the spec are meant from the current directory of this process. Sending the same spec twice is
        the same as once, so a lost answer is simply asked for again.
        """
        body = with_absolute_paths(spec).model_dump(mode="json")
        return Deployment.model_validate(await self._call("POST", "/v1/deployments", json=body, idempotent=True))

    async def update_deployment(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change a deployment in place; it serves on while new replicas start."""
        body = with_absolute_paths(update).model_dump(mode="json", exclude_none=True)
        return await self._deployment("PATCH", deployment_id, json=body, idempotent=True)

    async def delete_deployment(self, deployment_id: str) -> None:
        """Drain, stop and forget it; one that is gone is no error. Raises Conflict while an endpoint routes to it."""
        try:
            await self._deployment("DELETE", deployment_id)
        except NotFound:
            return

    async def scale_deployment(
        self, deployment_id: str, *, replicas: int | None = None, autoscaling: Autoscaling | None = None
    ) -> Deployment:
        """Give the number of replicas (0: none until the next request), or the autoscaling fields that change."""
        body = {"replicas": replicas} if replicas is not None else {}
        if autoscaling is not None:
            body["autoscaling"] = autoscaling.model_dump(mode="json", exclude_none=True)  # type: ignore[assignment]
        return await self._deployment("POST", deployment_id, "/scale", json=body, idempotent=True)

    async def stop_deployment(self, deployment_id: str) -> Deployment:
        """Take it out of service; nothing but `start_deployment` brings it back."""
        return await self._deployment("POST", deployment_id, "/stop", idempotent=True)

    async def start_deployment(self, deployment_id: str) -> Deployment:
        """Bring a stopped or failed deployment back."""
        return await self._deployment("POST", deployment_id, "/start", idempotent=True)

    async def wake_deployment(self, deployment_id: str) -> Deployment:
        """Start the replicas of one that is at zero, without waiting. Raises Conflict if it is STOPPED or FAILED."""
        return await self._deployment("POST", deployment_id, "/wake", idempotent=True)

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """The last lines of its replicas' logs, oldest first, each replica under a line with its name."""
        answer = await self._call("GET", f"/v1/deployments/{_quoted(deployment_id)}/logs", params={"tail": tail})
        return [str(line) for line in answer["lines"]]

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """Seconds since a request to it ended; 0 while one is in flight.

        If there was none yet: so long the node has watched for one, since it has started or knows the deployment. None
        when it may have missed one: then nobody knows.
        """
        return _idle(await self._call("GET", f"/v1/deployments/{_quoted(deployment_id)}/activity"))

    # --- endpoints -------------------------------------------------------------------------------------------------

    async def list_endpoints(self) -> list[Endpoint]:
        """All endpoints, by name."""
        answer = await self._call("GET", "/v1/endpoints")
        return [Endpoint.model_validate(item) for item in answer["endpoints"]]

    async def get_endpoint(self, name: str) -> Endpoint:
        """One endpoint. Raises NotFound."""
        return Endpoint.model_validate(await self._call("GET", f"/v1/endpoints/{_quoted(name)}"))

    async def put_endpoint(self, endpoint: Endpoint, *, expected_epoch: int | None = None) -> Endpoint:
        """Create an endpoint, or replace its arms; the node keeps its epoch, whatever `endpoint.epoch` says."""
        body = {
            "arms": [arm.model_dump(mode="json") for arm in endpoint.arms],
            "sticky_header": endpoint.sticky_header,
            "shadow": endpoint.shadow and endpoint.shadow.model_dump(mode="json"),
            "expected_epoch": expected_epoch,
        }
        return Endpoint.model_validate(await self._call("PUT", f"/v1/endpoints/{_quoted(endpoint.name)}", json=body))

    async def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint; one that is gone is no error."""
        try:
            await self._call("DELETE", f"/v1/endpoints/{_quoted(name)}")
        except NotFound:
            return

    async def set_weights(
        self, name: str, weights: Mapping[str, float], *, expected_epoch: int | None = None
    ) -> Endpoint:
        """Move the shares, in percent by arm; arms that are not named get 0. In force when this returns."""
        body = {"weights": dict(weights), "expected_epoch": expected_epoch}
        return Endpoint.model_validate(await self._call("PUT", f"/v1/endpoints/{_quoted(name)}/weights", json=body))

    async def put_arm(self, arm: RemoteArm) -> dict[str, Any]:
        """Let the node reach a deployment at a provider; its id can then be an arm of endpoints.

        Returns:
            What the node shows of it: no secret.

        Raises:
            InvalidInput: The vendor's certificate is not trusted, or its token endpoint refuses the client.
            ProviderUnavailable: The vendor cannot be reached from the node.
        """
        shown: dict[str, Any] = await self._call("PUT", f"/v1/arms/{_quoted(arm.id)}", json=arm.revealed())
        return shown

    async def list_arms(self) -> list[dict[str, Any]]:
        """The deployments at providers that the node can reach, by id; no secrets."""
        return list((await self._call("GET", "/v1/arms"))["arms"])

    async def arm_idle_seconds(self, arm_id: str) -> float | None:
        """As `idle_seconds`, of a deployment at a provider: what came through this gateway. Raises NotFound."""
        return _idle(await self._call("GET", f"/v1/arms/{_quoted(arm_id)}/activity"))

    async def delete_arm(self, arm_id: str) -> None:
        """Let the node forget an arm and its credentials; one that is gone is no error."""
        try:
            await self._call("DELETE", f"/v1/arms/{_quoted(arm_id)}")
        except NotFound:
            return

    async def claim(self, name: str) -> int:
        """Take an endpoint over: writers with an older epoch are refused from now on. Returns the new epoch."""
        return int((await self._call("POST", f"/v1/endpoints/{_quoted(name)}/epoch", idempotent=True))["epoch"])

    async def url(self, name: str) -> str:
        """Where clients call an endpoint."""
        return f"{(await self.status())['gateway_url']}/{_quoted(name)}"

    async def ask(self, name: str, arm: str, payload: Any) -> Any:
        """Send one request to an arm of an endpoint, chosen instead of drawn; returns the decoded answer."""
        return await self.post(f"{await self.url(name)}/predict", payload, {ARM_HEADER: arm})

    async def post(self, url: str, payload: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Send one request to an address of the gateway; returns the decoded answer.

        From another machine, which does not reach the gateway, it goes by way of the control API.
        """
        parts, options = urlsplit(url), {"json": payload, "headers": headers, "timeout": ANSWER_SECONDS}
        if not self._near:
            return await self._call("POST", f"/v1/gateway{parts.path}", **options)
        # A connection of its own for each: one that was open at a reload may be answered by the former state.
        direct, once = httpx.AsyncHTTPTransport(verify=trusted()), RetryPolicy(attempts=1)
        gateway = Transport("local", f"{parts.scheme}://{parts.netloc}", policy=once, http=direct)
        async with gateway:
            return await gateway.call("POST", parts.path, **options)

    async def cursor(self, name: str) -> str:
        """Where the measurements of an endpoint stand now, for `windows`."""
        return str((await self._windows(name, "now"))["cursor"])

    async def windows(
        self, name: str, *, after: str | None = None, since: float | None = None
    ) -> tuple[list[EndpointWindow], str]:
        """What the arms of an endpoint experienced, oldest first, and the next cursor.

        Args:
            name: Which endpoint.
            after: Cursor of a former call, or of `cursor`; None: from the oldest that is kept.
            since: Only windows that end after this, in seconds since the epoch.
        """
        windows, cursor = list[EndpointWindow](), after or "0"
        while True:
            page = await self._windows(name, cursor, int(since or 0))
            windows += [from_json(window) for window in page["windows"]]
            cursor = str(page["cursor"])
            if len(page["windows"]) < PAGE:
                return windows, cursor

    async def audit(self, name: str, *, after: int = 0) -> list[dict[str, Any]]:
        """Entries (id, at, who, event) after the one with that id, oldest first, at most 1,000."""
        answer = await self._call("GET", f"/v1/endpoints/{_quoted(name)}/audit", params={"after": after})
        return list(answer["entries"])

    async def append_audit(self, name: str, who: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Add an entry to an endpoint's history."""
        body = {"who": who, "event": dict(event)}
        entry: dict[str, Any] = await self._call("POST", f"/v1/endpoints/{_quoted(name)}/audit", json=body)
        return entry

    # --- plumbing --------------------------------------------------------------------------------------------------

    async def _windows(self, name: str, after: str, since: float = 0.0) -> dict[str, Any]:
        answer: dict[str, Any] = await self._call(
            "GET", f"/v1/endpoints/{_quoted(name)}/windows", params={"after": after, "since": since}
        )
        return answer

    async def _deployment(self, method: str, deployment_id: str, path: str = "", **options: Any) -> Deployment:
        answer = await self._call(method, f"/v1/deployments/{_quoted(deployment_id)}{path}", **options)
        return Deployment.model_validate(answer)

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            return await self._transport.call(method, path, **options)
        except Conflict as error:
            if error.problem.code == "stale_epoch":
                raise StaleEpoch(error.problem.message) from error
            raise
        except ProviderError as error:
            if error.problem.code == "invalid":
                raise _as_invalid_input(error.problem) from error
            raise


def with_absolute_paths(spec: S) -> S:
    """The same spec with its paths as seen from here: the node has another current directory."""
    changes: dict[str, Any] = {}
    if spec.source and spec.source.endswith(".joblib"):
        changes["source"] = _absolute(spec.source)
    if spec.options:
        options = dict(spec.options)
        for name in _PATH_OPTIONS:
            if isinstance(options.get(name), str):
                options[name] = _absolute(options[name])
        if isinstance(options.get("python_path"), list | tuple):
            options["python_path"] = [_absolute(str(path)) for path in options["python_path"]]
        changes["options"] = options
    return spec.model_copy(update=changes)


def trusting(ca_file: str | None) -> ssl.SSLContext | None:
    """Trust the authorities in a PEM file; None: those that Python trusts.

    Raises:
        InvalidInput: `ca_file` cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else None
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput("ca_file", ca_file, f"cannot be read as PEM: {error}") from error


def _absolute(path: str) -> str:
    """Not resolved: the interpreter of a virtual environment is a link that must stay one."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _read_error(response: httpx.Response) -> Problem:
    problem = read_problem(response)
    if problem.code != "invalid":
        return problem
    return replace(problem, parameters=response.json()["error"])


def _as_invalid_input(problem: Problem) -> InvalidInput:
    fields = problem.parameters or {}
    return InvalidInput(fields.get("field", "body"), fields.get("value"), fields.get("hint", problem.message))


def _idle(activity: Mapping[str, Any]) -> float | None:
    """A node of the former version does not say how long it has watched."""
    known = activity["idle_seconds"] if activity["idle_seconds"] is not None else activity.get("watched_seconds")
    return None if known is None else float(known)
