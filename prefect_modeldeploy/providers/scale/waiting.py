"""Waiting on Scale: READY says nothing about workers, and a new deployment may be listed late.

Source: "READY says nothing about pod status" (Scale staff, scaleapi/llm-engine pull request 153).
"""

import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import anyio

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import NotFound, ProviderError, ProviderUnavailable, RateLimited
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.together import all_of

if TYPE_CHECKING:
    from prefect_modeldeploy.providers.scale.client import ScaleClient

PROBE_SECONDS = 35.0
"""How long a deployment may take to answer: the vendor's gateway was seen to give up after 30 s."""

APPEAR_SECONDS = 30.0
"""How long a deployment may be missing from the list before that means that there is none."""


class Patience(ServingClient):
    """The client as a wait sees it: `ready` only after an answer, missing only after a while."""

    provider: ClassVar[str] = "scale"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.LIST})

    def __init__(self, client: "ScaleClient", deployment_ids: Collection[str], timeout_seconds: float) -> None:
        self._client, self._ids = client, list(deployment_ids)
        self._models = list(dict.fromkeys(one.partition("/")[0] for one in self._ids))
        self._answered, self._listed = set[str](), set[str]()
        self._late_until = time.monotonic() + APPEAR_SECONDS
        self._deadline = time.monotonic() + timeout_seconds

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment."""
        return await self._client.get(deployment_id)

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """One list call for each model that the deployments belong to."""
        listed = [one for model_id in self._models for one in await self._client.listed(model_id)]
        found = {one.id: one for one in listed if one.id in self._ids}
        self._listed |= set(found)
        for late in set(self._ids) - self._listed:
            if time.monotonic() < self._late_until:
                found[late] = _not_listed_yet(late)
        return await all_of([partial(self._asked, one) for one in found.values()])

    async def _asked(self, deployment: Deployment) -> Deployment:
        if deployment.status is not DeploymentStatus.READY:
            self._answered.discard(deployment.id)
            return deployment
        if self._client.probe is None or deployment.id in self._answered:
            return deployment
        if await self._answers(deployment.id):
            self._answered.add(deployment.id)
            return deployment
        reason = "READY by the vendor's word, but it does not answer requests yet"
        return deployment.model_copy(update={"ready": False, "reason": reason})

    async def _answers(self, deployment_id: str) -> bool:
        """Any answer of the model counts, also that it does not like the request; a late one does not."""
        left = min(PROBE_SECONDS, self._deadline - time.monotonic())
        try:
            with anyio.fail_after(max(0.1, left)):
                await self._client.predict(deployment_id, self._client.probe)
        except TimeoutError:
            return False
        except (ProviderUnavailable, RateLimited, NotFound):
            return False
        except ProviderError as error:
            return error.problem.status_code in (400, 422)
        return True


def _not_listed_yet(deployment_id: str) -> Deployment:
    model_id, _, own_id = deployment_id.partition("/")
    return Deployment(
        provider="scale",
        id=deployment_id,
        name=own_id,
        model_id=model_id,
        status=DeploymentStatus.PENDING,
        reason="it is not listed yet",
    )
