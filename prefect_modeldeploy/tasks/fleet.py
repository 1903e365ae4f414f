"""Scale to zero: one task run per target, whatever the number of its deployments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes, formers_everywhere
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._rows import AT_REST, Action, FleetRow, each, row_of
from prefect_modeldeploy.tasks._surroundings import Surroundings, idle_seconds, look_around, prices, replicas_of


async def _ascale_target_to_zero(
    target: DeploymentTarget | str,
    only_if_idle_seconds: float | None = None,
    stop: bool = False,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
) -> list[FleetRow]:
    """Let go of the replicas of a target's deployments, unless they are busy or a rollout is in flight.

    What they were like before is remembered for `wake_target`.

    Args:
        target: Block, or name of a saved one.
        only_if_idle_seconds: Only those without a request for so many seconds. None: busy ones too.
        stop: Stop them where the provider has no zero that wakes.
        dry_run: Only say what would be done.
        exclude: Names, ids, environments or tags (`team=risk`) of deployments to leave alone; with `*` and `?`.

    Returns:
        One row per deployment; a deployment that failed does not keep the others from being done.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target) as client:
        found = await client.find(model=target.model)
        zero = _Zero(
            target=target,
            client=client,
            idle=only_if_idle_seconds,
            stop=stop,
            dry_run=dry_run,
            exclude=exclude,
            around=await look_around(target),
            prices=await prices(target, client, found),
            formers=await formers_everywhere(),
        )
        return await each(target, zero, found)


@dataclass(frozen=True)
class _Zero:
    target: DeploymentTarget
    client: ServingClient
    idle: float | None
    stop: bool
    dry_run: bool
    exclude: Sequence[str]
    around: Surroundings
    prices: Mapping[str, float]
    formers: Mapping[str, Former]

    async def __call__(self, deployment: Deployment) -> FleetRow:
        if why := await self._kept(deployment):
            return row_of(self.target, deployment, "kept", why)
        price = self.prices.get(deployment.id)
        cost = None if price is None else replicas_of(deployment) * price
        action: Action = "stopped" if self.stop else "scaled_to_zero"
        if self.dry_run:
            why = "dry run: nothing was changed"
            return row_of(self.target, deployment, action, why, cost_per_hour=cost, dry_run=True)
        if why := await self._let_go(deployment.id):
            return row_of(self.target, deployment, "kept", why)
        why = "asked for" if self.idle is None else "idle"
        return row_of(self.target, deployment, action, why, cost_per_hour=cost)

    async def _kept(self, deployment: Deployment) -> str | None:
        """Why a deployment is left alone; None if it is not."""
        known_as = (deployment.name, deployment.id, deployment.environment or "", *deployment.tags)
        if pattern := next((p for p in self.exclude if any(fnmatchcase(one, p) for one in known_as)), None):
            return f"excluded by {pattern!r}"
        if needed := self._needed(deployment):
            return needed
        if self.idle is None:
            return None
        idle = await idle_seconds(self.target, self.client, deployment)
        if idle is None:
            return "nobody knows how long it has been idle"
        return f"was idle for only {idle:.0f} s" if idle < self.idle else None

    def _needed(self, deployment: Deployment) -> str | None:
        """Why a deployment must not be touched, as things are; None if it may be."""
        if deployment.status in AT_REST:
            return f"is {deployment.status} already"
        if rollout := self.around.rollout(deployment):
            return rollout
        former = self.formers.get(deployment.id)
        if former and former.zero_at and former.zero_at > datetime.now(UTC) and not self.around.routes(deployment.id):
            return f"kept warm for a roll-back until {former.zero_at:%Y-%m-%d %H:%M} UTC"
        return None

    async def _let_go(self, deployment_id: str) -> str | None:
        """Note what a deployment is like, and let go of it.

        Other runs may let go of it, or wake it, in this very moment. Who sets a minimum of 0 has noted the former one
        before, and who forgets a note has put its minimum back before: so the notes are read before the deployment (one
        may be forgotten now) and after it (one may be new). What is noted here has a mark of its own: a wake-up that
        goes on forgets only what it has read.

        Returns:
            Why it must not be touched any more: to find out how idle it is may have taken long. None: it is done.
        """
        notes = Notes(LetGo, self.target.endpoint)
        before, now = await notes.of(deployment_id), await self.client.get(deployment_id)
        around, formers = await look_around(self.target), await formers_everywhere()
        again = replace(self, around=around, formers=formers)
        if needed := again._needed(now):
            return needed
        former = await notes.of(deployment_id) or before
        note = again._note(now, former)
        await notes.put(note)  # before, so that a run which dies forgets nothing
        if former:
            await notes.drop(deployment_id, until=former.mark)
        await (self.client.stop if self.stop else self.client.scale_to_zero)(deployment_id)
        await notes.put(note)  # a wake-up may have come in between, found nothing to put back, and forgotten it
        return None

    def _note(self, deployment: Deployment, former: LetGo | None) -> LetGo:
        at, settings = datetime.now(UTC), deployment.autoscaling
        mark = max(f"{at:%Y%m%d%H%M%S%f}", f"{former.mark}0" if former else "")  # later even if a clock is behind
        if former and settings and settings.min_replicas == 0:
            # Its replicas are not gone yet, or a request woke them: this minimum is ours, from last time.
            return former.model_copy(update={"mark": mark})
        return LetGo(
            deployment=deployment.id,
            mark=mark,
            at=at,
            replicas=replicas_of(deployment),
            price=self.prices.get(deployment.id),
            autoscaling=settings,
            served=self.around.serves(deployment.id),
        )


scale_target_to_zero, ascale_target_to_zero = pair(_ascale_target_to_zero)
