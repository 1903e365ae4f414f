"""One task per operation on deployments. Each exists as `name` (synchronous) and `aname` (asynchronous)."""

from typing import Any

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks._pair import pair


async def _acreate_deployment(target: DeploymentTarget | str, spec: DeploymentSpec) -> Deployment:
    """Create a deployment; the same spec again returns the one that exists.

    Args:
        target: Block, or name of a saved one.
        spec: What to deploy, and how it shall run.

    Returns:
        The deployment, usually not ready yet.

    Raises:
        Conflict: The name is taken by something else.
        UnsupportedOperation: The provider cannot create deployments; nothing was sent.
    """
    async with client_of(target) as client:
        return await client.create(spec)


async def _aget_deployment(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Return one deployment as it is now.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.

    Raises:
        NotFound: There is none.
    """
    async with client_of(target, deployment_id) as client:
        return await client.get(deployment_id)


async def _alist_deployments(target: DeploymentTarget | str, all_models: bool = False) -> list[Deployment]:
    """Return the deployments of the target's model.

    Args:
        target: Block, or name of a saved one.
        all_models: True for those of every model on this provider.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target) as client:
        return await client.find(model=None if all_models else target.model)


async def _aupdate_deployment(
    target: DeploymentTarget | str, deployment_id: str, update: DeploymentUpdate
) -> Deployment:
    """Change a deployment in place.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
        update: What to change; fields left at None stay.
    """
    async with client_of(target, deployment_id) as client:
        return await client.update(deployment_id, update)


async def _ascale_deployment(
    target: DeploymentTarget | str, deployment_id: str, autoscaling: Autoscaling
) -> Deployment:
    """Change how many replicas a deployment has.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
        autoscaling: Fields left at None stay.
    """
    async with client_of(target, deployment_id) as client:
        return await client.scale(deployment_id, autoscaling)


async def _astop_deployment(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Take a deployment out of service; only `start_deployment` brings it back.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
    """
    async with client_of(target, deployment_id) as client:
        return await client.stop(deployment_id)


async def _astart_deployment(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Bring a stopped deployment back.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
    """
    async with client_of(target, deployment_id) as client:
        return await client.start(deployment_id)


async def _awake_deployment(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Start replicas of a deployment that was scaled to zero, without waiting for them.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
    """
    async with client_of(target, deployment_id) as client:
        return await client.wake(deployment_id)


async def _ascale_deployment_to_zero(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Let go of all replicas now; the next request wakes the deployment.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
    """
    async with client_of(target, deployment_id) as client:
        return await client.scale_to_zero(deployment_id)


async def _adelete_deployment(target: DeploymentTarget | str, deployment_id: str) -> None:
    """Delete a deployment. Deleting one that is gone already is no error.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.

    Raises:
        Conflict: An endpoint routes to it.
    """
    async with client_of(target, deployment_id) as client:
        await client.delete(deployment_id)


async def _apredict(target: DeploymentTarget | str, deployment_id: str, payload: Any, path: str | None = None) -> Any:
    """Send one request to a deployment and return its decoded answer.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
        payload: Body, as JSON.
        path: Path below the deployment's address, where the provider has several.
    """
    async with client_of(target, deployment_id) as client:
        return await client.predict(deployment_id, payload, path=path)


async def _aget_logs(target: DeploymentTarget | str, deployment_id: str, tail: int = 100) -> list[str]:
    """Return the last lines of a deployment's log, oldest first.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.
        tail: How many lines.
    """
    async with client_of(target, deployment_id) as client:
        return await client.logs(deployment_id, tail=tail)


async def _apromote_deployment(target: DeploymentTarget | str, deployment_id: str) -> Deployment:
    """Make a deployment the one that serves the target's environment, in the provider's own way.

    Args:
        target: Block, or name of a saved one.
        deployment_id: Which one.

    Returns:
        What serves then, maybe not ready yet; it can be another one, such as a copy.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target, deployment_id) as client:
        return await client.promote(deployment_id, environment=target.environment)


async def _aformer_version(target: DeploymentTarget | str, deployment_id: str) -> str | None:
    """Return the version that `roll_back_deployment` has to be told, so that doing it again changes nothing.

    Args:
        target: Block, or name of a saved one.
        deployment_id: The one that serves now.

    Returns:
        The version; None where the provider's own roll-back can be repeated.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target) as client:
        return await client.former_version(deployment_id, environment=target.environment)


async def _aroll_back_deployment(
    target: DeploymentTarget | str, deployment_id: str, to_version: str | None = None
) -> Deployment:
    """Undo the last promotion to the target's environment, in the provider's own way.

    Args:
        target: Block, or name of a saved one.
        deployment_id: The one that serves now. If it does not any more, nothing changes.
        to_version: What `former_version` said before.

    Returns:
        What serves then.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target, deployment_id) as client:
        if to_version is not None:
            return await client.update(deployment_id, DeploymentUpdate(version=to_version))
        return await client.roll_back(deployment_id, environment=target.environment)


async def _acall_off_promotion(target: DeploymentTarget | str, deployment_id: str, former_id: str) -> None:
    """Undo our own promotion to the target's environment, whether it runs or is done; another's is left alone.

    Args:
        target: Block, or name of a saved one.
        deployment_id: What was promoted. If it neither serves nor is being promoted, nothing changes.
        former_id: What shall serve again.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target, deployment_id) as client:
        await client.call_off(deployment_id, former_id, environment=target.environment)


create_deployment, acreate_deployment = pair(_acreate_deployment)
get_deployment, aget_deployment = pair(_aget_deployment)
list_deployments, alist_deployments = pair(_alist_deployments)
update_deployment, aupdate_deployment = pair(_aupdate_deployment)
scale_deployment, ascale_deployment = pair(_ascale_deployment)
stop_deployment, astop_deployment = pair(_astop_deployment)
start_deployment, astart_deployment = pair(_astart_deployment)
wake_deployment, awake_deployment = pair(_awake_deployment)
scale_deployment_to_zero, ascale_deployment_to_zero = pair(_ascale_deployment_to_zero)
delete_deployment, adelete_deployment = pair(_adelete_deployment)
predict, apredict = pair(_apredict)
get_logs, aget_logs = pair(_aget_logs)
promote_deployment, apromote_deployment = pair(_apromote_deployment)
former_version, aformer_version = pair(_aformer_version)
roll_back_deployment, aroll_back_deployment = pair(_aroll_back_deployment)
call_off_promotion, acall_off_promotion = pair(_acall_off_promotion)
