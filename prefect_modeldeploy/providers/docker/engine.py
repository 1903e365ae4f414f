"""The Engine API without its blocking, and with our errors. Every call may be repeated: names are unique on a host."""

import asyncio
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import anyio.to_thread
import docker
import requests
import stamina
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import DeviceRequest
from docker.utils import parse_repository_tag
from prefect_docker import DockerHost, DockerRegistryCredentials
from pydantic import SecretStr

from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
)

T = TypeVar("T")
Inspected = dict[str, Any]

PROVIDER = "docker"
_REDACTED = "**********"
_PORT_TAKEN = ("port is already allocated", "address already in use")


class Engine:
    """One Docker host.

    Args:
        host: How it is reached.
        registry: What lets it in at the registry of its images.
        secrets: Values that must appear in no message and no log line.
    """

    def __init__(
        self, host: DockerHost, registry: DockerRegistryCredentials | None, secrets: Collection[SecretStr]
    ) -> None:
        self._host, self._registry = host, registry
        known = [*secrets, *([registry.password] if registry else [])]
        self._secrets = [secret.get_secret_value() for secret in known if secret.get_secret_value()]
        self._docker: docker.DockerClient | None = None
        self._opening = Lock()

    async def close(self) -> None:
        """Let go of the connections."""
        if self._docker is not None:
            await anyio.to_thread.run_sync(self._docker.close)

    async def version(self) -> str:
        """The engine's version."""
        answer = await self._call("version", lambda engine: engine.version())
        return str(answer["Version"])

    async def containers(self, labels: Mapping[str, str]) -> list[Inspected]:
        """What `docker inspect` shows of the containers with these labels, also of those that do not run."""
        wanted = {"label": [f"{name}={value}" if value else name for name, value in labels.items()]}
        listed = await self._call("list", lambda engine: engine.api.containers(all=True, filters=wanted))
        found = await asyncio.gather(*(self.inspect(one["Id"]) for one in listed))
        return [one for one in found if one is not None]

    async def inspect(self, container: str) -> Inspected | None:
        """What `docker inspect` shows of a container, by id or name; None if there is none."""
        try:
            shown: Inspected = await self._call(
                f"inspect {container[:12]}", lambda engine: engine.api.inspect_container(container)
            )
        except NotFound:
            return None
        return shown

    async def create(self, name: str, image: str, **settings: Any) -> str:
        """Make a container, without starting it; returns its id. Raises Conflict: the name is taken."""
        if gpus := settings.pop("gpu_count", None):
            settings["device_requests"] = [DeviceRequest(count=gpus, capabilities=[["gpu"]])]
        made = await self._call(
            f"create {name}", lambda engine: engine.containers.create(image, name=name, detach=True, **settings)
        )
        return str(made.id)

    async def start(self, container: str) -> None:
        """Start it; one that runs is left alone."""
        await self._call(f"start {container[:12]}", lambda engine: engine.api.start(container))

    async def stop(self, container: str, seconds: int) -> None:
        """Send SIGTERM, and SIGKILL after so many seconds. One that is gone is no error."""
        try:
            await self._call(f"stop {container[:12]}", lambda engine: engine.api.stop(container, timeout=seconds))
        except NotFound:
            return

    async def remove(self, container: str) -> None:
        """Remove it and its anonymous volumes. One that is gone, or being removed, is no error."""
        try:
            await self._call(
                f"remove {container[:12]}", lambda engine: engine.api.remove_container(container, v=True, force=True)
            )
        except NotFound:
            return
        except Conflict as error:
            if "already in progress" not in error.problem.message:
                raise

    async def logs(self, container: str, tail: int) -> list[str]:
        """The last lines, each after its time; oldest first. Secrets of ours that a model printed are blacked out."""
        try:
            text = await self._call(
                f"logs {container[:12]}", lambda engine: engine.api.logs(container, tail=tail, timestamps=True)
            )
        except (NotFound, Conflict):
            return []
        return self._redact(text.decode(errors="replace")).splitlines()

    async def have_image(self, image: str, when: str) -> None:
        """Pull an image `always`, if it is `missing`, or `never`.

        Raises:
            InvalidInput: It is not on the host, and must not or cannot be pulled; says why.
            AuthenticationFailed: The registry does not take the block's credentials.
        """
        if when != "always" and await self._has(image):
            return
        if when == "never":
            raise InvalidInput("source", image, "is not on the Docker host, and options.pull is 'never'")
        await self.login()
        repository, tag = parse_repository_tag(image)
        try:
            said = await self._call(f"pull {image}", lambda engine: engine.api.pull(repository, tag=tag or "latest"))
        except ProviderError as error:
            if error.problem.status_code is None:  # the engine is away, not the image
                raise
            raise InvalidInput("source", image, f"cannot be pulled: {error.problem.message}") from error
        if problem := _pull_problem(said):
            raise InvalidInput("source", image, f"cannot be pulled: {self._redact(problem)}")

    async def _has(self, image: str) -> bool:
        try:
            await self._call(f"inspect image {image}", lambda engine: engine.api.inspect_image(image))
        except NotFound:
            return False
        return True

    async def login(self) -> None:
        """Show the block's credentials to its registry; without one there is nothing to do.

        Raises:
            AuthenticationFailed: The registry does not take them.
        """
        if (registry := self._registry) is None:
            return
        engine = await self._call("connect", lambda engine: engine)
        try:
            await registry.login(engine)
        except APIError as error:
            operation = f"login at {registry.registry_url}"
            refusal = self._refusal(operation, error)
            if "401" in refusal.problem.message:  # the engine answers 500, and quotes the registry
                raise AuthenticationFailed(PROVIDER, operation, Problem(refusal.problem.message, 401)) from None
            raise refusal from None

    async def _call(self, operation: str, do: Callable[[Any], T]) -> T:
        async for attempt in stamina.retry_context(on=_is_away, attempts=5, timeout=15.0):
            with attempt:
                return await anyio.to_thread.run_sync(partial(self._once, operation, do))
        raise AssertionError("unreachable: stamina returns or raises")

    def _once(self, operation: str, do: Callable[[Any], T]) -> T:
        try:
            with self._opening:
                self._docker = self._docker or self._host.get_client()
            return do(self._docker)
        except APIError as error:
            raise self._refusal(operation, error) from None
        except (DockerException, requests.RequestException) as error:
            problem = Problem(f"no Docker engine answers at {self._address}: {self._redact(str(error))}")
            raise ProviderUnavailable(PROVIDER, operation, problem) from None

    @property
    def _address(self) -> str:
        return self._host.base_url or os.environ.get("DOCKER_HOST") or "the usual socket"

    def _refusal(self, operation: str, error: APIError) -> ProviderError:
        status = error.response.status_code if error.response is not None else None
        said = self._redact(str(error.explanation or error))
        if isinstance(error, ImageNotFound):
            return NotFound(PROVIDER, operation, Problem(said, 404, "image"))
        kinds = {401: AuthenticationFailed, 403: AuthenticationFailed, 404: NotFound, 409: Conflict}
        kind = kinds.get(status or 0, ProviderUnavailable if status and status >= 500 else ProviderError)
        return kind(PROVIDER, operation, Problem(said, status))

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text


def is_port_taken(error: ProviderError) -> bool:
    """Whether a container could not start because something else has its port."""
    return any(words in error.problem.message for words in _PORT_TAKEN)


def _is_away(error: Exception) -> bool:
    """An engine that restarts is back in seconds."""
    return isinstance(error, ProviderUnavailable) and error.problem.status_code is None


def _pull_problem(said: str) -> str | None:
    """A pull that fails on its way answers 200, and says so in the last line."""
    lines: Sequence[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.strip()]
    return next((str(line["error"]) for line in lines if "error" in line), None)
