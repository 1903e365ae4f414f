"""Foundry's live deployments in our words; `FoundryClient.api` has the vendor's own operations."""

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import anyio

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentUpdate,
)
from prefect_modeldeploy.errors import (
    Conflict,
    DeploymentFailed,
    InvalidInput,
    NotFound,
    Problem,
    ProviderError,
    WaitTimeout,
)
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.foundry import config, creation, history, words
from prefect_modeldeploy.providers.foundry.api import FoundryApi
from prefect_modeldeploy.providers.foundry.model_api import NewVersion
from prefect_modeldeploy.providers.foundry.types import LiveDeployment, ModelVersion, checked, checked_rid
from prefect_modeldeploy.providers.foundry.versions import Versions
from prefect_modeldeploy.transport import Logger

T = TypeVar("T")

LATEST = frozenset({"1", "latest"})
"""Versions of a spec that mean "whatever is newest on the branch"; "1" is the vocabulary's default."""

_log = logging.getLogger(__name__)


class FoundryClient(ServingClient):
    """One Foundry stack.

    Args:
        api: The vendor's operations.
        api_url: Address that they are below, for `Deployment.endpoint_url`.
        branches: Environment -> branch; an environment that is not named has a branch of its own name.
        settle_seconds: How long something whose creation was not answered is looked for before it is created again.
        agree_seconds: How long after a creation it is looked who else has created the same.
        logger: Where look-ups after lost answers are told.
    """

    provider: ClassVar[str] = "foundry"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {
        Capability.DELETE,
        Capability.LOGS,
        Capability.METRICS,
        Capability.TRAFFIC,
    }

    def __init__(
        self,
        api: FoundryApi,
        *,
        api_url: str,
        branches: Mapping[str, str] | None = None,
        settle_seconds: float = 5.0,
        agree_seconds: float = creation.AGREE_SECONDS,
        logger: Logger = _log,
    ) -> None:
        self.api = api
        self._url, self._branches, self._logger = api_url, dict(branches or {}), logger
        self._agree = agree_seconds
        self._versions = Versions(api, settle_seconds=settle_seconds, logger=logger)
        self._creating = defaultdict[str, anyio.Lock](anyio.Lock)

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment. READY only when it serves the newest version of its branch."""
        return await self._ours(await self.api.live_deployment(deployment_id))

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return a model's deployments; those of a Modeling Objective are not among them.

        Raises:
            InvalidInput: No model was named: the API lists the deployments of one model at a time.
        """
        if model is None:
            raise InvalidInput("model", model, "Foundry lists the deployments of one model at a time; give its RID")
        return [await self._ours(live) for live in await self.api.live_deployments(model)]

    async def wait(
        self,
        deployment_ids: Collection[str],
        until: Callable[[Deployment], bool],
        *,
        model: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> AsyncIterator[list[Deployment]]:
        """As everywhere; without `model` it is that of the first deployment, and all must be of one."""
        if model is None and deployment_ids:
            model = (await self.get(next(iter(deployment_ids)))).model_id
        async for seen in super().wait(deployment_ids, until, model=model, timeout_seconds=timeout_seconds):
            yield seen

    async def wait_for_version(self, deployment_id: str, version: str, *, timeout_seconds: float = 600.0) -> Deployment:
        """Wait until the deployment is on and serves this very version (or a promoted copy that it was given for).

        "On" is READY, or at zero replicas where that is allowed.

        Args:
            deployment_id: Which deployment.
            version: RID of the version; that of `promote_version`'s answer, not of what was promoted.
            timeout_seconds: When to give up.

        Raises:
            DeploymentFailed: It failed, or is disabled.
            WaitTimeout: The time is over.
        """
        checked_rid("version", version)
        deadline, interval = time.monotonic() + timeout_seconds, 0.1
        while True:
            live = await self.api.live_deployment(deployment_id)
            state, serves = live.status.state, live.model_version.model_version_rid
            if state in ("FAILED", "DISABLED"):
                raise DeploymentFailed(deployment_id, f"is {state} while version {version} was waited for")
            if serves == version and state == "ACTIVE" and words.may_receive_traffic(live):
                return await self._ours(live)
            if time.monotonic() + interval > deadline:
                raise WaitTimeout(
                    f"after {timeout_seconds:g} s {deployment_id} is {state} and serves {serves}, not {version}; "
                    "raise timeout_seconds, or look at the deployment's health tab"
                )
            await anyio.sleep(interval)
            interval = min(5.0, interval * 1.3)

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """None: nobody knows. Foundry lets replicas go by itself, and only when there is no load."""
        return None

    # --- changing -------------------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Deploy on the branch of the spec's environment, or of `options.branch`.

        `version` is the RID of a model version, which is promoted to the branch unless it is the newest there; or
        "latest" (and "1", the default): whatever is. `model` is a RID. A lost answer never makes two, and those who
        create the same at once agree on one (`creation.settled`).

        Raises:
            Conflict: The name, or the branch, has a deployment from another spec.
            InvalidInput: A field, by name.
        """
        model, options = checked_rid("model", spec.model), _options(spec.options)
        if spec.source is not None:
            raise InvalidInput(
                "source", spec.source, "publish it first (publish_version), then give its RID as version"
            )
        branch = options.branch or self.branch_of(spec.environment)
        version = None if spec.version in LATEST else checked_rid("version", spec.version)
        runtime = config.created(spec, options)

        call = secrets.token_hex(8)

        async def look_up() -> LiveDeployment | None:
            return creation.first(await self.api.live_deployments(model), spec, branch)

        async def create() -> LiveDeployment:
            return await self.api.create_live_deployment(model, branch, config.called(runtime, call))

        async with self._creating[model]:
            found = await look_up()
            if found is None:
                await self._have_version(model, branch, version)
                found = await self._versions.never_twice(create, look_up, taken=(409,))
                # Who is given its id, here or in another process, shall find it.
                found = await self._versions.until_found(look_up) or found
        await anyio.sleep(self._agree)
        return await self._ours(await creation.settled(self.api, spec, branch, call, self._logger) or found)

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change the runtime configuration (whole, without losing a field), and promote `version` to its branch."""
        options = _options(update.options or {})
        version = None if update.version is None else checked_rid("version", update.version)
        if update.source is not None:
            raise InvalidInput("source", update.source, "publish it first (publish_version), then promote its RID")
        live = await self.api.live_deployment(deployment_id)
        for field, branch in (
            ("options.branch", options.branch),
            ("environment", update.environment and self.branch_of(update.environment)),
        ):
            if branch is not None and branch != live.branch:
                raise InvalidInput(field, branch, f"the deployment tracks {live.branch}, for ever; create another one")
        if version is not None and live.branch is None:
            raise InvalidInput("version", version, "this deployment tracks no branch, so no version can be given to it")
        wanted = config.configured(
            live.runtime_configuration,
            autoscaling=update.autoscaling,
            resources=update.resources,
            env=update.env,
            options=options,
        )
        live = await self._replaced(live, wanted)
        if version is not None and live.branch is not None:
            newest = await self.promote_version(live.model_version.model_rid, version, live.branch)
            return self._translated(live, newest.rid)
        return await self._ours(live)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change how many replicas a deployment has; fields left at None stay, and so does everything else."""
        live = await self.api.live_deployment(deployment_id)
        wanted = config.configured(live.runtime_configuration, autoscaling=autoscaling)
        return await self._ours(await self._replaced(live, wanted))

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Allow zero replicas: Foundry lets go of them after the scale-down delay without load (30 min unless set).

        It has no call that lets them go at once and still wakes at a request; `stop` is the hard way. A disabled one
        is left alone: it has no replicas, and nobody knows whether a change would start it.
        """
        live = await self.api.live_deployment(deployment_id)
        if live.status.state == "DISABLED":
            return await self._ours(live)
        wanted = config.configured(live.runtime_configuration, autoscaling=Autoscaling(min_replicas=0))
        return await self._ours(await self._replaced(live, wanted))

    async def wake(self, deployment_id: str) -> Deployment:
        """Have one replica at least, by `minReplicas: 1`; `scale` sets more.

        Raises:
            Conflict: It is disabled: that is `start`'s.
        """
        live = await self.api.live_deployment(deployment_id)
        if live.status.state == "DISABLED":
            problem = Problem(f"{deployment_id} is disabled, not asleep: start it", code="DeploymentDisabled")
            raise Conflict(self.provider, "wake", problem)
        if not words.at_zero(live):
            return await self._ours(live)
        wanted = config.configured(live.runtime_configuration, autoscaling=Autoscaling(min_replicas=1))
        return await self._ours(await self._replaced(live, wanted))

    async def stop(self, deployment_id: str) -> Deployment:
        """Disable: all replicas go, no request wakes it; id, model and configuration stay."""
        await self.api.disable_live_deployment(deployment_id)
        return await self.get(deployment_id)

    async def start(self, deployment_id: str) -> Deployment:
        """Start a disabled deployment; nothing happens to one that runs."""
        await self.api.start_live_deployment(deployment_id)
        return await self.get(deployment_id)

    async def delete(self, deployment_id: str) -> None:
        """Foundry's API cannot: raises UnsupportedOperation."""
        raise self._lacks(Capability.DELETE, "delete it in Foundry's UI; stop() lets go of all its replicas")

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send {name of an input: value}; returns {name of an output: value}, without Foundry's wrapping."""
        if path is not None:
            raise InvalidInput("path", path, "a live deployment answers at one path only; leave it at None")
        return unwrapped(await self.api.transform_json(deployment_id, payload))

    # --- versions -------------------------------------------------------------------------------------------------

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Copy the version that this deployment serves to the environment's branch.

        Returns:
            The deployment that tracks that branch (another one, unless this is it), usually UPDATING.

        Raises:
            NotFound: No deployment tracks that branch; nothing was changed.
        """
        live = await self.api.live_deployment(deployment_id)
        version = live.model_version.model_version_rid
        if version is None:
            raise Conflict(self.provider, "promote", Problem(f"{deployment_id} serves no version yet; wait for it"))
        serving = await self._serving(live.model_version.model_rid, environment)
        promoted = await self.promote_version(serving.model_version.model_rid, version, self.branch_of(environment))
        return self._translated(serving, promoted.rid)

    async def roll_back(self, deployment_id: str, *, environment: str, to: str | None = None) -> Deployment:
        """Promote the version again that was there before.

        Args:
            deployment_id: Any deployment of the model.
            environment: Where to undo the last promotion.
            to: RID of the version to return to. None: the former one; with it, repeating changes nothing.

        Returns:
            The deployment that tracks the environment's branch, usually UPDATING.

        Raises:
            Conflict: There is nothing before the present version.
        """
        goal = to or await self.former_version(deployment_id, environment=environment)
        live = await self.api.live_deployment(deployment_id)
        serving = await self._serving(live.model_version.model_rid, environment)
        try:
            promoted = await self.promote_version(live.model_version.model_rid, goal, self.branch_of(environment))
        except ProviderError as error:
            if to is not None:
                raise
            raise _not_to_repeat(error) from error
        return self._translated(serving, promoted.rid)

    async def former_version(self, deployment_id: str, *, environment: str) -> str:
        """RID of the version that `roll_back` would return to now. Raises Conflict when there is none."""
        live = await self.api.live_deployment(deployment_id)
        branch = self.branch_of(environment)
        former = history.former(await self.api.versions(live.model_version.model_rid, branch))
        if former is None:
            problem = Problem(f"branch {branch} holds nothing before its present version; name one with `to`")
            raise Conflict(self.provider, "roll back", problem)
        return former.rid

    async def promote_version(self, model: str, version: str, branch: str) -> ModelVersion:
        """Make a version, of this or another model, the newest on a branch, unless its content is already.

        A lost answer never makes two copies. Returns the branch's newest version: a copy with a RID of its own.
        """
        return await self._versions.promote(model, version, branch)

    async def publish_version(self, model: str, version: NewVersion) -> ModelVersion:
        """Publish a version. Foundry chooses the branch, and a deployment that tracks that one goes live with it.

        Publish to a model, or a default branch, that no production deployment tracks; then promote it.
        A lost answer is looked up among the versions of the default branch.
        """
        return await self._versions.publish(model, version)

    def branch_of(self, environment: str) -> str:
        """The branch that stands for an environment."""
        return self._branches.get(environment, environment)

    def environment_of(self, branch: str | None) -> str | None:
        """The environment that a branch stands for; None without a branch."""
        named = next((environment for environment, b in self._branches.items() if b == branch), None)
        return named or branch

    # --- how ------------------------------------------------------------------------------------------------------

    async def _ours(self, live: LiveDeployment) -> Deployment:
        return self._translated(live, await self._newest_on(live))

    def _translated(self, live: LiveDeployment, newest: str | None) -> Deployment:
        environment = self.environment_of(live.branch)
        return words.translated(live, newest, environment=environment, api_url=self._url)

    async def _newest_on(self, live: LiveDeployment) -> str | None:
        model = live.model_version.model_rid
        if not model or live.branch is None:
            return None
        return await self._versions.newest(model, live.branch, serves=live.model_version.model_version_rid)

    async def _replaced(self, live: LiveDeployment, wanted: Mapping[str, Any]) -> LiveDeployment:
        return (
            live if wanted == live.runtime_configuration else await self.api.replace_live_deployment(live.rid, wanted)
        )

    async def _serving(self, model: str, environment: str) -> LiveDeployment:
        branch = self.branch_of(environment)
        found = [live for live in await self.api.live_deployments(model, branch) if live.branch == branch]
        if not found:
            problem = Problem(f"no live deployment of {model} tracks branch {branch} ({environment}); create one first")
            raise NotFound(self.provider, f"find the deployment of {environment}", problem)
        return min(found, key=lambda live: live.status.state == "DISABLED")

    async def _have_version(self, model: str, branch: str, version: str | None) -> None:
        if version is not None:
            await self.promote_version(model, version, branch)
        elif not await self.api.versions(model, branch):
            raise InvalidInput("version", None, f"branch {branch} has no version yet: give the RID of one to promote")


def unwrapped(answer: Any) -> Any:
    """What is in Foundry's `{"output": ...}`; an answer without it, as it is."""
    return answer["output"] if isinstance(answer, dict) and "output" in answer else answer


def _options(options: Mapping[str, Any]) -> config.Options:
    return checked(config.Options, "options", options)


def _not_to_repeat(error: ProviderError) -> ProviderError:
    """Rolling back without a goal is not safe to repeat once it may have had an effect."""
    problem = replace(error.problem)
    unsure = error.effect_unknown or error.problem.status_code is None or error.problem.status_code >= 500
    return type(error)(error.provider, error.operation, problem, effect_unknown=unsure)
