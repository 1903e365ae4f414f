"""Nothing runs unseen: every night what nothing routes to is found, every morning there is a table of all there is.

    python flows/fleet.py production fraud      # names of saved Deployment Target blocks

You see: two deployments with a schedule each. The clean-up lets go of replaced versions as the plans of their rollouts
said, and only reports the models that nothing routes to; `action="scale_to_zero"` or `"delete"` lets go of those too.
A schedule that was switched off in the UI stays off when this is started again.
"""

import sys

from prefect import serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from prefect_modeldeploy import clean_up_orphans, fleet_report

MORNINGS = DeploymentScheduleCreate(
    slug="every-morning", schedule=CronSchedule(cron="0 7 * * *", timezone="Europe/Berlin")
)
NIGHTS = DeploymentScheduleCreate(slug="every-night", schedule=CronSchedule(cron="0 3 * * *", timezone="Europe/Berlin"))

if __name__ == "__main__":
    targets = {"targets": sys.argv[1:] or ["production"]}
    serve(
        fleet_report.to_deployment(name="mornings", tags=["modeldeploy"], parameters=targets, schedules=[MORNINGS]),
        clean_up_orphans.to_deployment(name="nights", tags=["modeldeploy"], parameters=targets, schedules=[NIGHTS]),
    )
