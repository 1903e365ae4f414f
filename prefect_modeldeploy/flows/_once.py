"""The tasks that change something, as a rollout calls them: Prefect does not run them again when they have failed.

The driver does, but not before it has seen that the rollout is still its own and that nobody has halted it.
"""

from typing import ParamSpec, TypeVar

from prefect import Task

from prefect_modeldeploy.tasks import deployments, traffic

P = ParamSpec("P")
R = TypeVar("R")


def _once(task: Task[P, R]) -> Task[P, R]:
    return task.with_options(retries=0)


acall_off_promotion = _once(deployments.acall_off_promotion)
aclaim_endpoint = _once(traffic.aclaim_endpoint)
acreate_deployment = _once(deployments.acreate_deployment)
adelete_deployment = _once(deployments.adelete_deployment)
apromote_deployment = _once(deployments.apromote_deployment)
aroll_back_deployment = _once(deployments.aroll_back_deployment)
ascale_deployment_to_zero = _once(deployments.ascale_deployment_to_zero)
aset_arms = _once(traffic.aset_arms)
aset_traffic = _once(traffic.aset_traffic)
astart_deployment = _once(deployments.astart_deployment)
astop_deployment = _once(deployments.astop_deployment)
awake_deployment = _once(deployments.awake_deployment)
