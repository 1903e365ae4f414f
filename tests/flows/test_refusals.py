"""What cannot be done natively is refused before anything is sent: these targets point at nothing."""

import pytest
from pydantic import SecretStr

from prefect_modeldeploy import (
    CanaryPlan,
    DeploymentTarget,
    GradientCredentials,
    LocalServing,
    canary_rollout,
    promote_to_production,
)
from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import UnsupportedOperation


class OneProject(GradientCredentials):
    """A block that knows more about what it may than its client's class does."""

    _block_type_name = "One Project"
    _block_type_slug = "one-project"

    def can(self, capability: Capability) -> bool:
        return capability is not Capability.PROMOTE and super().can(capability)


def target(credentials: GradientCredentials | LocalServing) -> DeploymentTarget:
    return DeploymentTarget(credentials=credentials, model="fraud", endpoint="fraud")


async def test_a_native_promotion_asks_the_block_what_it_can() -> None:
    block = OneProject(api_key=SecretStr("key"), base_url="http://127.0.0.1:1")
    with pytest.raises(UnsupportedOperation, match=r"gradient.*mode='swap'"):
        await promote_to_production.fn(target(block), "fraud-2", mode="native")


async def test_the_local_provider_has_no_promotion_of_its_own() -> None:
    with pytest.raises(UnsupportedOperation, match=r"local.*mode='swap'"):
        await promote_to_production.fn(target(LocalServing(autostart=False)), "fraud-2", mode="native")


async def test_a_canary_that_shall_end_in_the_providers_own_promotion_needs_one() -> None:
    plan = CanaryPlan(promote="native")
    with pytest.raises(UnsupportedOperation, match=r"local.*promote='swap'"):
        await canary_rollout.fn(target(LocalServing(autostart=False)), "fraud-2", plan)
