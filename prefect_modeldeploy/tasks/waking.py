"""Wake up: what scale to zero let go runs again, with exactly the settings that it had."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentStatus
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks._notes import LetGo, Notes
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._rows import AT_REST, FleetRow, each, row_of
from prefect_modeldeploy.tasks._surroundings import Surroundings, look_around


async def _awake_target(target: DeploymentTarget | str) -> list[FleetRow]:
    """Start what scale to zero let go, and what the target's endpoint routes to, without waiting.

    The former settings are put back first: a minimum of replicas starts them. Call `settle_target` with the rows in the
    end.

    Args:
        target: Block, or name of a saved one.

    Returns:
        One row per deployment, with what was saved meanwhile; one that failed does not keep the others from being done.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target) as client:
        found = await client.find(model=target.model)
        notes = await Notes(LetGo, target.endpoint).all()
        wake = _Wake(target, client, notes, await look_around(target))
        rows = await each(target, wake, filter(wake.wants, found))
    for id in notes.keys() - {deployment.id for deployment in found if wake.wants(deployment)}:  # replaced, or gone
        await Notes(LetGo, target.endpoint).drop(id, until=notes[id].mark)
    return rows


@dataclass(frozen=True)
class _Wake:
    target: DeploymentTarget
    client: ServingClient
    notes: Mapping[str, LetGo]
    around: Surroundings

    def wants(self, deployment: Deployment) -> bool:
        """What is to run: what ran in the evening, unless it was replaced at night, and what the endpoint needs."""
        note, serves = self.notes.get(deployment.id), self.around.serves(deployment.id)
        if note is not None:
            return serves or not note.served
        return serves if self.target.splits else deployment.environment == self.target.environment

    async def __call__(self, deployment: Deployment) -> FleetRow:
        note, before = self.notes.get(deployment.id), deployment.status
        saved = {"let_go": note.mark, **_saved(note)} if note else {}
        now = await _restored(self.client, deployment, note)
        match now.status:
            case DeploymentStatus.SCALED_TO_ZERO:
                await self.client.wake(deployment.id)
            case DeploymentStatus.STOPPED | DeploymentStatus.STOPPING:
                await self.client.start(deployment.id)
            case _ if before not in AT_REST:
                if now is deployment:
                    return row_of(self.target, deployment, "kept", f"is {before}", **saved)
                return row_of(self.target, deployment, "restored", f"is {before}, its settings are back", **saved)
        return row_of(self.target, deployment, "woken", f"was {before}", **saved)


async def _asettle_target(target: DeploymentTarget | str, woken: Sequence[FleetRow]) -> list[FleetRow]:
    """After a wake-up: put settings back that waking has changed, and forget what was remembered.

    What has been let go again since then is left as it is, and remembered.

    Args:
        target: Block, or name of a saved one.
        woken: What `wake_target` has returned. What failed is remembered for the next time.

    Returns:
        Rows of deployments whose settings had changed; what failed is remembered for the next time.
    """
    target = await DeploymentTarget.resolve(target)
    kept, marks = Notes(LetGo, target.endpoint), {row.deployment: row.let_go for row in woken}
    if not (notes := {id: note for id, note in (await kept.all()).items() if note.mark == marks.get(id)}):
        return []
    async with client_of(target) as client:
        found = {deployment.id: deployment for deployment in await client.find(model=target.model)}
        wake = _Wake(target, client, notes, await look_around(target))

        async def settle(deployment: Deployment) -> FleetRow:
            now, note = deployment, notes[deployment.id]
            if wake.wants(deployment):
                now = await _restored(client, deployment, note)
            await kept.drop(deployment.id, until=note.mark)
            return row_of(target, deployment, "kept" if now is deployment else "restored", "its settings are back")

        for gone in notes.keys() - found.keys():
            await kept.drop(gone, until=notes[gone].mark)
        rows = await each(target, settle, (found[id] for id in notes.keys() & found.keys()))
    return [row for row in rows if row.action != "kept"]


async def _restored(client: ServingClient, deployment: Deployment, note: LetGo | None) -> Deployment:
    """Put a deployment's former settings back; returns it as it is then, or itself where nothing differs."""
    former = note.autoscaling if note else None
    if former is None:
        return deployment
    now = deployment.autoscaling or Autoscaling()
    if now.model_copy(update=former.model_dump(exclude_none=True)) == now:
        return deployment
    return await client.scale(deployment.id, former)


def _saved(note: LetGo) -> dict[str, Any]:
    if not note.replicas:
        return {}
    hours = note.replicas * (datetime.now(UTC) - note.at).total_seconds() / 3600
    money = None if note.price is None else hours * note.price
    return {"replicas": note.replicas, "saved_replica_hours": hours, "saved_money": money}


wake_target, awake_target = pair(_awake_target)
settle_target, asettle_target = pair(_asettle_target)
