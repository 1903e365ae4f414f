"""The flows under a runner of Prefect, which hears of a cancellation in the UI.

Each flow run is a process of its own, which loads its flow from this file and so has the accident of the case that the
environment variable names then; none if there is no such file. It is forked, and has this file as `__mp_main__` first.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from prefect_modeldeploy import (
    canary_rollout,
    clean_up_orphans,
    promote_to_production,
    reconcile_rollouts,
    roll_back,
    scale_to_zero,
    wake_up,
)
from tests.chaos import warm
from tests.chaos.accidents import Case, arm
from tests.chaos.scenes import hand_over

FLOWS = (
    canary_rollout,
    clean_up_orphans,
    promote_to_production,
    reconcile_rollouts,
    roll_back,
    hand_over,
    scale_to_zero,
    wake_up,
)

NAME = os.environ.get("CHAOS_NAME") or f"served-{os.getpid()}"
"""Of the deployments. Several processes of tests may share a server: their runners would take each other's runs."""

if __name__ == "__main__":
    warm.install()
    serve(*(RunnerDeployment.from_entrypoint(f"{__file__}:{flow.fn.__name__}", name=NAME) for flow in FLOWS))
elif __name__ != "__mp_main__" and "CHAOS_CASE" in os.environ and (case := Path(os.environ["CHAOS_CASE"])).exists():
    arm(Case.read(str(case)))
