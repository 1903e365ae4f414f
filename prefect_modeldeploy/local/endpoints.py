"""Endpoints: which deployment gets which share, and who may change it (epochs)."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.local.arms import Arms
from prefect_modeldeploy.local.refusals import Refused, invalid
from prefect_modeldeploy.local.store import Mode, Store
from prefect_modeldeploy.local.supervisor import Supervisor
from prefect_modeldeploy.local.views import takes_traffic
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Shadow


class Endpoints:
    """The endpoints of a node. Every change is on disk before it is in the proxy."""

    def __init__(self, store: Store, supervisor: Supervisor, arms: Arms) -> None:
        self._store, self._supervisor, self._arms = store, supervisor, arms
        self._endpoints = {endpoint.name: endpoint for endpoint in store.endpoints()}

    def all(self) -> tuple[Endpoint, ...]:
        """By name."""
        return tuple(self._endpoints[name] for name in sorted(self._endpoints))

    def get(self, name: str) -> Endpoint:
        """Raises Refused (not_found)."""
        if name not in self._endpoints:
            raise Refused("not_found", f"no endpoint {name!r}; there are {sorted(self._endpoints)}")
        return self._endpoints[name]

    def put(
        self,
        name: str,
        arms: Sequence[Mapping[str, Any]],
        sticky: str | None,
        expected_epoch: int | None,
        shadow: Shadow | None = None,
    ) -> Endpoint:
        """Create an endpoint or replace its arms; the epoch stays."""
        former = self._endpoints.get(name)
        epoch = former.epoch if former else 0
        _check_epoch(name, epoch, expected_epoch)
        try:
            new = Endpoint(
                name=name,
                arms=tuple(EndpointArm(**arm) for arm in arms),
                epoch=epoch,
                sticky_header=sticky,
                shadow=shadow,
            )
        except ValidationError as error:
            raise invalid(error) from None
        shares = {arm.upstream: arm.weight for arm in former.arms} if former else {}
        for arm in new.arms:
            self._check_arm(arm, shares.get(arm.upstream, 0.0))
        saved = self._save(new)
        self._arms.keep_only(self.used(), among=shares)
        return saved

    def set_weights(self, name: str, weights: Mapping[str, float], expected_epoch: int | None) -> Endpoint:
        """Move the shares. Arms that are not named get 0; a share is raised only where it is answered."""
        former = self.get(name)
        _check_epoch(name, former.epoch, expected_epoch)
        try:
            new = former.with_weights(weights)
        except ValidationError as error:
            raise invalid(error) from None
        except ValueError as error:
            raise InvalidInput("weights", dict(weights), str(error)) from None
        for arm in new.arms:
            self._check_arm(arm, former.weights[arm.name])
        return self._save(new)

    def claim(self, name: str) -> Endpoint:
        """Raise the epoch: writers that hold an older one are refused from now on."""
        former = self.get(name)
        return self._save(former.model_copy(update={"epoch": former.epoch + 1}))

    def delete(self, name: str) -> None:
        """Forget it; its deployments and its audit stay."""
        former = self.get(name)
        del self._endpoints[name]
        self._store.delete_endpoint(name)
        self._arms.keep_only(self.used(), among=[arm.upstream for arm in former.arms])

    def used(self) -> set[str]:
        """Ids of all deployments that endpoints have arms on."""
        return {arm.upstream for endpoint in self._endpoints.values() for arm in endpoint.arms}

    def using(self, deployment: str) -> list[str]:
        """Names of the endpoints with an arm on this deployment."""
        return [e.name for e in self.all() if any(arm.upstream == deployment for arm in e.arms)]

    def _check_arm(self, arm: EndpointArm, share_before: float) -> None:
        if arm.upstream in self._arms:
            if arm.weight > share_before:
                self._arms.check(arm.upstream)
            return
        keeper = self._supervisor.get(arm.upstream)
        if keeper.record.mode is Mode.DELETING:
            raise Refused("not_ready", f"arm {arm.name!r}: deployment {arm.upstream} is being deleted")
        if arm.weight > share_before and not takes_traffic(keeper):
            view: Deployment = self._supervisor.view(keeper)
            why = f" ({view.reason.splitlines()[0]})" if view.reason else ""
            raise Refused(
                "not_ready",
                f"arm {arm.name!r} cannot get {arm.weight} %: deployment {arm.upstream} is {view.status}{why}; "
                f"wait until it is READY, or start it",
            )

    def _save(self, endpoint: Endpoint) -> Endpoint:
        self._store.save_endpoint(endpoint)
        self._endpoints[endpoint.name] = endpoint
        return endpoint


def _check_epoch(name: str, current: int, expected: int | None) -> None:
    if expected is not None and expected != current:
        raise Refused(
            "stale_epoch", f"endpoint {name!r} is at epoch {current}, not {expected}: a newer rollout owns it"
        )
