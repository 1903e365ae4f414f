"""Promoting at Baseten: start, follow to the end, undo. Three traps are dealt with here.

- SCALED_TO_ZERO in the middle: a candidate goes BUILDING, DEPLOYING, SCALED_TO_ZERO, WAKING_UP, ACTIVE. The end of a
  promotion is read from the *environment*, never from the deployment's word.
- A copy: a deployment that serves elsewhere, or another instance type, is copied; what serves afterwards has an id of
  its own and the name `<name>.<epoch seconds>`.
- Settings that stay: the environment's autoscaling (with its expensive minimum) is put on the candidate at once, and
  remains on it when the promotion fails. It is put back, a failed copy is deactivated.
"""

import asyncio
import math
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.errors import (
    Conflict,
    DeploymentFailed,
    InvalidInput,
    NotFound,
    Problem,
    ProviderError,
    WaitTimeout,
)
from prefect_modeldeploy.providers.baseten.answers import Environment, VendorDeployment
from prefect_modeldeploy.providers.baseten.api import ManagementApi
from prefect_modeldeploy.providers.baseten.requests import AutoscalingSettings, PromoteOptions
from prefect_modeldeploy.providers.baseten.words import IN_PROGRESS, NO_CAPACITY, PROVIDER, STATUSES, read_answer
from prefect_modeldeploy.transport import Logger, create_once

_ANSWER_SECONDS = 10.0
"""So long a cancelled run waits for the answer to its promotion: Prefect leaves it 30 s, and calling off takes some."""

_OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})

_SHOWS_SECONDS = 10.0
"""So long a way back looks for a promotion of ours that does not show: it has less than half a minute in all."""

