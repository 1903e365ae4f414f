"""Paperspace Gradient Deployments in our words, over either of the vendor's APIs."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Self, get_args

import httpx
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, Capability, Deployment, DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem, ProviderError
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.gradient import config as specs
from prefect_modeldeploy.providers.gradient.answers import Activity, LogRow, Run, Sample, Session, SpecVersion, Stored
from prefect_modeldeploy.providers.gradient.checks import checked_count, checked_id, one_of, whole
from prefect_modeldeploy.providers.gradient.graph import GraphApi
from prefect_modeldeploy.providers.gradient.operations import SeedOperations
from prefect_modeldeploy.providers.gradient.rest import Metric, RestApi, Timeframe
from prefect_modeldeploy.providers.gradient.spec import Config
from prefect_modeldeploy.providers.gradient.states import GRACE_SECONDS, age_seconds
from prefect_modeldeploy.providers.gradient.upserts import Upserts
from prefect_modeldeploy.providers.gradient.views import deployment_of, endpoint_url
from prefect_modeldeploy.transport import RetryPolicy, Transport

_log = logging.getLogger(__name__)

PREDICT_TIMEOUT_SECONDS = 120.0
SETTLE_SECONDS = 5.0
"""How long something new may stay unseen before it counts as not there."""

_AT_ONCE = 8
_BASE = frozenset(
    {
        Capability.CREATE, Capability.UPDATE, Capability.DELETE, Capability.LIST, Capability.SCALE, Capability.STOP,
        Capability.START, Capability.PROMOTE, Capability.ROLL_BACK, Capability.PREDICT, Capability.LOGS,
    }
)  # fmt: skip


class GradientBase(SeedOperations, ServingClient):
    """What both APIs have in common.

    Args:
        api: The vendor's API.
        allow_http: Whether predict requests may go to other machines over plain http.
        endpoint_key: Password of deployments that are protected by `basicAuthKey`.
        predict_path: Path of predict requests that name none.
        settle_seconds: How long something new may stay unseen.
        grace_seconds: How long an errored instance may still come up.
    """

    provider: ClassVar[str] = "gradient"

    def __init__(
        self,
        api: RestApi | GraphApi,
        *,
        allow_http: bool = False,
        endpoint_key: SecretStr | None = None,
        secrets: Sequence[SecretStr] = (),
        predict_path: str = "/",
        settle_seconds: float = SETTLE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        policy: RetryPolicy | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] = _log,
    ) -> None:
        self._api, self._allow_http, self._endpoint_key, self._secrets = api, allow_http, endpoint_key, secrets
        self._predict_path, self._grace = predict_path, grace_seconds
        self._policy, self._logger = policy, logger
        self._upserts = Upserts(api, settle_seconds, logger)
        self._doors: dict[str, Transport] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment with its runs. Raises NotFound."""
        stored = await self._api.get(checked_id(deployment_id))
        return self._view(stored, await self._runs_of(stored))

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return the deployments of the block's project (else of the team), or those of one model.

        One list call. Runs are asked for only where a spec is not healthy after the grace time, to say why.
        """
        room = asyncio.Semaphore(_AT_ONCE)

        async def look(stored: Stored) -> Deployment:
            if not self._overdue(stored):
                return self._view(stored, None)
            async with room:
                return self._view(stored, await self._runs_of(stored))

        found = await asyncio.gather(*(look(stored) for stored in await self._api.find()))
        return [d for d in found if model is None or model in (d.model_id, d.name)]

    async def history(self, deployment_id: str, *, first: int = 100) -> list[SpecVersion]:
        """Spec versions, newest first; each upsert makes one."""
        return await self._api.versions(checked_id(deployment_id), first=checked_count("first", first))

    async def runs(self, deployment_id: str) -> list[Run]:
        """The active runs, with their instances."""
        return await self._api.runs(checked_id(deployment_id))

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """Return the last lines of a deployment's log, oldest first; the vendor keeps them for 30 days."""
        return [row.message for row in await self.log_rows(deployment_id, tail=tail)]

    async def log_rows(self, deployment_id: str, *, tail: int = 100, instance_id: str | None = None) -> list[LogRow]:
        """The last rows of the log with time and instance, oldest first."""
        return await self._api.logs(
            checked_id(deployment_id), tail=checked_count("tail", tail), instance_id=instance_id
        )

    # --- creating and changing ------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment, or return the one that this very spec has created before.

        Raises:
            InvalidInput: The spec cannot work; names the field.
            Conflict: The name is taken in the project by a different deployment.
        """
        config = specs.new_config(spec, self._api.api)
        async with self._upserts.alone(f"name {spec.name}"):
            if taken := await self._upserts.named(spec.name):
                return await self._same(taken, config)
            try:
                created, stored = await self._upserts.create(spec.name, config)
            except ProviderError as refused:
                # Somebody else may have just taken the name; by which of these the vendor says so is not documented.
                if refused.problem.status_code not in (400, 409):
                    raise
                if (taken := await self._upserts.appearing(spec.name)) is None:
                    raise
                return await self._same(taken, config)
        if stored is None:
            return self._view(Stored(id=created, name=spec.name, latest_spec=SpecVersion(data=config)), None)
        return self._view(stored, await self._runs_of(stored))

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change a deployment in place. What is not named stays; when nothing changes, nothing is sent."""
        return await self._revise(deployment_id, lambda config: specs.changed(config, update))

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change how many replicas a deployment has; fields left at None stay."""
        return await self._revise(deployment_id, lambda config: specs.scaled(config, autoscaling))

    async def stop(self, deployment_id: str) -> Deployment:
        """Disable a deployment (`enabled: false`); its number of replicas is kept for `start`."""
        return await self._revise(deployment_id, specs.stopped)

    async def start(self, deployment_id: str) -> Deployment:
        """Enable a deployment again, with at least one replica."""
        return await self._revise(deployment_id, specs.started)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment. Deleting one that is gone already is no error."""
        try:
            await self._api.delete(checked_id(deployment_id))
        except NotFound:
            self._logger.info("%s: deployment %s was gone already", self.provider, deployment_id)

    # --- promoting and rolling back -------------------------------------------------------------------------------

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Let the deployment of an environment serve what this one serves, and return it.

        The stable deployment keeps its name, address, machine and replicas, and is enabled. Where the model has no
        deployment in that environment, this one becomes it.

        Raises:
            Conflict: The model has several deployments in that environment.
        """
        source = await self._api.get(checked_id(deployment_id))
        stable = await self._stable(source, environment)
        if stable is None or stable.id == source.id:
            return await self._revise(deployment_id, lambda config: _in_role(config, environment))
        return await self.promote_into(deployment_id, stable.id)

    async def promote_into(self, deployment_id: str, stable_id: str) -> Deployment:
        """As `promote`, into a deployment that is named: for those that have no environment of ours."""
        source = whole(await self._api.get(checked_id(deployment_id)))
        return await self._revise(stable_id, lambda config: specs.started(specs.serving(config, source)))

    async def roll_back(self, deployment_id: str, *, environment: str) -> Deployment:
        """Serve again what was served before, from the history; how it runs now (replicas, machine) stays.

        Works on the deployment of the environment: this one, or the stable deployment of its model. A second call
        changes nothing.

        Raises:
            Conflict: No former version was ever healthy.
        """
        asked = await self._api.get(checked_id(deployment_id))
        stable = await self._stable(asked, environment) or asked
        current = whole(stable)
        if specs.ROLLED_BACK_FROM in specs.env_of(current) or stable.latest_spec is None:
            return self._view(stable, await self._runs_of(stable))
        left = stable.latest_spec.id
        former = self._former(stable, await self._api.versions(stable.id))

        def back(config: Config) -> Config:
            config = specs.serving(config, former)
            specs.set_env(config, {specs.ROLLED_BACK_FROM: left})
            return config

        return await self._revise(stable.id, back)

    async def restore(self, deployment_id: str, spec_id: str) -> Deployment:
        """Upsert a spec version of the history again, whole: replicas and machine too.

        Raises:
            InvalidInput: The history has no such version.
        """
        versions = await self._api.versions(checked_id(deployment_id))
        data = next((version.data for version in versions if version.id == spec_id), None)
        if data is None:
            raise InvalidInput("spec_id", spec_id, f"deployment {deployment_id} has no such spec version")
        return await self._revise(deployment_id, lambda _: data)

    async def upsert(self, deployment_id: str, config: Config) -> Deployment:
        """Replace the whole spec, in the vendor's words. What it does not name is gone."""
        return await self._revise(deployment_id, lambda known: {"name": known["name"], **config}, blind=True)

    # --- zero -----------------------------------------------------------------------------------------------------

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Not on Gradient. Raises UnsupportedOperation."""
        raise self._lacks(Capability.SCALE_TO_ZERO, "nothing would wake it; use stop, and start later")

    async def wake(self, deployment_id: str) -> Deployment:
        """Not on Gradient. Raises UnsupportedOperation."""
        raise self._lacks(Capability.WAKE, "use start")

    # --- predicting -----------------------------------------------------------------------------------------------

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request to the container and return its decoded answer; path and payload are the container's own."""
        stored = await self._api.get(checked_id(deployment_id))
        url = endpoint_url(stored.endpoint)
        if url is None:
            raise Conflict(self.provider, f"predict {deployment_id}", Problem("it has no endpoint yet"))
        door = await self._door(url)
        return await door.call("POST", f"/{(path or self._predict_path).lstrip('/')}", json=payload)

    async def _door(self, url: str) -> Transport:
        if url not in self._doors:
            auth = None
            if self._endpoint_key is not None:
                auth = httpx.BasicAuth("paperspace", self._endpoint_key.get_secret_value())
            self._doors[url] = await self._open.enter_async_context(
                Transport(
                    self.provider, url, auth=auth, secrets=self._secrets, policy=self._policy, logger=self._logger,
                    timeout=PREDICT_TIMEOUT_SECONDS, allow_http=self._allow_http,
                )
            )  # fmt: skip
        return self._doors[url]

    # --- inside ---------------------------------------------------------------------------------------------------

    def _view(self, stored: Stored, runs: Sequence[Run] | None) -> Deployment:
        return deployment_of(stored, runs, grace_seconds=self._grace)

    async def _runs_of(self, stored: Stored) -> Sequence[Run] | None:
        try:
            return await self._api.runs(stored.id)
        except NotFound:
            return None  # deleted since it was read, or not seen there yet

    def _overdue(self, stored: Stored) -> bool:
        version = stored.latest_spec
        if version is None or version.runs is not None or version.dt_healthy or version.error:
            return False
        return age_seconds(version.external_applied) >= self._grace

    async def _same(self, taken: Stored, config: Config) -> Deployment:
        versions = await self._api.versions(taken.id)
        if any(specs.holds(version.data, config) for version in versions):
            return self._view(taken, await self._runs_of(taken))
        problem = Problem(f"the name {config['name']!r} is taken by deployment {taken.id}, which is different")
        raise Conflict(self.provider, "create", problem)

    async def _revise(
        self, deployment_id: str, change: Callable[[Config], Config], *, blind: bool = False
    ) -> Deployment:
        stored = await self._upserts.revise(checked_id(deployment_id), change, blind=blind)
        return self._view(stored, await self._runs_of(stored))

    async def _stable(self, source: Stored, environment: str) -> Stored | None:
        """The deployment of the source's model in that environment; the source itself comes first."""
        model = specs.env_of(whole(source)).get(specs.MODEL)
        if specs.env_of(whole(source)).get(specs.ENVIRONMENT) == environment:
            return source
        candidates = []
        for stored in await self._api.find(project_id=source.project_id):
            env = specs.env_of(stored.latest_spec.data or {}) if stored.latest_spec else {}
            if model and (env.get(specs.MODEL), env.get(specs.ENVIRONMENT)) == (model, environment):
                candidates.append(stored)
        if len(candidates) > 1:
            names = ", ".join(f"{stored.name} ({stored.id})" for stored in candidates)
            problem = Problem(f"model {model} has several deployments in {environment}: {names}; use promote_into")
            raise Conflict(self.provider, f"promote {source.id}", problem)
        return candidates[0] if candidates else None

    def _former(self, stable: Stored, versions: Sequence[SpecVersion]) -> Config:
        current = whole(stable)
        for version in versions:
            tried = version.dt_healthy is not None if self._api.api == "rest" else not version.error
            if tried and version.data is not None and not specs.same_service(version.data, current):
                return version.data
        problem = Problem("its history has no other version that was healthy")
        raise Conflict(self.provider, f"roll back {stable.id}", problem)


