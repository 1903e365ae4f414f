"""All deployments of a node: a keeper each, and the commands that the control API offers."""

import asyncio

from pydantic import ValidationError

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.local.keeper import Keeper, Services
from prefect_modeldeploy.local.refusals import Refused, invalid
from prefect_modeldeploy.local.spec import changed, check_spec, first_replicas, options_of
from prefect_modeldeploy.local.store import DeploymentRecord, Mode, ReplicaRecord, now
from prefect_modeldeploy.local.views import deployment_of
from prefect_modeldeploy.traffic.endpoint import Server, Upstream

MAX_REPLICAS = 64


class Supervisor:
    """Keeps every deployment as it should be."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._keepers: dict[str, Keeper] = {}
        self.gateway_url = ""

    def start(self) -> None:
        """Adopt what a former node left running, and keep everything from now on."""
        left: dict[str, list[ReplicaRecord]] = {}
        for replica in self._services.store.replicas():
            left.setdefault(replica.deployment, []).append(replica)
        for record in self._services.store.deployments():
            keeper = self._keepers[record.id] = Keeper(record, self._services)
            keeper.start_keeping(left.get(record.id, []))

    async def stop(self) -> None:
        """Stop all replicas; what is wanted stays on disk."""
        await asyncio.gather(*(keeper.end_keeping() for keeper in self._keepers.values()))

    def let_go(self) -> None:
        """Leave all replicas as they are, for the next node."""
        for keeper in self._keepers.values():
            keeper.let_go()

    def all(self) -> list[Deployment]:
        """Every deployment, by name."""
        self._forget_deleted()
        return [self.view(self._keepers[name]) for name in sorted(self._keepers)]

    def get(self, deployment: str) -> Keeper:
        """Raises Refused (not_found)."""
        self._forget_deleted()
        if deployment not in self._keepers:
            raise Refused("not_found", f"no deployment {deployment!r} on this node")
        return self._keepers[deployment]

    def view(self, keeper: Keeper) -> Deployment:
        """The deployment in our vocabulary."""
        return deployment_of(keeper, self.gateway_url)

    def create(self, spec: DeploymentSpec) -> tuple[Keeper, bool]:
        """The deployment of that name, and whether it was made now. Raises Refused if it exists and differs."""
        self._forget_deleted()
        if (existing := self._keepers.get(spec.name)) is not None:
            if existing.record.mode is Mode.DELETING:
                raise Refused("conflict", f"deployment {spec.name!r} is being deleted; wait until it is gone")
            if existing.record.spec != spec:
                hint = "update it, or take another name"
                raise Refused("conflict", f"deployment {spec.name!r} exists with another spec; {hint}")
            return existing, False
        check_spec(spec)
        created = now()
        record = DeploymentRecord(
            spec, Mode.RUNNING, first_replicas(spec.autoscaling), created_at=created, updated_at=created
        )
        self._services.store.save_deployment(record)
        keeper = self._keepers[record.id] = Keeper(record, self._services)
        keeper.start_keeping([])
        return keeper, True

    def update(self, keeper: Keeper, update: DeploymentUpdate) -> None:
        """Change a deployment in place; new replicas come first, then the old ones go."""
        _refuse_while_deleting(keeper)
        spec, replace = changed(keeper.record.spec, update)
        if update.autoscaling is not None:
            least, most = first_replicas(spec.autoscaling), update.autoscaling.max_replicas or MAX_REPLICAS
            wanted = keeper.record.replicas if update.autoscaling.min_replicas is None else least
            keeper.record.replicas = min(wanted, most)
        keeper.change_spec(spec, replace=replace)

    def scale(self, keeper: Keeper, replicas: int) -> None:
        """So many replicas; 0 is zero, from which the next request wakes it."""
        _refuse_while_deleting(keeper)
        autoscaling = keeper.record.spec.autoscaling
        if autoscaling and autoscaling.max_replicas and replicas > autoscaling.max_replicas:
            raise InvalidInput("replicas", replicas, f"above autoscaling.max_replicas={autoscaling.max_replicas}")
        if keeper.record.mode is Mode.STOPPED:
            raise Refused("conflict", f"deployment {keeper.record.id} is STOPPED, which is below zero: start it first")
        keeper.want(Mode.RUNNING if replicas else Mode.ZERO, replicas or None)

    def autoscale(self, keeper: Keeper, autoscaling: Autoscaling) -> None:
        """Change the bounds and delays that are given; the others stay.

        Nothing here scales by load, so the minimum is also how many there are: a changed one takes effect at once.
        """
        former = keeper.record.spec.autoscaling or Autoscaling()
        merged = {**former.model_dump(exclude_none=True), **autoscaling.model_dump(exclude_none=True)}
        try:
            new = Autoscaling(**merged)
        except ValidationError as error:
            raise invalid(error, "autoscaling") from None
        self.update(keeper, DeploymentUpdate(autoscaling=new))
        if autoscaling.min_replicas and keeper.record.mode is Mode.ZERO:
            keeper.want(Mode.RUNNING)

    def command(self, keeper: Keeper, command: str) -> None:
        """`stop`, `start` or `wake`. Waking does not start what was stopped, nor what has failed."""
        _refuse_while_deleting(keeper)
        record = keeper.record
        if command == "wake" and (record.mode is Mode.STOPPED or record.failure is not None):
            status = self.view(keeper).status
            raise Refused("conflict", f"deployment {record.id} is {status}, which does not wake: start it")
        mode = Mode.STOPPED if command == "stop" else Mode.RUNNING
        if record.mode is not mode or record.failure is not None:
            keeper.want(mode)

    def delete(self, keeper: Keeper) -> None:
        """Drain, stop and forget it."""
        if keeper.record.mode is not Mode.DELETING:
            keeper.want(Mode.DELETING)

    def upstreams(self) -> tuple[Upstream, ...]:
        """Every deployment as the proxy sees it."""
        self._forget_deleted()
        return tuple(
            Upstream(
                name=keeper.record.id,
                servers=tuple(
                    Server(name=replica.record.name, port=replica.record.port) for replica in keeper.routed_replicas()
                ),
                wakes=keeper.wakes,
                health_path="/v2/health/ready",
            )
            for keeper in self._keepers.values()
        )

    def interpreters(self) -> set[str]:
        """The interpreters that deployments use."""
        return {options_of(keeper.record.spec).python for keeper in self._keepers.values()}

    async def wake(self, deployment: str) -> tuple[str, int]:
        """The address of a ready replica, waking the deployment if needed (the activator asks)."""
        return await self.get(deployment).wake_for_request()

    def _forget_deleted(self) -> None:
        for name in [name for name, keeper in self._keepers.items() if keeper.forgotten]:
            del self._keepers[name]


def _refuse_while_deleting(keeper: Keeper) -> None:
    if keeper.record.mode is Mode.DELETING:
        raise Refused("conflict", f"deployment {keeper.record.id} is being deleted")