_PROMOTABLE = frozenset({"ACTIVE", "SCALED_TO_ZERO"})
_DEAD = frozenset({DeploymentStatus.FAILED, DeploymentStatus.STOPPED})


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that was started.

    Args:
        model: Model id.
        environment: Name.
        source: What was asked for.
        candidate: Id of what will serve: the source itself, or a copy of it.
        former: Id of what served before, if anything did.
        before: The source's own autoscaling before; None when that is not known.
    """

    model: str
    environment: str
    source: VendorDeployment
    candidate: str
    former: str | None
    before: AutoscalingSettings | None

    @property
    def copied(self) -> bool:
        """Whether the vendor made a copy."""
        return self.candidate != self.source.id


class Promotions:
    """Starts, follows and undoes promotions.

    Args:
        api: The management API.
        visible_seconds: How long a change may not show in what is read.
        logger: Where the steps are told.
    """

    def __init__(self, api: ManagementApi, visible_seconds: float, logger: Logger) -> None:
        self._api, self._visible, self._logger = api, visible_seconds, logger

    async def start(
        self, model: str, environment: str, deployment: str, options: PromoteOptions | None, deadline: float
    ) -> Promotion:
        """Start a promotion, or join the same one that runs or is done. Never starts it twice.

        Raises:
            Conflict: Another deployment is being promoted to this environment.
            DeploymentFailed: The deployment has failed, or could not be started.
        """
        env = await self._api.environment(model, environment)
        source = await self._deployment(model, deployment)
        former = env.current_deployment.id if env.current_deployment else None
        if (joined := _taken_up(env, source)) is not None:
            return Promotion(model, environment, source, joined, former, None)
        if running(env):
            other = env.candidate_deployment.id if env.candidate_deployment else "another deployment"
            problem = Problem(f"{other} is being promoted to {environment}; wait for its end, or roll it back", 409)
            raise Conflict(PROVIDER, f"promote {deployment}", problem)
        source = await self._promotable(source, deadline)
        before = _settings_of(source)

        async def post() -> str:
            return (await self._api.promote_to_environment(model, environment, source.id, options)).id

        look = partial(self.seen, model, environment, source)
        candidate = await _answered(create_once(post, look, logger=self._logger))
        if candidate != source.id:
            self._logger.info("baseten promotes a copy of %s: %s", source.id, candidate)
        return Promotion(model, environment, source, candidate, former, before)

    async def seen(
        self, model: str, environment: str, source: VendorDeployment, within_seconds: float = math.inf
    ) -> str | None:
        """Id of the source (or its copy) once the environment serves it, or is being given it; None: it never shows."""
        until = time.monotonic() + min(self._visible, within_seconds)
        while True:
            found = _taken_up(await self._api.environment(model, environment), source)
            if found is not None or time.monotonic() > until:
                return found
            await anyio.sleep(min(1.0, self._visible / 5))

    async def finish(self, promotion: Promotion, deadline: float) -> None:
        """Follow a promotion to its end; put settings back when it fails.

        Raises:
            DeploymentFailed: It failed or was cancelled. The former deployment serves on.
            WaitTimeout: The deadline passed; the promotion goes on.
        """
        model, name, candidate = promotion.model, promotion.environment, promotion.candidate
        started, seen, interval, said = time.monotonic(), False, 0.1, ""
        while True:
            env = await self._api.environment(model, name)
            moving, current = running(env), env.current_deployment
            seen = seen or moving
            if current is not None and current.id == candidate and not moving:
                break
            progress = env.in_progress_promotion
            word = progress.status if progress else "over"
            if word != said:
                self._logger.info("baseten: promotion of %s to %s is %s", candidate, name, word)
                said = word
            settled = seen or time.monotonic() - started > self._visible
            if not moving and (settled or (progress is not None and progress.status in _OVER)):
                reason = (progress.error_message if progress else None) or "it ended without taking over"
                await self._fail(promotion, reason)
            if time.monotonic() + interval > deadline:
                raise WaitTimeout(
                    f"the promotion of {model}/{candidate} to {name} is still {word}; wait longer, or roll it back"
                )
            await anyio.sleep(interval)
            interval = min(5.0, interval * 1.3)
        word = (await self._deployment(model, candidate)).status
        if STATUSES.get(word) in _DEAD:
            await self._fail(promotion, f"{name} points to it, but it is {word}")

    async def cancel(self, model: str, environment: str, *, force: bool = False, deadline: float) -> str | None:
        """Cancel the promotion that runs and wait until it is over; returns its candidate's id, None if none ran."""
        candidate: VendorDeployment | None = None
        interval, asked = 0.1, False
        while True:
            env = await self._api.environment(model, environment)
            if not running(env):
                break
            candidate = env.candidate_deployment or candidate
            status = env.in_progress_promotion.status if env.in_progress_promotion else ""
            if not asked or (force and status == "RAMPING_DOWN"):
                asked = await self._ask_to_cancel(model, environment, force=force)
            if time.monotonic() + interval > deadline:
                raise WaitTimeout(f"the promotion to {environment} is still {status} although it was cancelled")
            await anyio.sleep(interval)
            interval = min(5.0, interval * 1.3)
        if candidate is None:
            return None
        now = (env.current_deployment.id if env.current_deployment else None) == candidate.id
        if not now:
            await self._release(model, candidate.id, None, copied=source_name(candidate.name) is not None)
        return candidate.id

    async def _ask_to_cancel(self, model: str, environment: str, *, force: bool) -> bool:
        try:
            if force:
                await self._api.force_cancel_promotion(model, environment)
            else:
                await self._api.cancel_promotion(model, environment)
        except ProviderError as error:
            # Lost: the environment tells. Refused: it may have ended meanwhile, which the environment tells too.
            if not error.effect_unknown and error.problem.status_code != 400:
                raise
            self._logger.warning("%s; looking at the environment", error)
            return False
        return True

    async def _promotable(self, source: VendorDeployment, deadline: float) -> VendorDeployment:
        """Bring a deployment up that is stopped or still starting: only one that is up is known to be promotable."""
        interval, started = 0.1, False
        while source.status not in _PROMOTABLE:
            status = STATUSES.get(source.status, DeploymentStatus.UNKNOWN)
            if status is DeploymentStatus.FAILED or (started and status is DeploymentStatus.STOPPED and interval > 1):
                reason = NO_CAPACITY if source.status == "INACTIVE" else f"{source.status}: retry it first"
                raise DeploymentFailed(f"{source.model_id}/{source.id}", reason)
            if status is DeploymentStatus.STOPPED and not started:
                self._logger.info("baseten: %s is stopped; starting it before it is promoted", source.id)
                await self._api.activate(source.model_id, source.id)
                started = True
            if time.monotonic() + interval > deadline:
                raise WaitTimeout(f"{source.model_id}/{source.id} is still {source.status}; it cannot be promoted yet")
            await anyio.sleep(interval)
            interval = min(5.0, interval * 1.3)
            source = await self._deployment(source.model_id, source.id)
            if source.status in IN_PROGRESS:
                interval = min(interval, 1.0)
        return source

    async def _fail(self, promotion: Promotion, reason: str) -> None:
        await self._release(promotion.model, promotion.candidate, promotion.before, copied=promotion.copied)
        raise DeploymentFailed(
            f"{promotion.model}/{promotion.candidate}",
            f"its promotion to {promotion.environment} failed: {reason}; the former deployment serves on",
        )

    async def _release(self, model: str, candidate: str, before: AutoscalingSettings | None, *, copied: bool) -> None:
        """Take the environment's settings off a candidate that does not serve it, so that it costs nothing."""
        try:
            if copied:
                await self._api.deactivate(model, candidate)
            else:
                await self._api.set_autoscaling(model, candidate, before or AutoscalingSettings(min_replica=0))
        except ProviderError:
            # The failure of the promotion is the news; this one must not hide it.
            self._logger.exception("baseten: %s/%s may still have its environment's autoscaling", model, candidate)

    async def _deployment(self, model: str, deployment: str) -> VendorDeployment:
        found: VendorDeployment = read_answer(
            VendorDeployment, await self._api.deployment(model, deployment), "deployment"
        )
        return found


