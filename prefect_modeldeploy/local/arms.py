"""Arms at providers: deployments that run elsewhere, and the credentials that let the proxy in there.

Every change is on disk before it is in the proxy. Tokens are renewed here, by the node, so that traffic flows on when
the flow that put the arm there is long gone; the proxy takes a new one without a reload.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prefect_modeldeploy.errors import GatewayError, InvalidInput
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.hop import Hop
from prefect_modeldeploy.local.refusals import Refused
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.local.tls import probe
from prefect_modeldeploy.local.tokens import Token, fetch
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.endpoint import Endpoint, Upstream

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0
_RENEWED_LATELY_SECONDS = 2.0
"""Refusals that come so soon after a renewal may be answers to the former token."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    arm: RemoteArm
    token: Token | None = None
    renewing: asyncio.Task[None] | None = None
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    unauthorized: int = 0
    renewals: int = 0
    renewed_at: float = 0.0
    problem: str | None = None


class Arms:
    """The arms of a node.

    Args:
        store: Remembers them.
        home: The node's directory, for the adapter's hop.
        changed: Called when the proxy must hear of something new.
    """

    def __init__(self, store: Store, home: Home, changed: Callable[[], None]) -> None:
        self._store, self._changed = store, changed
        self._kept = {arm.id: _Kept(arm, token) for arm, token in store.arms()}
        self._hop = Hop(store, home, changed)

    async def start(self) -> None:
        """Begin to adapt, if an arm needs that, and to renew tokens. Raises GatewayError."""
        self._hop.adopt()
        self._hop.need(self._any_adapted())
        for kept in self._kept.values():
            self._keep_fresh(kept)

    async def stop(self) -> None:
        """Stop adapting and renewing."""
        await self._stop_renewing()
        await self._hop.stop()

    async def let_go(self) -> None:
        """Stop renewing, and let what adapts go on as it was found: for a node that could not start."""
        await self._stop_renewing()
        await self._hop.let_go()

    def __contains__(self, arm_id: str) -> bool:
        return arm_id in self._kept

    async def put(self, arm: RemoteArm) -> None:
        """Keep an arm, or replace it, once its certificate was seen and its first token is there.

        Raises:
            InvalidInput: The certificate is not trusted, or the token endpoint refuses the client.
            GatewayError: The vendor, or its token endpoint, cannot be reached, or the adapter cannot be started.
                Nothing was changed.
        Refused: (not_ready) It is kept already, and its token cannot be renewed now.
        """
        former = self._kept.get(arm.id)
        if former and former.arm == arm:
            if arm.grant is not None and not (former.token and former.token.fresh):
                await self._renewed(former)
            self.check(arm.id)
            return
        await probe(arm)
        token = await fetch(arm, arm.grant) if arm.grant else None
        if (former := self._kept.get(arm.id)) and former.renewing:
            former.renewing.cancel()
        if arm.adapter:
            self._hop.need(True)
        self._store.save_arm(arm, token)
        kept = self._kept[arm.id] = _Kept(arm, token, renewed_at=time.time())
        self._keep_fresh(kept)

    def delete(self, arm_id: str) -> None:
        """Forget it and its credentials. Raises Refused (not_found)."""
        if arm_id not in self._kept:
            raise Refused("not_found", f"no arm {arm_id!r}; there are {sorted(self._kept)}")
        kept = self._kept.pop(arm_id)
        if kept.renewing:
            kept.renewing.cancel()
        self._store.delete_arm(arm_id)
        self._hop.need(self._any_adapted())

    def keep_only(self, used: Collection[str], among: Collection[str]) -> None:
        """Of these arms forget those that no endpoint uses any more: a credential lives as long as its use."""
        for arm_id in set(among) - set(used):
            if arm_id in self._kept:
                self.delete(arm_id)

    def check(self, arm_id: str) -> None:
        """Raises Refused (not_ready) for an arm whose token has ended and could not be renewed."""
        kept = self._kept[arm_id]
        if kept.arm.grant is not None and (kept.token is None or kept.problem):
            raise Refused("not_ready", f"the token of {arm_id} could not be renewed: {kept.problem}")

    def all(self) -> list[dict[str, Any]]:
        """What others may see: no secrets."""
        return [_shown(self._kept[arm_id]) for arm_id in sorted(self._kept)]

    def get(self, arm_id: str) -> dict[str, Any]:
        """As `all`, of one. Raises Refused (not_found)."""
        if arm_id not in self._kept:
            raise Refused("not_found", f"no arm {arm_id!r}; there are {sorted(self._kept)}")
        return _shown(self._kept[arm_id])

    def upstreams(self) -> tuple[Upstream, ...]:
        """The arms as the proxy sees them."""
        return tuple(
            upstream
            for kept in self._kept.values()
            for upstream in kept.arm.upstreams(kept.token.value if kept.token else None, self._hop.address)
        )

    def proxied(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with the names that its arms have in the proxy."""
        arms = tuple(
            arm.model_copy(update={"upstream": self._kept[arm.upstream].arm.upstream})
            if arm.upstream in self._kept
            else arm
            for arm in endpoint.arms
        )
        return endpoint.model_copy(update={"arms": arms})

    def unauthorized(self, upstream: str, count: int) -> None:
        """The alarm: an arm answered 401 or 403. A token that may be the reason is renewed."""
        kept = next((kept for kept in self._kept.values() if kept.arm.upstream == upstream), None)
        if kept is None:
            return
        kept.unauthorized += count
        _log.error("ALARM: %s refused its credentials %d times (401 or 403)", kept.arm.id, count)
        if time.time() - kept.renewed_at > _RENEWED_LATELY_SECONDS:
            kept.refused.set()

    def _any_adapted(self) -> bool:
        return any(kept.arm.adapter for kept in self._kept.values())

    async def _stop_renewing(self) -> None:
        tasks = [kept.renewing for kept in self._kept.values() if kept.renewing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep_fresh(self, kept: _Kept) -> None:
        if kept.arm.grant is not None:
            kept.renewing = asyncio.get_running_loop().create_task(self._renew_for_ever(kept))

    async def _renew_for_ever(self, kept: _Kept) -> None:
        pause = _FIRST_RETRY_SECONDS
        while True:
            due = (kept.token.fresh_until - time.time()) if kept.token and not kept.problem else 0.0
            with suppress(TimeoutError):  # then its time has come
                async with asyncio.timeout(max(0.0, due)):
                    await kept.refused.wait()
            kept.refused.clear()
            if await self._renewed(kept):
                pause = _FIRST_RETRY_SECONDS
            else:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_RETRY_SECONDS, pause * 2)

    async def _renewed(self, kept: _Kept) -> bool:
        assert kept.arm.grant is not None, "only such arms are renewed"
        try:
            kept.token = await fetch(kept.arm, kept.arm.grant)
        except (GatewayError, InvalidInput) as error:
            kept.problem = str(error)
            _log.error("ALARM: %s", error)
            return False
        kept.problem, kept.renewed_at, kept.renewals = None, time.time(), kept.renewals + 1
        self._store.save_arm(kept.arm, kept.token)
        self._changed()
        return True


def _shown(kept: _Kept) -> dict[str, Any]:
    arm, token = kept.arm, kept.token
    return {
        "id": arm.id,
        "provider": arm.provider,
        "url": arm.url,
        "upstream": arm.upstream,
        "wire": arm.wire,
        "headers": sorted(arm.headers),
        "token": {"fresh_until": token.fresh_until, "renewals": kept.renewals} if token else None,
        "unauthorized": kept.unauthorized,
        "problem": kept.problem,
    }
