"""One deployment of a spec, however many create it at once.

Foundry's lists tell a deployment's variables, so that is where a spec's digest and the call's mark are. Whether a
branch may have two live deployments is not documented, and there is no call that deletes one.
"""

from collections.abc import Sequence

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.errors import Conflict, Problem
from prefect_modeldeploy.providers.foundry import config
from prefect_modeldeploy.providers.foundry.api import FoundryApi
from prefect_modeldeploy.providers.foundry.types import LiveDeployment
from prefect_modeldeploy.transport import Logger

AGREE_SECONDS = 1.0
"""Who else creates the same at this moment has that time until it shows. A request on its way for longer escapes it."""


def first(lives: Sequence[LiveDeployment], spec: DeploymentSpec, branch: str) -> LiveDeployment | None:
    """The first deployment that this very spec has created. Raises Conflict when its place is taken by another."""
    if same := _of_spec(lives, spec, branch):
        return same[0]
    for live in lives:
        if live.environment_variables.get(config.NAME_MARKER) == spec.name:
            raise _taken(f"name {spec.name} belongs to {live.rid}, which another spec has created; update that one")
        if live.branch == branch:
            raise _taken(f"branch {branch} has a deployment already, {live.rid}; name another with options.branch")
    return None


async def settled(
    api: FoundryApi, spec: DeploymentSpec, branch: str, call: str, logger: Logger
) -> LiveDeployment | None:
    """The deployment that all who create this spec now agree on; what else this call has made is disabled."""
    same = _of_spec(await api.live_deployments(spec.model, branch), spec, branch)
    for live in same[1:]:
        if _call_of(live).endswith(call):
            await api.disable_live_deployment(live.rid)
            logger.warning("%s is one too many of %s and was disabled: delete it in Foundry's UI", live.rid, spec.name)
    return same[0] if same else None


def _of_spec(lives: Sequence[LiveDeployment], spec: DeploymentSpec, branch: str) -> list[LiveDeployment]:
    """Those that this very spec has created, in the order of the calls that did."""
    marks = {config.NAME_MARKER: spec.name, config.SPEC_MARKER: config.digest(spec)}
    same = [live for live in lives if live.branch == branch and marks.items() <= live.environment_variables.items()]
    return sorted(same, key=lambda live: (_call_of(live), live.rid))


def _call_of(live: LiveDeployment) -> str:
    return str(live.environment_variables.get(config.CALL_MARKER, ""))


def _taken(message: str) -> Conflict:
    return Conflict("foundry", "POST /v2/models/liveDeployments", Problem(message, code="DeploymentExists"))