def _in_role(config: Config, environment: str) -> Config:
    config = specs.started(config)
    specs.set_env(config, {specs.ENVIRONMENT: environment})
    return config


class GradientClient(GradientBase):
    """Gradient over its current API, REST v1."""

    capabilities: ClassVar[frozenset[Capability]] = _BASE | {Capability.METRICS}
    _api: RestApi

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """Seconds since the last sample of `requests_per_second` above 0; looks back 2 weeks, None without samples."""
        longest = None
        for timeframe in get_args(Timeframe):
            samples = await self.metrics(deployment_id, "requests_per_second", timeframe)
            stamps = [sample.timestamp for sample in samples if sample.timestamp is not None]
            if not stamps:
                continue
            busy = [s.timestamp for s in samples if s.timestamp is not None and s.value > 0]
            if busy:
                return (max(stamps) - max(busy)) / timedelta(seconds=1)
            longest = (max(stamps) - min(stamps)) / timedelta(seconds=1)
        return longest

    async def metrics(self, deployment_id: str, metric: Metric, timeframe: Timeframe | None = None) -> list[Sample]:
        """Samples of a metric. Units: requests, percent, requests a second, seconds.

        Raises:
            InvalidInput: An unknown metric or timeframe.
        """
        one_of("metric", metric, get_args(Metric))
        if timeframe is not None:
            one_of("timeframe", timeframe, get_args(Timeframe))
        return await self._api.metrics(checked_id(deployment_id), metric, timeframe)

    async def activity(
        self, *, deployment_id: str | None = None, project_id: str | None = None, first: int = 100
    ) -> list[Activity]:
        """Who created, updated, scaled, enabled, disabled or deleted what in a project, newest first."""
        known = checked_id(deployment_id) if deployment_id is not None else None
        return await self._api.activity(deployment_id=known, project_id=project_id, first=checked_count("first", first))

    async def session(self) -> Session:
        """Whose API key it is."""
        return await self._api.session()


class GradientGraphClient(GradientBase):
    """Gradient over its retired API, GraphQL: no metrics, no activity."""

    capabilities: ClassVar[frozenset[Capability]] = _BASE
    _api: GraphApi

    async def _runs_of(self, stored: Stored) -> Sequence[Run] | None:
        return None  # they came with the spec version
