"""Deployments that nothing routes to: those that a rollout has replaced, each at its time, and those that leak."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import ModelDeployError, NotFound
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.report.words import duration
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes, formers_everywhere
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._rows import AT_REST, Action, FleetRow, each, row_of, row_of_failed
from prefect_modeldeploy.tasks._surroundings import (
    Surroundings,
    idle_seconds,
    look_around,
    named_by,
    prices,
    replicas_of,
)

CleanUp = Literal["report", "scale_to_zero", "delete"]


async def _aclean_up_target(
    target: DeploymentTarget | str,
    action: CleanUp = "report",
    older_than_seconds: float = 86400.0,
    dry_run: bool = False,
) -> list[FleetRow]:
    """Do what is due for the versions that rollouts have replaced, and find the deployments that nothing routes to.

    Just before anything is changed it is checked again that no endpoint of the gateway has the deployment among its
    arms, and that no rollout in flight names it.

    Args:
        target: Block, or name of a saved one.
        action: What becomes of an orphan. A version that a rollout has replaced goes as its plan said in any case.
        older_than_seconds: Younger ones, and those with a later request or rollout, are no orphans yet.
        dry_run: Only say what would be done.

    Returns:
        One row per deployment; a deployment that failed does not keep the others from being done.
    """
    target = await DeploymentTarget.resolve(target)
    formers, elsewhere = await Notes(Former, target.endpoint).all(), await formers_everywhere()
    around = await look_around(target)
    async with client_of(target) as client:
        found = await client.find(model=target.model)
        price = await prices(target, client, found)
        others = elsewhere.keys() - formers.keys()
        clean = _Clean(target, client, around, formers, others, price, action, older_than_seconds, dry_run)
        rows = await each(target, clean, found)
    for id in sorted(formers.keys() - {deployment.id for deployment in found}):
        rows += await _elsewhere(clean, id)
    return rows


async def _elsewhere(clean: "_Clean", deployment_id: str) -> list[FleetRow]:
    """The same for a former version that is at the target's other provider, or of another model."""
    try:
        there = await clean.target.at(deployment_id)
        async with client_of(there) as client:
            deployment = await client.get(deployment_id)
            around = await look_around(there)
            return await each(there, replace(clean, target=there, client=client, around=around), [deployment])
    except NotFound:  # somebody has deleted it
        if not clean.dry_run:
            await Notes(Former, clean.target.endpoint).drop(deployment_id)
        return []
    except ModelDeployError as error:
        return [row_of_failed(clean.target, error, deployment_id)]