async def _answered(asking: Coroutine[Any, Any, str]) -> str:
    """The vendor's answer. Who is cancelled meanwhile waits for it: what comes after us can be called off by nobody."""
    asked = asyncio.ensure_future(asking)
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        await asyncio.wait({asked}, timeout=_ANSWER_SECONDS)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        raise


def is_it(source: VendorDeployment, other: VendorDeployment | None) -> bool:
    """Whether `other` is the source, or the copy that a promotion made of it."""
    if other is None:
        return False
    copy = re.fullmatch(re.escape(source.name) + r"\.\d{9,}", other.name) if source.name else None
    return other.id == source.id or copy is not None


def source_name(name: str) -> str | None:
    """Name of the deployment that one with this name is a copy of; None if it is no copy."""
    copy = re.fullmatch(r"(.+)\.\d{9,}", name)
    return copy[1] if copy else None


def running(env: Environment) -> bool:
    """Whether a promotion to this environment is under way."""
    progress = env.in_progress_promotion
    return progress is not None and progress.status not in _OVER


def _taken_up(env: Environment, source: VendorDeployment) -> str | None:
    """Id of the source (or its copy) when the environment serves it, or is being given it."""
    if running(env):
        candidate = env.candidate_deployment
        return candidate.id if candidate is not None and is_it(source, candidate) else None
    current = env.current_deployment
    return current.id if current is not None and is_it(source, current) else None


def _settings_of(source: VendorDeployment) -> AutoscalingSettings | None:
    state = source.autoscaling_settings
    if state is None:
        return None
    known: dict[str, Any] = state.model_dump(include=set(AutoscalingSettings.model_fields), exclude_none=True)
    # Not checked: they are the vendor's own values, given back as they were.
    return AutoscalingSettings.model_construct(_fields_set=set(known), **known)


async def roll_back(
    promotions: Promotions, api: ManagementApi, model: str, environment: str, deployment: str, deadline: float
) -> str:
    """Make `deployment` serve again: cancel what runs, else promote it. Returns the id of what serves."""
    env = await api.environment(model, environment)
    target = read_answer(VendorDeployment, await api.deployment(model, deployment), "deployment")
    if running(env) and is_it(target, env.candidate_deployment):
        raise InvalidInput(
            "deployment_id", f"{model}/{deployment}", "is being promoted: name the one that shall serve again"
        )
    await promotions.cancel(model, environment, deadline=deadline)
    promotion = await promotions.start(model, environment, deployment, None, deadline)
    await promotions.finish(promotion, deadline)
    return promotion.candidate


async def call_off(
    promotions: Promotions,
    api: ManagementApi,
    model: str,
    environment: str,
    deployment: str,
    former: str,
    deadline: float,
) -> None:
    """Make `former` serve again if `deployment` does, or is being promoted; other promotions are left alone."""
    env = await api.environment(model, environment)
    try:
        source = read_answer(VendorDeployment, await api.deployment(model, deployment), "deployment")
    except NotFound:
        there = [one for one in (env.current_deployment, env.candidate_deployment) if one is not None]
        if any(source_name(one.name) and one.id != former for one in there):  # it may be a copy of what is gone
            raise
        return
    if running(env) and env.candidate_deployment is not None and not is_it(source, env.candidate_deployment):
        if is_it(source, env.current_deployment):
            await _join(promotions, api, model, environment, former, env.candidate_deployment, deadline)
        return
    if await promotions.seen(model, environment, source, _SHOWS_SECONDS) is not None:
        await roll_back(promotions, api, model, environment, former, deadline)


async def _join(
    promotions: Promotions,
    api: ManagementApi,
    model: str,
    environment: str,
    former: str,
    candidate: VendorDeployment,
    deadline: float,
) -> None:
    """Follow the promotion of `former` that runs.

    Raises:
        Conflict: It is another's.
    """
    if not is_it(read_answer(VendorDeployment, await api.deployment(model, former), "deployment"), candidate):
        problem = Problem(f"{candidate.id} is being promoted there by somebody else: once more when that has ended")
        raise Conflict(PROVIDER, f"let {model}/{former} serve {environment} again", problem)
    promotion = await promotions.start(model, environment, former, None, deadline)
    await promotions.finish(promotion, deadline)


__all__ = ["Promotion", "Promotions", "call_off", "is_it", "roll_back", "running", "source_name"]
