"""Promotions and publications: never twice, however late the vendor's lists are."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio

from prefect_modeldeploy.errors import AuthenticationFailed, InvalidInput, NotFound, ProviderError
from prefect_modeldeploy.providers.foundry import history
from prefect_modeldeploy.providers.foundry.api import FoundryApi
from prefect_modeldeploy.providers.foundry.model_api import NewVersion
from prefect_modeldeploy.providers.foundry.types import ModelVersion, checked_rid
from prefect_modeldeploy.transport import Logger, create_once

T = TypeVar("T")

FRESH_SECONDS, KNOWN_SECONDS = 3.0, 30.0
"""How long a branch's newest version is taken as known: when the live one differs from it, and when it is the same."""


@dataclass(frozen=True, slots=True)
class _Newest:
    rid: str | None
    at: float


class Versions:
    """The versions of models.

    Args:
        api: The vendor's operations.
        settle_seconds: How long something whose creation was not answered is looked for before it is created again.
        logger: Where look-ups after lost answers are told.
    """

    def __init__(self, api: FoundryApi, *, settle_seconds: float, logger: Logger) -> None:
        self._api, self._settle, self._logger = api, settle_seconds, logger
        self._newest: dict[tuple[str, str], _Newest] = {}

    async def newest(self, model: str, branch: str, *, serves: str | None) -> str | None:
        """RID of the newest version on a branch; asked rarely, since it costs a call. None: nobody may know.

        Args:
            model: RID.
            branch: Its name.
            serves: RID of the version that is live: as long as it is the newest one, nothing is asked.
        """
        known, now = self._newest.get((model, branch)), time.monotonic()
        if known is not None and now - known.at < (KNOWN_SECONDS if known.rid == serves else FRESH_SECONDS):
            return known.rid
        try:
            found = history.newest(await self._api.versions(model, branch))
        except ProviderError as error:
            hidden = isinstance(error, NotFound | AuthenticationFailed)
            if not hidden and error.problem.code != "UnsupportedModelSource":
                raise
            self._logger.warning("%s; nobody can tell whether the newest version of branch %s is live", error, branch)
            return None
        self._newest[model, branch] = _Newest(found.rid if found else None, now)
        return found.rid if found else None

    async def promote(self, model: str, version: str, branch: str) -> ModelVersion:
        """Make a version the newest on a branch, unless its content is already; returns the newest version."""
        checked_rid("version", version)
        if not branch:
            raise InvalidInput("branch", branch, "name the branch of the model to promote to")
        versions = await self._api.versions(model, branch)
        top = history.newest(versions)
        if top is not None and history.origin(top.rid, versions) == history.origin(version, versions):
            return top
        former = next((one for one in versions if one.rid == version), None)
        if former is not None:
            return await self.again(model, former, branch, versions)
        return await self.copied(model, version, branch, versions)

    async def copied(self, model: str, version: str, branch: str, before: Sequence[ModelVersion]) -> ModelVersion:
        """Copy a version to a branch that held these versions before, once."""
        known = {one.rid for one in before}

        async def look_up() -> ModelVersion | None:
            now = await self._api.versions(model, branch)
            return history.newest(one for one in now if one.rid not in known and one.promoted_from == version)

        copy = await self.never_twice(lambda: self._api.promote_version(model, version, branch), look_up)
        if await self.until_found(look_up) is None:
            self._logger.warning("the versions of branch %s do not show %s yet", branch, copy.rid)
        self._newest[model, branch] = _Newest(copy.rid, time.monotonic())
        return copy

    async def again(
        self, model: str, former: ModelVersion, branch: str, before: Sequence[ModelVersion]
    ) -> ModelVersion:
        """Promote a former version of a branch once more: what was promoted then, by the very call that worked then.

        When that is gone, or may not be seen any more, its copy on the branch is promoted.
        """
        if former.promoted_from is not None:
            try:
                return await self.copied(model, former.promoted_from, branch, before)
            except (NotFound, AuthenticationFailed) as error:
                self._logger.warning("%s; its copy on branch %s is promoted instead", error, branch)
        return await self.copied(model, former.rid, branch, before)

    async def publish(self, model: str, version: NewVersion) -> ModelVersion:
        """Publish a version, once."""
        known = {one.rid for one in await self._api.versions(model)}

        async def look_up() -> ModelVersion | None:
            new = [one for one in await self._api.versions(model) if one.rid not in known]
            return history.newest(one for one in new if _fits(one, version))

        return await self.never_twice(lambda: self._api.create_version(model, version), look_up)

    async def never_twice(
        self,
        create: Callable[[], Awaitable[T]],
        look_up: Callable[[], Awaitable[T | None]],
        *,
        taken: Collection[int] = (),
    ) -> T:
        """`create_once` for an API whose lists may be late: looks for a while before it creates again."""

        return await create_once(create, lambda: self.until_found(look_up), logger=self._logger, taken=taken)

    async def until_found(self, look_up: Callable[[], Awaitable[T | None]]) -> T | None:
        """What is there, or comes in a while: lists may be late. None: it did not come."""
        waited, interval = 0.0, 0.1
        while (found := await look_up()) is None and waited < self._settle:
            await anyio.sleep(interval)
            waited, interval = waited + interval, interval * 2
        return found


def _fits(found: ModelVersion, asked: NewVersion) -> bool:
    return (
        found.conda_requirements == asked.conda_requirements
        and found.backing_repositories == asked.backing_repositories
        and found.model_api == asked.model_api.wire()
    )
