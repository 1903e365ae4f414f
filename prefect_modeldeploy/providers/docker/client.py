"""Model containers on a Docker host in our words.

No process of ours watches over them: Docker restarts what crashes, and whoever changes a deployment sees it through.
So `update` and `scale` return when the new replicas are ready (or failed, and are gone again). Every step is found
again in the containers' names and labels: doing the same once more goes on where a killed process left it.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import httpx
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, Capability, Deployment, DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.errors import (
    Conflict,
    DeploymentFailed,
    InvalidInput,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
    WaitTimeout,
)
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.docker.containers import (
    DEPLOYMENT,
    MODEL,
    Birth,
    Container,
    State,
    generations,
    is_made_from,
    name_of,
    ports_of,
    serving,
    settings_of,
)
from prefect_modeldeploy.providers.docker.engine import PROVIDER, Engine, is_port_taken
from prefect_modeldeploy.providers.docker.spec import checked, digest, merged, options_of, replicas_of, same
from prefect_modeldeploy.providers.docker.views import deployment_of

PREDICT_TIMEOUT_SECONDS = 120.0
_HEALTH_SECONDS = 2.0
_POLL_SECONDS = 0.1
_UNSEEN_SECONDS = 30.0
"""A container's name is taken before anybody can see it, and a moment longer."""
_LOG_LINES, _LOG_CHARACTERS = 20, 4_000
"""How much of a log is kept in the reason of a failure."""

_log = logging.getLogger(__name__)


