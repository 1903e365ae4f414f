"""Who gets which share of an endpoint's requests."""

from collections.abc import Mapping
from typing import NamedTuple

from prefect_modeldeploy.errors import NotFound
from prefect_modeldeploy.rollout import CanaryPlan
from prefect_modeldeploy.target import DeploymentTarget, register_arms, router_of
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._sources import source_of
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Shadow


class Claim(NamedTuple):
    """An endpoint that was taken over."""

    epoch: int
    """Older rollouts are refused from now on. 0: there is no endpoint yet."""
    cursor: str | None
    """Where the measurements stand."""


async def _aget_traffic(target: DeploymentTarget | str) -> Endpoint:
    """Return the endpoint: its arms, their deployments and weights.

    Args:
        target: Block, or name of a saved one.

    Raises:
        NotFound: There is no such endpoint.
    """
    async with router_of(target) as (router, name):
        return await router.get_endpoint(name)


async def _aset_traffic(
    target: DeploymentTarget | str, weights: Mapping[str, float], expected_epoch: int | None = None
) -> Endpoint:
    """Share an endpoint's requests out among its arms.

    Args:
        target: Block, or name of a saved one.
        weights: Percent by arm, e.g. `{"stable": 90, "canary": 10}`; steps of 0.01, 100 in all.
        expected_epoch: Refuse if another rollout has taken the endpoint over since. None: change it regardless.

    Raises:
        StaleEpoch: Another rollout owns the endpoint.
        Conflict: An arm that would get requests can take none.
    """
    async with router_of(target) as (router, name):
        return await router.set_weights(name, weights, expected_epoch=expected_epoch)


async def _aset_arms(
    target: DeploymentTarget | str,
    arms: Mapping[str, tuple[str, float]],
    expected_epoch: int | None = None,
    shadow: Shadow | None = None,
    renew: bool = True,
) -> Endpoint:
    """Say which deployments are behind an endpoint; creates the endpoint if there is none. It stays sticky if it was.

    Args:
        target: Block, or name of a saved one.
        arms: Deployment id and percent by arm, e.g. `{"stable": ("fraud-7", 100)}`.
        expected_epoch: As for `set_traffic`.
        shadow: Which arm gets copies of some requests. None: none does.
        renew: Tell the gateway how it reaches the deployments, as their providers say now. False: no provider is asked
            about those that the gateway knows: where one is away, or a deployment gone, the traffic moves all the same.

    Raises:
        InvalidInput: The gateway does not trust a provider's certificate, or cannot get a token for it.
    """
    await register_arms(target, [id for id, _ in arms.values()], renew=renew)
    async with router_of(target) as (router, name):
        try:
            sticky = (await router.get_endpoint(name)).sticky_header
        except NotFound:
            sticky = None
        wanted = Endpoint(
            name=name,
            arms=tuple(EndpointArm(name=arm, upstream=id, weight=weight) for arm, (id, weight) in arms.items()),
            sticky_header=sticky,
            shadow=shadow,
        )
        return await router.put_endpoint(wanted, expected_epoch=expected_epoch)


async def _aclaim_endpoint(target: DeploymentTarget | str) -> Claim:
    """Take an endpoint over: rollouts that claimed it before can no longer change it.

    Args:
        target: Block, or name of a saved one.
    """
    target = await DeploymentTarget.resolve(target)
    async with router_of(target) as (router, name):
        try:
            epoch = await router.claim(name)
        except NotFound:
            return Claim(0, None)
        async with source_of(target, router) as source:
            return Claim(epoch, await source.cursor())


async def current_endpoint(target: DeploymentTarget) -> Endpoint | None:
    """The target's endpoint; None if there is none yet."""
    async with router_of(target) as (router, name):
        try:
            return await router.get_endpoint(name)
        except NotFound:
            return None


def shadow_of(plan: CanaryPlan) -> Shadow | None:
    """A plan's shadow, as an endpoint has it."""
    if plan.shadow is None:
        return None
    return Shadow(share=plan.shadow.share, tolerance=plan.judge.tolerance, ignore=plan.shadow.ignore)


get_traffic, aget_traffic = pair(_aget_traffic)
set_traffic, aset_traffic = pair(_aset_traffic)
set_arms, aset_arms = pair(_aset_arms)
claim_endpoint, aclaim_endpoint = pair(_aclaim_endpoint)
