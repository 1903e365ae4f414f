"""Baseten in our vocabulary. The vendor's own operations are `client.management` and `client.inference`."""

import time

import anyio

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentSpec, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.errors import InvalidInput, NotFound
from prefect_modeldeploy.providers.baseten.answers import Model, Retried
from prefect_modeldeploy.providers.baseten.inference import deployment
from prefect_modeldeploy.providers.baseten.promotions import call_off, roll_back
from prefect_modeldeploy.providers.baseten.reading import BasetenReader
from prefect_modeldeploy.providers.baseten.requests import (
    AutoscalingSettings,
    BackpressureSettings,
    EnvironmentChanges,
    PromoteOptions,
    checked,
)
from prefect_modeldeploy.providers.baseten.words import split_id, to_settings

_SETTLED_SECONDS = 3.0


class BasetenClient(BasetenReader):
    """Baseten's API as every provider's. Ids are `"<model id>/<deployment id>"`; arguments as `BasetenReader`'s."""

    # --- changing --------------------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment from a truss (directory or .tgz), or return the one that this spec has created before.

        A model of that name is made when there is none; its first deployment serves production at once, Baseten
        leaves no choice. Otherwise nothing is promoted, unless `options={"environment_name": ...}` asks for it.
        Other options are those of `DeploymentPayload`.

        Raises:
            Conflict: The name is taken by a deployment of another spec.
            InvalidInput: A field cannot work; named. Nothing was sent.
        """
        return self._translate(await self._creation.create(spec, await self._model_for(spec.model)))

    async def _model_for(self, name: str) -> Model | None:
        """The model of that name. Of several that are made at once all but the first go, in a moment."""
        give_up = time.monotonic() + _SETTLED_SECONDS
        while len(models := await self._models(name)) > 1:
            if time.monotonic() > give_up:
                raise InvalidInput("model", name, f"is the name of {len(models)} models; give an id")
            await anyio.sleep(0.2)
        return models[0] if models else None

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change autoscaling in place, and with `options` the `name` and the `request_backpressure_policy`.

        Raises:
            InvalidInput: The field cannot be changed in place; says how else.
        """
        model_id, own_id = split_id(deployment_id)
        _only_in_place(update)
        options = dict(update.options or {})
        if "request_backpressure_policy" in options:
            settings = checked(BackpressureSettings, {"policy": options["request_backpressure_policy"]}, "options")
            await self.management.set_backpressure(model_id, own_id, settings)
        if "name" in options:
            await self.management.rename_deployment(model_id, own_id, str(options["name"]))
        if update.autoscaling is not None:
            return await self.scale(deployment_id, update.autoscaling)
        return await self.get(deployment_id)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change how a deployment scales, through its environment when it serves one."""
        return await self.set_autoscaling(deployment_id, to_settings(autoscaling))

    async def set_autoscaling(self, deployment_id: str, settings: AutoscalingSettings) -> Deployment:
        """As `scale`, with all of the vendor's settings. Waits (30 s at most) until they are in force.

        Settings of a deployment that serves an environment live on the environment: set elsewhere, the next promotion
        would bring the former ones back.
        """
        model_id, own_id = split_id(deployment_id)
        now = await self.get(deployment_id)
        _check_merged(settings, now)
        wanted = settings.model_dump(exclude_unset=True, exclude_none=True)
        if not wanted:
            return now
        if now.environment and await self._serves(model_id, now.environment, str(now.raw["id"])):
            changes = EnvironmentChanges(autoscaling_settings=settings)
            await self.management.update_environment(model_id, now.environment, changes)
        else:
            await self.management.set_autoscaling(model_id, own_id, settings)
        deadline, interval = time.monotonic() + self._visible, 0.05
        while True:
            now = await self.get(deployment_id)
            state = now.raw.get("autoscaling_settings") or {}
            if all(state.get(name) == value for name, value in wanted.items()):
                return now
            if time.monotonic() + interval > deadline:
                self._logger.warning("baseten has accepted %s for %s, but does not show it yet", wanted, deployment_id)
                return now
            await anyio.sleep(interval)
            interval = min(2.0, interval * 1.5)

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Set the minimum to 0: replicas go after `scale_down_delay` without requests, and the next request wakes.

        Baseten has no way to let go of them at once and still be woken.
        """
        return await self.set_autoscaling(deployment_id, AutoscalingSettings(min_replica=0))

    async def wake(self, deployment_id: str) -> Deployment:
        """Start a replica of a deployment that was scaled to zero, without waiting for it.

        Raises:
            InvalidInput: It is stopped: `start` it.
        """
        model_id, own_id = split_id(deployment_id)
        now = await self.get(deployment_id)
        if now.status in (DeploymentStatus.STOPPED, DeploymentStatus.STOPPING):
            raise InvalidInput("deployment_id", deployment_id, f"is {now.provider_status}: start it, nothing wakes it")
        await self.inference.wake(model_id, deployment(own_id))
        return await self.get(deployment_id)

    async def stop(self, deployment_id: str) -> Deployment:
        """Deactivate: not billed, answers 404, only `start` brings it back."""
        await self.management.deactivate(*split_id(deployment_id))
        return await self.get(deployment_id)

    async def start(self, deployment_id: str) -> Deployment:
        """Activate a deployment that was stopped."""
        await self.management.activate(*split_id(deployment_id))
        return await self.get(deployment_id)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment. Baseten refuses the one that serves production: promote another one first."""
        try:
            await self.management.delete_deployment(*split_id(deployment_id))
        except NotFound:
            return

    async def retry_deployment(self, deployment_id: str) -> Retried:
        """Try a failed deployment again. This does not resume its promotion."""
        return await self.management.retry(*split_id(deployment_id))

    async def terminate_replica(self, deployment_id: str, replica: str) -> None:
        """End one replica (its short id is in the logs); the autoscaler starts another one."""
        await self.management.terminate_replica(*split_id(deployment_id), replica)

    # --- promoting -------------------------------------------------------------------------------------------------

    async def promote(
        self,
        deployment_id: str,
        *,
        environment: str,
        options: PromoteOptions | None = None,
        timeout_seconds: float = 3600.0,
    ) -> Deployment:
        """Promote a deployment, follow the promotion to its end, and return what serves: maybe a copy with another id.

        Called again it joins the promotion that runs, or returns what serves already. A stopped deployment is started
        first. When the promotion fails, the autoscaling that the environment put on the deployment is put back.

        Raises:
            DeploymentFailed: The promotion failed; the former deployment serves on.
            Conflict: Another deployment is being promoted there.
            WaitTimeout: The time is over; the promotion goes on.
        """
        model_id, own_id = split_id(deployment_id)
        deadline = time.monotonic() + timeout_seconds
        promotion = await self._promotions.start(model_id, environment, own_id, options, deadline)
        await self._promotions.finish(promotion, deadline)
        return await self.get(f"{model_id}/{promotion.candidate}")

    async def roll_back(self, deployment_id: str, *, environment: str, timeout_seconds: float = 3600.0) -> Deployment:
        """Make `deployment_id` (the former one) serve again: cancel the promotion that runs, else promote it again.

        Done twice it changes nothing. Returns what serves.

        Raises:
            InvalidInput: It is the one that is being promoted.
            DeploymentFailed: Its own promotion failed.
        """
        model_id, own_id = split_id(deployment_id)
        deadline = time.monotonic() + timeout_seconds
        serving = await roll_back(self._promotions, self.management, model_id, environment, own_id, deadline)
        return await self.get(f"{model_id}/{serving}")

    async def call_off(
        self, deployment_id: str, former_id: str, *, environment: str, timeout_seconds: float = 3600.0
    ) -> None:
        """Make `former_id` serve again if `deployment_id` does or is being promoted, and leave other promotions alone.

        A promotion that was asked for a moment ago may not show yet: it is looked for up to 10 s.
        """
        (model_id, own_id), (_, former) = split_id(deployment_id), split_id(former_id)
        deadline = time.monotonic() + timeout_seconds
        await call_off(self._promotions, self.management, model_id, environment, own_id, former, deadline)

    async def cancel_promotion(
        self, model_id: str, environment: str, *, force: bool = False, timeout_seconds: float = 3600.0
    ) -> str | None:
        """Cancel the promotion to an environment and wait until it is over; returns the candidate's id, None if none.

        `force` sends all traffic back at once, even if the former deployment has too few replicas for it.
        """
        deadline = time.monotonic() + timeout_seconds
        candidate = await self._promotions.cancel(model_id, environment, force=force, deadline=deadline)
        return f"{model_id}/{candidate}" if candidate else None

    async def _serves(self, model_id: str, environment: str, own_id: str) -> bool:
        try:
            current = (await self.management.environment(model_id, environment)).current_deployment
        except NotFound:
            return False
        return current is not None and current.id == own_id


def _check_merged(settings: AutoscalingSettings, now: Deployment) -> None:
    state = now.raw.get("autoscaling_settings") or {}
    low = settings.min_replica if settings.min_replica is not None else state.get("min_replica")
    high = settings.max_replica if settings.max_replica is not None else state.get("max_replica")
    if low is not None and high is not None and low > high:
        field = "min_replica" if settings.min_replica is not None else "max_replica"
        raise InvalidInput(field, getattr(settings, field), f"{low} would be above max_replica={high} of {now.id}")


def _only_in_place(update: DeploymentUpdate) -> None:
    """Refuse what Baseten cannot change on a deployment that exists."""
    hints = {
        "version": "create another deployment and promote it",
        "source": "create another deployment and promote it",
        "environment": "use promote",
        "resources": "promote with environment_settings_update.instance_type_id, which makes a copy",
        "env": "create another deployment: variables are part of its image",
    }
    for field, hint in hints.items():
        if (value := getattr(update, field)) is not None:
            raise InvalidInput(field, value if field != "env" else list(value), f"Baseten cannot change it: {hint}")
    for name, value in (update.options or {}).items():
        if name not in ("name", "request_backpressure_policy"):
            raise InvalidInput(f"options.{name}", value, "Baseten has name and request_backpressure_policy")
