"""The way back, served from this process.

    python flows/roll_back.py

You see: two deployments. `prefect deployment run roll-back/by-hand --param target=production` brings the former
version back at once. Every five minutes rollouts whose process is gone are finished or rolled back, as their plans say.
A schedule that was switched off in the UI stays off when this is started again.
"""

from prefect import serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from prefect_modeldeploy import reconcile_rollouts, roll_back

OFTEN = DeploymentScheduleCreate(slug="every-five-minutes", schedule=CronSchedule(cron="*/5 * * * *", timezone="UTC"))

if __name__ == "__main__":
    serve(
        roll_back.to_deployment(name="by-hand", tags=["modeldeploy"]),
        reconcile_rollouts.to_deployment(name="always", tags=["modeldeploy"], schedules=[OFTEN]),
    )
