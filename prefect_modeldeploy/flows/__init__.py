"""The flows: each usable alone, in a deployment, and inside others."""

from prefect_modeldeploy.flows.canary import canary_rollout
from prefect_modeldeploy.flows.cleaning import clean_up_orphans
from prefect_modeldeploy.flows.fleet import fleet_report
from prefect_modeldeploy.flows.planning import plan_rollout
from prefect_modeldeploy.flows.promote import promote_to_production
from prefect_modeldeploy.flows.reconcile import reconcile_rollouts
from prefect_modeldeploy.flows.roll_back import roll_back
from prefect_modeldeploy.flows.scaling import scale_to_zero, wake_up
from prefect_modeldeploy.rollout import Approval

__all__ = [
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
]
