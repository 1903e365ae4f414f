"""Waiting for deployments, with a progress artifact while it lasts."""

from collections.abc import Sequence
from uuid import UUID

import anyio
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.transport import Logger

_SHOW_SECONDS = 5.0
"""Prefect's client asks a server that declines again for a minute, in which nobody would look whether it is ready."""


async def _await_until_ready(
    target: DeploymentTarget | str, deployment_id: str | Sequence[str], timeout_seconds: float = 600.0
) -> list[Deployment]:
    """Wait until deployments can take traffic, by the provider's own rules of readiness.

    One task run and one list call per look, however many deployments there are; all are at one provider.
    Shows its progress in the UI.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one, or several.
        timeout_seconds: When to give up.

    Returns:
        The deployments, in the order asked for.

    Raises:
        DeploymentFailed: One of them failed; holds the reason.
        WaitTimeout: The time is over.
    """
    target = await DeploymentTarget.resolve(target)
    ids = [deployment_id] if isinstance(deployment_id, str) else list(deployment_id)
    target = await target.at(ids[0]) if ids else target
    seen: list[Deployment] = []
    progress = _Progress(f"{target.endpoint}-ready", f"Waiting for {', '.join(ids)}", target.credentials.logger)
    async with target.credentials.get_client() as client:
        async for seen in client.wait(ids, lambda d: d.ready, model=target.model, timeout_seconds=timeout_seconds):
            states = ", ".join(f"{d.id}: {d.status.value}" for d in seen)
            await progress.show(100.0 * sum(d.ready for d in seen) / len(seen), states)
            target.credentials.logger.debug("waiting: %s", states)
    return seen


class _Progress:
    """A progress artifact, written only when there is news. Without Prefect's server there is none: nothing waits."""

    def __init__(self, key: str, description: str, logger: Logger) -> None:
        self._key, self._description, self._logger = key.replace("_", "-").replace(".", "-"), description, logger
        self._warned = False
        self._id: UUID | None = None
        self._shown: tuple[float, str] | None = None

    async def show(self, percent: float, states: str) -> None:
        if self._shown == (percent, states):
            return
        self._shown = (percent, states)
        try:
            with anyio.fail_after(_SHOW_SECONDS):
                await self._write(percent, f"{self._description} ({states})")
        except Exception as error:  # whatever it is, it must not turn a rollout back
            if not self._warned:
                self._logger.warning("%s: its progress cannot be shown: %r", self._key, error)
            self._warned = True

    async def _write(self, percent: float, description: str) -> None:
        if self._id is None:
            self._id = await acreate_progress_artifact(percent, key=self._key, description=description)
        else:
            await aupdate_progress_artifact(self._id, percent, description=description)


wait_until_ready, await_until_ready = pair(_await_until_ready)