class DockerClient(ServingClient):
    """The containers of one Docker host.

    Args:
        engine: The host.
        http: How replicas are asked for their health, and for predictions.
        bind: IP address of the Docker host at which ports are published.
        address: Host name or IP address at which they are reached.
        ports: Which to choose from.
        secret_env: Secret environment variables of all containers made from now on.
        logger: Where it is said what Docker refused.
    """

    provider: ClassVar[str] = PROVIDER
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CREATE, Capability.UPDATE, Capability.DELETE, Capability.LIST, Capability.SCALE, Capability.STOP,
            Capability.START, Capability.PREDICT, Capability.LOGS,
        }
    )  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        http: httpx.AsyncClient,
        *,
        bind: str,
        address: str,
        ports: range,
        secret_env: Mapping[str, SecretStr],
        logger: logging.Logger | logging.LoggerAdapter[Any] = _log,
    ) -> None:
        self.engine, self._http, self._logger = engine, http, logger
        self._bind, self._address, self._ports, self._secret_env = bind, address, ports, secret_env

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment. Raises NotFound."""
        return await self._view(await self._of(deployment_id))

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return all deployments of the host, or those of one model, by name."""
        shown = await self.engine.containers({DEPLOYMENT: ""} if model is None else {MODEL: model})
        found: dict[str, list[Container]] = {}
        for container in await self._asked(map(Container, shown)):
            found.setdefault(container.labels[DEPLOYMENT], []).append(container)
        return list(await asyncio.gather(*(self._view(found[name]) for name in sorted(found))))

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """Return the last lines of all replicas by time, oldest first; each after its replica's name, if several."""
        here = await self._of(deployment_id)
        logs = await asyncio.gather(*(self.engine.logs(one.id, tail) for one in here))
        named = zip((f"{one.name}: " if len(here) > 1 else "" for one in here), logs, strict=True)
        lines = [(*line.partition(" ")[::2], name) for name, lines in named for line in lines]
        return [f"{name}{text}" for _, text, name in sorted(lines, key=lambda line: line[0])[-tail:]]

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request to a ready replica; `path` defaults to the spec's `predict_path`."""
        here = await self._of(deployment_id)
        url = f"{(await self._view(here)).endpoint_url}/{(path or here[-1].options.predict_path).lstrip('/')}"
        try:
            answer = await self._http.post(url, json=payload, timeout=PREDICT_TIMEOUT_SECONDS)
        except httpx.TransportError as error:
            problem = Problem(str(error) or type(error).__name__)
            raise ProviderUnavailable(PROVIDER, f"POST {url}", problem, effect_unknown=True) from error
        if not answer.is_success:
            raise ProviderError(PROVIDER, f"POST {url}", Problem(answer.text[:500], answer.status_code))
        return answer.json()

    # --- creating and changing ------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Start the containers of a deployment, or return the one that this very spec has created before.

        A creation that was cut off is finished. What Docker cannot start is there, and FAILED with Docker's reason.

        Raises:
            InvalidInput: The spec cannot work, or its image is not there; nothing was made.
            Conflict: The name is taken by a different deployment.
        """
        wanted = checked(spec)
        birth = Birth.now(digest(wanted))
        if not await self._all(spec.name):
            options = options_of(wanted)
            await self.engine.have_image(str(wanted.source), options.pull)
            await self._make(wanted, birth, 1, range(1), image=str(wanted.source))
        first, *others = await self._of(spec.name)  # maybe another process was faster
        if first.birth.origin != birth.origin:
            hint = "the name is taken by a deployment with another spec: choose another name, or update it"
            raise Conflict(PROVIDER, f"create {spec.name}", Problem(hint))
        if not any(one.was_started for one in (first, *others)):  # all are made before the first is started
            numbers = range(1, replicas_of(wanted.autoscaling))
            await self._make(wanted, first.birth, first.generation, numbers, image=first.image)
        await self._start(one for one in await self._of(spec.name) if not one.was_started)
        return await self.get(spec.name)

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Replace the containers by new ones; the former serve until all new ones are ready. Returns then.

        Raises:
            DeploymentFailed: A new one failed. They are gone again, and the former serve on.
            Conflict: Another update is in flight.
        """
        here = await self._of(deployment_id)
        active, newest = _running(here), here[-1]
        wanted = merged(active[0].spec, update, len(active))
        number = newest.generation + 1
        if same(wanted, newest.spec):  # done before; or begun, and not ended
            if newest.generation == active[0].generation and len(active) == len(here):
                return await self._scaled(active, replicas_of(wanted.autoscaling))
            number, wanted = newest.generation, newest.spec
        else:
            options = options_of(wanted)
            if options.host_port in {one.port for one in active}:
                hint = "the former replica has it until the new one is ready: leave it out, or delete and create"
                raise InvalidInput("options.host_port", options.host_port, hint)
            await self.engine.have_image(str(wanted.source), options.pull)
        await self._roll(wanted, here[0].birth, number)
        return await self.get(deployment_id)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Have `min_replicas` containers: there is no autoscaler. Returns when new ones are ready.

        Raises:
            DeploymentFailed: A new one failed. The new ones are gone again.
        """
        active = _running(await self._of(deployment_id))
        wanted = merged(active[0].spec, DeploymentUpdate(autoscaling=autoscaling), len(active))
        return await self._scaled(active, replicas_of(wanted.autoscaling))

    async def stop(self, deployment_id: str) -> Deployment:
        """Stop the containers, after what they are answering; they stay, with their ports."""
        here = await self._of(deployment_id)
        await asyncio.gather(*(self.engine.stop(one.id, one.options.stop_seconds) for one in here))
        return await self.get(deployment_id)

    async def start(self, deployment_id: str) -> Deployment:
        """Start the containers again, without waiting for them."""
        here = await self._of(deployment_id)
        await self._start(one for one in here if not one.runs)
        after = await self._of(deployment_id)
        if {one.port for one in here} != {one.port for one in after}:  # something else had taken one
            await self._tell(serving(after))
        return await self._view(after)

    async def delete(self, deployment_id: str) -> None:
        """Stop and remove all containers, also those of an update that was cut off."""
        while here := await self._all(deployment_id):
            await self._remove(here)

    # --- plumbing -------------------------------------------------------------------------------------------------

    async def _all(self, name: str) -> list[Container]:
        """All containers of a deployment, those of the newest generation last. They were asked for their health."""
        found = await self._asked(map(Container, await self.engine.containers({DEPLOYMENT: name})))
        return [one for several in generations(found).values() for one in several]

    async def _of(self, name: str) -> list[Container]:
        if not (found := await self._all(name)):
            raise NotFound(PROVIDER, f"get {name}", Problem("no such deployment", 404))
        return found

    async def _asked(self, containers: Iterable[Container]) -> list[Container]:
        return list(await asyncio.gather(*map(self._ask, containers)))

    async def _ask(self, container: Container) -> Container:
        path = container.options.health_path
        if not container.runs:
            return container
        if path is None:
            own = container.shown["State"].get("Health")
            return Container(container.shown, own is None or own["Status"] == "healthy")
        try:
            url = f"http://{self._address}:{container.port}{path}"
            answer = await self._http.get(url, timeout=_HEALTH_SECONDS)
        except httpx.TransportError:
            return Container(container.shown, False)
        return Container(container.shown, answer.is_success)

    async def _view(self, here: Sequence[Container]) -> Deployment:
        failed = next((one for one in serving(here) if one.state is State.FAILED), None)
        return deployment_of(here, self._address, await self._reason(failed) if failed else None)

    async def _reason(self, failed: Container) -> str:
        lines = [line.partition(" ")[2] for line in await self.engine.logs(failed.id, _LOG_LINES)]
        log = "\n".join(lines)[-_LOG_CHARACTERS:]
        return f"{failed.problem}; its log ends:\n{log}" if log else failed.problem

    async def _make(
        self,
        spec: DeploymentSpec,
        birth: Birth,
        generation: int,
        replicas: Iterable[int],
        *,
        image: str,
        joins: bool = False,
    ) -> None:
        """Make containers, without starting them. Those that are there already are left alone."""
        taken = {port for one in await self.engine.containers({DEPLOYMENT: ""}) for port in ports_of(one)}
        for replica in replicas:
            taken.add(await self._make_one(spec, birth, generation, replica, image, taken, joins=joins))

    async def _make_one(
        self,
        spec: DeploymentSpec,
        birth: Birth,
        generation: int,
        replica: int,
        image: str,
        taken: Collection[int],
        *,
        joins: bool,
    ) -> int:
        name = name_of(spec.name, generation, replica)
        port = options_of(spec).host_port or self._free_port(name, taken)
        settings = settings_of(
            spec, birth, generation, replica, bind=(self._bind, port), joins=joins, secret_env=self._secret_env
        )
        deadline = time.monotonic() + _UNSEEN_SECONDS
        while True:
            try:
                await self.engine.create(name, image, **settings)
                return port
            except Conflict as error:
                shown = await self.engine.inspect(name)
                if shown is not None and is_made_from(shown, spec):
                    return Container(shown).port
                if shown is not None or time.monotonic() > deadline:
                    problem = Problem(f"{name} is there already, and was not made from this spec", 409)
                    raise Conflict(PROVIDER, f"create {name}", problem) from error
            await asyncio.sleep(_POLL_SECONDS)  # it is being made, or removed, at this moment

    def _free_port(self, name: str, taken: Collection[int]) -> int:
        """A port by the container's name, so that two processes at once seldom choose the same; else the next one."""
        first = zlib.crc32(name.encode()) % len(self._ports)
        for offset in range(len(self._ports)):
            if (port := self._ports[(first + offset) % len(self._ports)]) not in taken:
                return port
        raise InvalidInput("ports", f"{self._ports[0]}-{self._ports[-1]}", "are all in use: give the block more")

    async def _start(self, containers: Iterable[Container]) -> None:
        await asyncio.gather(*map(self._start_one, containers))

    async def _start_one(self, container: Container) -> None:
        """Start a container. One whose port is taken is made again with another; other reasons are Docker's to keep."""
        taken = set[int]()
        while True:
            try:
                return await self.engine.start(container.id)
            except ProviderError as error:
                if error.problem.status_code in (None, 404):
                    raise
                if not is_port_taken(error) or container.options.host_port is not None:
                    self._logger.warning("%s", error)
                    return None
            taken.add(container.port)
            await self.engine.remove(container.id)
            spec, number, image = container.spec, container.replica, container.image
            await self._make_one(
                spec, container.birth, container.generation, number, image, taken, joins=container.joins
            )
            again = await self.engine.inspect(container.name)
            if again is None:
                return None  # somebody removed it
            container = Container(again)

    async def _roll(self, wanted: DeploymentSpec, birth: Birth, generation: int) -> None:
        name, image = wanted.name, str(wanted.source)
        present = generations(await self._of(name)).get(generation, [])
        numbers = range(replicas_of(wanted.autoscaling))
        await self._make(wanted, birth, generation, numbers, image=present[0].image if present else image)
        await self._start(one for one in await self._of(name) if one.generation == generation and not one.runs)
        ready = await self._until_ready(name, lambda one: one.generation == generation)
        await self._tell(ready)
        await self._remove(one for one in await self._of(name) if one.generation < generation)

    async def _scaled(self, active: Sequence[Container], count: int) -> Deployment:
        active = sorted(active, key=lambda one: (one.state is not State.READY, one.replica))  # those go last
        first, kept, extra = active[0], active[:count], active[count:]
        missing, used = count - len(kept), {one.replica for one in active}
        new = [number for number in range(max(used) + 1 + missing) if number not in used][:missing]
        new += [one.replica for one in kept if one.state is State.JOINING]  # of a process that was killed
        if new:
            kept = [*(one for one in kept if one.replica not in new), *await self._added(first, set(new))]
        if kept != active:
            await self._tell(kept)
        await self._remove(extra)
        return await self.get(first.spec.name)

    async def _added(self, like: Container, numbers: Collection[int]) -> list[Container]:
        """More replicas like this one, ready."""
        name = like.spec.name

        def is_new(container: Container) -> bool:
            return container.generation == like.generation and container.replica in numbers

        await self._make(like.spec, like.birth, like.generation, sorted(numbers), image=like.image, joins=True)
        await self._start(one for one in await self._of(name) if is_new(one))
        return await self._until_ready(name, is_new)

    async def _until_ready(self, name: str, mine: Callable[[Container], bool]) -> list[Container]:
        """Wait for containers of a deployment; if one fails, or time is over, they are removed again."""
        new, deadline = list[Container](), None
        while not new or any(one.state is not State.READY for one in new):
            new = [one for one in await self._of(name) if mine(one)]
            if not new:
                raise Conflict(PROVIDER, f"change {name}", Problem("another process took the new containers away"))
            deadline = deadline or time.monotonic() + new[0].options.start_seconds + 60
            failed = next((one for one in new if one.state is State.FAILED), None)
            if failed is not None:
                reason = await self._reason(failed)
                await self._remove(new)
                raise DeploymentFailed(name, reason)
            if time.monotonic() > deadline:
                await self._remove(new)
                raise WaitTimeout(f"{name}: the new containers were not ready in time; raise options.start_seconds")
            await asyncio.sleep(_POLL_SECONDS)
        return new

    async def _tell(self, active: Sequence[Container]) -> None:
        """Before the former addresses go: whoever sends requests there shall use these."""
        if self.moved is not None:
            await self.moved(deployment_of(active, self._address, None))

    async def _remove(self, containers: Iterable[Container]) -> None:
        async def remove(container: Container) -> None:
            if container.runs:
                await self.engine.stop(container.id, container.options.stop_seconds)
            await self.engine.remove(container.id)

        await asyncio.gather(*map(remove, containers))


def _running(here: Sequence[Container]) -> list[Container]:
    """The generation that serves. Raises Conflict: it is stopped, and must be started before it is changed."""
    active = serving(here)
    if all(one.state is State.STOPPED for one in active):
        name = active[0].spec.name
        raise Conflict(PROVIDER, f"change {name}", Problem(f"{name} is stopped: start it first"))
    return active
