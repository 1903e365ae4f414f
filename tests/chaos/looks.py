"""What must hold after an accident and what mended it: DESIGN section 7, from outside.

Weights sum to 100 %, traffic goes to ready arms only, the rollout has ended, exactly one production deployment serves
and the record says which, nothing was created twice, nothing that the rollout created is left, and the former version
is as the plan wants it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from prefect_modeldeploy import DeploymentTarget
from prefect_modeldeploy.deployments import Deployment, DeploymentStatus
from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes
from tests.chaos.clients import PAYLOAD
from tests.flows.conftest import Site
from tests.flows.hosted import Hosted

GONE = (DeploymentStatus.DELETED, DeploymentStatus.STOPPING)
AT_REST = (DeploymentStatus.SCALED_TO_ZERO, DeploymentStatus.STOPPED)


async def there(target: DeploymentTarget) -> dict[str, Deployment]:
    """The deployments of the target's model, by id."""
    async with client_of(target) as client:
        return {d.id: d for d in await client.find(model=target.model) if d.status not in GONE}


async def behind_the_gateway(site: Site, before: Mapping[str, Deployment]) -> list[str]:
    """Where the gateway moves the traffic."""
    wrong: list[str] = []

    def must(held: bool, what: str) -> None:
        if not held:
            wrong.append(what)

    arms, found = await site.arms(), await there(site.target)
    must(abs(sum(weight for _, weight in arms.values()) - 100) < 1e-6, f"weights {arms}")
    for name, (deployment, weight) in arms.items():
        must(weight == 0 or (deployment in found and found[deployment].ready), f"{name} gets traffic and is not ready")
    record = await _journal.load(site.target.endpoint)
    if record is None or record.phase is not Phase.ENDED:
        return [*wrong, f"the rollout has not ended: {record.phase if record else 'no record'}"]
    serving = record.canary if record.outcome == "promoted" else record.stable
    must(arms == {"stable": (serving, 100.0)}, f"{record.outcome}, but the arms are {arms}")
    must(serving in found, f"{serving} is not there")
    return wrong + left(record, before, found)


async def cleaned(look: Callable[[], Awaitable[list[str]]], target: DeploymentTarget) -> list[str]:
    """The same, when the former version's time has come and it was let go of."""
    return await look() + [f"{id} is noted still" for id in await Notes(Former, target.endpoint).all()]


@dataclass(frozen=True)
class HostedNow:
    """What a provider has."""

    served: set[tuple[str, str | None]]
    there: Mapping[str, Deployment]
    made: int
    """How many deployments it has ever created: lists show none that was deleted since."""


async def hosted_now(site: Hosted) -> HostedNow:
    return HostedNow(await site.served(), await there(site.target), await _made(site))


async def _made(site: Hosted) -> int:
    provider = site.target.credentials.client_class.provider
    counters = (await site.control.state(provider))["counters"]
    return int(counters["live" if provider == "foundry" else "deployment"])


async def created_once(look: Callable[[], Awaitable[list[str]]], site: Hosted, before: HostedNow) -> list[str]:
    """The same, and the provider has not created more than was asked for."""
    record = await _journal.load(site.target.endpoint)
    return await look() + too_many(await _made(site) - before.made, record)


def too_many(made: int, record: RolloutRecord | None) -> list[str]:
    """What is wrong with the number of deployments that a provider has created for a rollout."""
    asked = 0 if record is None or record.spec is None else 1
    return [f"{made} were really created, and {asked} asked for"] if made > asked else []


async def natively(site: Hosted, before: HostedNow) -> list[str]:
    """Where the provider moves the traffic."""
    wrong: list[str] = []
    record, now = await _journal.load(site.target.endpoint), await hosted_now(site)
    if record is None or record.phase is not Phase.ENDED:
        return [f"the rollout has not ended: {record.phase if record else 'no record'}"]
    if len(now.served) != 1:
        wrong.append(f"{len(now.served)} serve: {now.served}")
    if (now.served == before.served) is (record.outcome == "promoted"):
        wrong.append(f"{record.outcome}, but {before.served} was there before and {now.served} serves now")
    if not all(now.there[id].ready for id, _ in now.served):
        wrong.append("what serves is not ready")
    return wrong + left(record, before.there, now.there) + too_many(now.made - before.made, record)


def left(record: RolloutRecord, before: Mapping[str, Deployment], now: Mapping[str, Deployment]) -> list[str]:
    """What is wrong with what a rollout has created, and with what was there before it."""
    new = [deployment for id, deployment in now.items() if id not in before]
    created = [d.id for d in new if record.spec is not None and record.spec.name in (d.id, d.name)]
    wrong = [] if len(created) <= 1 else [f"created {len(created)} times: {created}"]
    # What a provider promotes may be a copy of its own.
    wrong += [f"{d.id} is new, and nobody asked for it" for d in new if d.id not in (*created, record.serving)]
    wanted = dict.fromkeys(before, "keep")
    if record.outcome != "promoted":
        wanted |= {d.id: record.plan.failed_canary for d in new}
    elif record.stable is not None and record.stable != (record.serving or record.canary):
        wanted[record.stable] = record.plan.former
    for id, how in wanted.items():
        if not _is_so(now.get(id), how):
            wrong.append(f"{id} is {now[id].status if id in now else 'gone'}, and the plan says: {how}")
    return wrong


def _is_so(deployment: Deployment | None, how: str) -> bool:
    match how:
        case "delete":
            return deployment is None
        case "scale_to_zero":
            return deployment is not None and (deployment.status in AT_REST or _may_rest(deployment))
    return deployment is not None


def _may_rest(deployment: Deployment) -> bool:
    """These let go of the replicas after a time without load, and have no call that does it at once."""
    scaling = deployment.autoscaling
    return deployment.provider in ("baseten", "foundry") and scaling is not None and scaling.min_replicas == 0


async def in_the_morning(target: DeploymentTarget, before: Deployment) -> list[str]:
    wrong: list[str] = []
    async with client_of(target) as client:
        found = [d for d in await client.find(model=target.model) if d.status not in GONE]
        after = await client.get(before.id)
        deaf = await _deaf(client, before.id)
    if len(found) != 1:
        wrong.append(f"{[d.id for d in found]} are there")
    if after.autoscaling != before.autoscaling:
        wrong.append(f"its settings are {after.autoscaling}, and were {before.autoscaling}")
    if not after.ready:
        wrong.append(f"it is {after.status}")
    if notes := await Notes(LetGo, target.endpoint).all():
        wrong.append(f"still remembered: {sorted(notes)}")
    return wrong + deaf


async def _deaf(client: ServingClient, deployment_id: str) -> list[str]:
    """What is wrong with its answers; a model of this machine fails now and then, as it is meant to."""
    payload: object = [1.0] if client.provider == "local" else PAYLOAD
    errors = []
    for _ in range(5):
        try:
            await client.predict(deployment_id, payload)
        except ProviderError as error:
            errors.append(str(error))
    return [f"it does not answer: {errors[0]}"] if len(errors) > (2 if client.provider == "local" else 0) else []