@dataclass(frozen=True)
class _Clean:
    target: DeploymentTarget
    client: ServingClient
    around: Surroundings
    formers: Mapping[str, Former]
    other_formers: Set[str]
    prices: Mapping[str, float]
    action: CleanUp
    older_than: float
    dry_run: bool

    async def __call__(self, deployment: Deployment) -> FleetRow:
        former = self.formers.get(deployment.id)
        if why := _needed(self.around, deployment):
            if former and self.around.serves(deployment.id) and not self.dry_run:
                await Notes(Former, self.target.endpoint).drop(deployment.id)  # it was rolled back to
            return self._row(deployment, "kept", why)
        if former is not None:
            return await self._former(deployment, former)
        if deployment.id in self.other_formers:
            return self._row(deployment, "kept", "a rollout of another endpoint has planned when it goes")
        if why := self._has_a_role(deployment) or await self._young(deployment):
            return self._row(deployment, "kept", why)
        return await self._do(deployment, self.action, "nothing routes to it")

    async def _former(self, deployment: Deployment, former: Former) -> FleetRow:
        """What its rollout has planned: warm for a while, then at zero for a while, then gone."""
        notes, now = Notes(Former, self.target.endpoint), datetime.now(UTC)
        if not self.around.complete and deployment.environment == self.target.environment:
            return self._row(deployment, "kept", f"has the role {deployment.environment} again")
        if former.delete_at and former.delete_at <= now:
            row = await self._do(deployment, "delete", "replaced by a rollout, and its time is over")
            if row.action == "deleted" and not self.dry_run:
                await notes.drop(deployment.id)
            return row
        if former.zero_at and former.zero_at <= now:
            row = await self._do(deployment, "scale_to_zero", "replaced by a rollout, and kept warm long enough")
            if not self.dry_run and (row.action in ("scaled_to_zero", "stopped") or _rests(deployment)):
                rest = former.model_copy(update={"zero_at": None})
                await (notes.put(rest) if rest.delete_at else notes.drop(deployment.id))
            return row
        if former.zero_at:
            return self._row(deployment, "kept", f"warm for a roll-back until {former.zero_at:%Y-%m-%d %H:%M} UTC")
        return self._row(deployment, "kept", f"for a roll-back until {former.delete_at:%Y-%m-%d %H:%M} UTC")

    async def _young(self, deployment: Deployment) -> str | None:
        """Why it may be needed yet, or again; None if it was long not."""
        now = datetime.now(UTC)
        for record in self.around.records:
            if record.ended_at and deployment.id in named_by(record):
                since = (now - record.ended_at).total_seconds()
                if since < self.older_than:
                    return f"was in a rollout of {record.endpoint} {duration(since)} ago"
        created = deployment.created_at or deployment.updated_at
        if created is None:
            return "nobody knows how old it is"
        if (age := (now - created).total_seconds()) < self.older_than:
            return f"is only {duration(age)} old"
        idle = await idle_seconds(self.target, self.client, deployment)
        return f"was idle for only {duration(idle)}" if idle is not None and idle < self.older_than else None

    def _has_a_role(self, deployment: Deployment) -> str | None:
        """Why it may serve by ways that no gateway sees; None if it cannot."""
        if not self.around.complete:
            return "no gateway tells who sends requests to it"
        if self.client.can(Capability.PROMOTE) and deployment.environment:
            return f"has the role {deployment.environment} at {deployment.provider} itself"
        return None

    async def _do(self, deployment: Deployment, what: CleanUp, why: str) -> FleetRow:
        if what == "report":
            return self._row(deployment, "orphan", f"{why}; it is {deployment.status}")
        if what == "delete" and not self.client.can(Capability.DELETE):
            return self._row(deployment, "kept", f"{why}, but {deployment.provider} cannot delete")
        # No request comes that could wake it: where a provider has no such zero, a stop is as good.
        zero = self.client.scale_to_zero if self.client.can(Capability.SCALE_TO_ZERO) else self.client.stop
        stopped: Action = "scaled_to_zero" if self.client.can(Capability.SCALE_TO_ZERO) else "stopped"
        action: Action = "deleted" if what == "delete" else stopped
        if self.dry_run:
            return self._row(deployment, action, f"{why}; dry run: nothing was changed", dry_run=True)
        if again := _needed(await look_around(self.target), deployment):
            return self._row(deployment, "kept", again)
        await Notes(LetGo, self.target.endpoint).drop(deployment.id)  # no wake-up shall bring it back
        if what == "delete":
            await self.client.delete(deployment.id)
        elif _rests(deployment):
            return self._row(deployment, "kept", f"{why}; it is {deployment.status} already")
        else:
            await zero(deployment.id)
        return self._row(deployment, action, why)

    def _row(self, deployment: Deployment, action: Action, why: str, *, dry_run: bool = False) -> FleetRow:
        price = self.prices.get(deployment.id)
        replicas = 0 if _rests(deployment) else replicas_of(deployment)
        cost = None if price is None else replicas * price
        return row_of(self.target, deployment, action, why, replicas=replicas, cost_per_hour=cost, dry_run=dry_run)


def _needed(around: Surroundings, deployment: Deployment) -> str | None:
    """Why a deployment must not be touched, as things are; None if it may be."""
    routes = around.routes(deployment.id)
    return f"routed by {routes}" if routes else around.rollout(deployment)


def _rests(deployment: Deployment) -> bool:
    return deployment.status in AT_REST


clean_up_target, aclean_up_target = pair(_aclean_up_target)
