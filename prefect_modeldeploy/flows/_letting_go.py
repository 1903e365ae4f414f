"""How a rollout lets go of a deployment: the former version, or a canary that it created."""

from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import InvalidInput, ModelDeployError, NotFound, ProviderError, UnsupportedOperation
from prefect_modeldeploy.flows._once import adelete_deployment, ascale_deployment_to_zero, astop_deployment
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._surroundings import routes_to


async def retire(target: DeploymentTarget, deployment_id: str, how: str) -> None:
    """Let go of a deployment, unless an endpoint has it among its arms, or its provider will not."""
    if how == "keep":
        return
    logger = target.credentials.logger
    if routes := await routes_to(target, deployment_id):
        logger.warning("%s: %s is kept, for it serves %s", target.endpoint, deployment_id, routes)
        return
    try:
        await _let_go(target, deployment_id, how)
    except NotFound:  # somebody else has let go of it
        return
    except ModelDeployError as error:
        if not _is_refused(error):
            raise
        # The traffic is where it should be, and asking again would change nothing.
        logger.warning("%s: %s is kept, for its provider does not let it go: %s", target.endpoint, deployment_id, error)


async def _let_go(target: DeploymentTarget, deployment_id: str, how: str) -> None:
    """Delete it, or put it to rest where it is not to be deleted, cannot be, or must not be."""
    can = (await target.at(deployment_id)).credentials.can
    if how == "delete" and can(Capability.DELETE):
        try:
            await adelete_deployment(target, deployment_id)
        except (InvalidInput, UnsupportedOperation) as error:  # nobody was asked: it may rest at least
            target.credentials.logger.warning("%s: %s cannot be deleted: %s", target.endpoint, deployment_id, error)
        else:
            return
    # No request comes any more that could wake it: where a provider has no such zero, a stop is as good.
    put_to_rest = ascale_deployment_to_zero if can(Capability.SCALE_TO_ZERO) else astop_deployment
    await put_to_rest(target, deployment_id)


def _is_refused(error: ModelDeployError) -> bool:
    """Whether a provider has understood what was asked for, and will not do it."""
    if isinstance(error, ProviderError):
        return error.problem.code == "in_use" or error.problem.status_code in (400, 403, 422)
    return isinstance(error, InvalidInput | UnsupportedOperation)
