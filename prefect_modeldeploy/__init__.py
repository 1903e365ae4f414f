"""Change what serves production, safely: model deployments as Prefect blocks, tasks and flows.

Names are imported when they are first used, so that the serving node and the command line start without Prefect, and
the gateway's adapter with next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_modeldeploy.deployments import Autoscaling as Autoscaling
    from prefect_modeldeploy.deployments import Capability as Capability
    from prefect_modeldeploy.deployments import Deployment as Deployment
    from prefect_modeldeploy.deployments import DeploymentSpec as DeploymentSpec
    from prefect_modeldeploy.deployments import DeploymentStatus as DeploymentStatus
    from prefect_modeldeploy.deployments import DeploymentUpdate as DeploymentUpdate
    from prefect_modeldeploy.deployments import Resources as Resources
    from prefect_modeldeploy.errors import ModelDeployError as ModelDeployError
    from prefect_modeldeploy.flows import Approval as Approval
    from prefect_modeldeploy.flows import canary_rollout as canary_rollout
    from prefect_modeldeploy.flows import clean_up_orphans as clean_up_orphans
    from prefect_modeldeploy.flows import fleet_report as fleet_report
    from prefect_modeldeploy.flows import plan_rollout as plan_rollout
    from prefect_modeldeploy.flows import promote_to_production as promote_to_production
    from prefect_modeldeploy.flows import reconcile_rollouts as reconcile_rollouts
    from prefect_modeldeploy.flows import roll_back as roll_back
    from prefect_modeldeploy.flows import scale_to_zero as scale_to_zero
    from prefect_modeldeploy.flows import wake_up as wake_up
    from prefect_modeldeploy.freeze import FreezeCalendar as FreezeCalendar
    from prefect_modeldeploy.gateway import Gateway as Gateway
    from prefect_modeldeploy.providers import BasetenCredentials as BasetenCredentials
    from prefect_modeldeploy.providers import DockerServing as DockerServing
    from prefect_modeldeploy.providers import FiddlerCredentials as FiddlerCredentials
    from prefect_modeldeploy.providers import FoundryCredentials as FoundryCredentials
    from prefect_modeldeploy.providers import GradientCredentials as GradientCredentials
    from prefect_modeldeploy.providers import LocalServing as LocalServing
    from prefect_modeldeploy.providers import ScaleCredentials as ScaleCredentials
    from prefect_modeldeploy.rollout import CanaryPlan as CanaryPlan
    from prefect_modeldeploy.rollout import JudgePlan as JudgePlan
    from prefect_modeldeploy.rollout import RolloutRecord as RolloutRecord
    from prefect_modeldeploy.rollout.freeze import FreezeWindow as FreezeWindow
    from prefect_modeldeploy.rollout.preview import RolloutPreview as RolloutPreview
    from prefect_modeldeploy.rollout.webhook import WebhookGate as WebhookGate
    from prefect_modeldeploy.sources import BasetenMetrics as BasetenMetrics
    from prefect_modeldeploy.sources import PrometheusMetrics as PrometheusMetrics
    from prefect_modeldeploy.target import DeploymentTarget as DeploymentTarget

__version__: str

_HOMES = {
    "deployments": (
        "Autoscaling",
        "Capability",
        "Deployment",
        "DeploymentSpec",
        "DeploymentStatus",
        "DeploymentUpdate",
        "Resources",
    ),
    "errors": ("ModelDeployError",),
    "flows": (
        "Approval",
        "canary_rollout",
        "clean_up_orphans",
        "fleet_report",
        "plan_rollout",
        "promote_to_production",
        "reconcile_rollouts",
        "roll_back",
        "scale_to_zero",
        "wake_up",
    ),
    "freeze": ("FreezeCalendar",),
    "gateway": ("Gateway",),
    "providers": (
        "BasetenCredentials",
        "DockerServing",
        "FiddlerCredentials",
        "FoundryCredentials",
        "GradientCredentials",
        "LocalServing",
        "ScaleCredentials",
    ),
    "rollout": ("CanaryPlan", "JudgePlan", "RolloutRecord"),
    "rollout.freeze": ("FreezeWindow",),
    "rollout.preview": ("RolloutPreview",),
    "rollout.webhook": ("WebhookGate",),
    "sources": ("BasetenMetrics", "PrometheusMetrics"),
    "target": ("DeploymentTarget",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("prefect-modeldeploy")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
