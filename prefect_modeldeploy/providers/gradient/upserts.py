"""Writing safely through an API that only knows "replace the whole spec": nothing twice, and nobody's change lost.

There is no compare-and-set. A change reads the spec, changes a copy, sends it once, waits until the new version is
seen, and looks into the history whether somebody else's version came between: then ours is made again on top of theirs.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio

from prefect_modeldeploy.errors import Conflict, NotFound, Problem
from prefect_modeldeploy.providers.gradient.answers import SpecVersion, Stored
from prefect_modeldeploy.providers.gradient.checks import whole
from prefect_modeldeploy.providers.gradient.config import holds
from prefect_modeldeploy.providers.gradient.graph import GraphApi
from prefect_modeldeploy.providers.gradient.problems import PROVIDER
from prefect_modeldeploy.providers.gradient.rest import RestApi
from prefect_modeldeploy.providers.gradient.spec import Config, check
from prefect_modeldeploy.transport import create_once

T = TypeVar("T")

MOST_REPAIRS = 5


class Upserts:
    """Creates and changes over either API.

    Args:
        api: The vendor's API.
        settle_seconds: How long something new may stay unseen before it counts as not there.
        logger: Where repairs and repetitions are told.
    """

    def __init__(
        self, api: RestApi | GraphApi, settle_seconds: float, logger: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        self._api, self._settle, self._logger = api, settle_seconds, logger
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def alone(self, key: str) -> AbstractAsyncContextManager[None]:
        """Only one change of a deployment, or one create of a name, at a time in this client."""
        return self._locks[key]

    async def named(self, name: str) -> Stored | None:
        """The deployment of that name in the project."""
        found = await self._api.find(name=name)
        return found[0] if found else None

    async def appearing(self, name: str) -> Stored | None:
        """The deployment of that name, or the one that comes within the settle time."""
        return await self._settled(lambda: self.named(name))

    async def create(self, name: str, config: Config) -> tuple[str, Stored | None]:
        """Create once; a lost answer is looked up by name. The second value is None while it is not seen yet."""

        async def look_up() -> str | None:
            stored = await self.named(name)
            return stored.id if stored else None

        created = await create_once(lambda: self._api.send(config), lambda: self._settled(look_up), logger=self._logger)

        async def seen() -> Stored | None:
            try:
                return await self._api.get(created)
            except NotFound:
                return None

        return created, await self._settled(seen)

    async def revise(self, deployment_id: str, change: Callable[[Config], Config], *, blind: bool = False) -> Stored:
        """Change a deployment's spec and return it as it is seen then; when nothing changes, nothing is sent.

        Args:
            deployment_id: Which one.
            change: Makes the new spec of a copy of the known one; called again after somebody else's change.
            blind: Allow it when the vendor shows no valid spec: `change` does not build on the known one.

        Raises:
            InvalidInput: The new spec cannot work.
            Conflict: The vendor shows no valid spec, or somebody else keeps changing it.
        """
        async with self.alone(deployment_id):
            stored = await self._api.get(deployment_id)
            base = stored.latest_spec
            known = {"name": stored.name} if blind and (base is None or base.data is None) else whole(stored)
            for repair in range(MOST_REPAIRS):
                wanted = change(known)
                if wanted == known and not repair:
                    return stored
                check(wanted, self._api.api, known=known)
                stored = await self._submit(stored, base, wanted)
                ours, overwritten = await self._overwritten(deployment_id, base, wanted)
                if overwritten is None or overwritten.data is None:
                    return stored
                self._logger.warning("%s: %s was changed meanwhile; changing it again", PROVIDER, deployment_id)
                base, known = ours, overwritten.data
        raise Conflict(PROVIDER, f"update {deployment_id}", Problem("somebody else keeps changing it"))

    async def _submit(self, stored: Stored, base: SpecVersion | None, wanted: Config) -> Stored:
        """Send once, and return the deployment when a version after `base` is seen: the former one may be healthy."""

        async def newer() -> Stored | None:
            now = await self._api.get(stored.id)
            latest = now.latest_spec
            return now if latest is not None and (base is None or latest.id != base.id) else None

        async def arrived() -> str | None:
            now = await newer()
            return stored.id if now and now.latest_spec and holds(now.latest_spec.data, wanted) else None

        await create_once(
            lambda: self._api.send(wanted, deployment_id=stored.id, project_id=stored.project_id),
            lambda: self._settled(arrived),
            logger=self._logger,
        )
        seen = await self._settled(newer)
        if seen is None:
            # Shown as not started yet, rather than with the signs of the former version.
            return stored.model_copy(update={"latest_spec": SpecVersion(data=wanted)})
        return seen

    async def _overwritten(
        self, deployment_id: str, base: SpecVersion | None, wanted: Config
    ) -> tuple[SpecVersion | None, SpecVersion | None]:
        """Our version, and that of somebody else which ours has replaced without having seen it."""
        versions = await self._api.versions(deployment_id, first=5)
        if base is None or not versions or not holds(versions[0].data, wanted):
            return None, None
        for version in versions[1:]:
            if version.id == base.id:
                break
            if not holds(version.data, wanted):
                return versions[0], version
        return versions[0], None

    async def _settled(self, look: Callable[[], Awaitable[T | None]]) -> T | None:
        """Look until something is there; None only when it stayed unseen for the settle time."""
        deadline, interval = time.monotonic() + self._settle, 0.05
        while (found := await look()) is None and time.monotonic() < deadline:
            await anyio.sleep(min(interval, max(0.0, deadline - time.monotonic())))
            interval *= 1.5
        return found
