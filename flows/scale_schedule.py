"""Idle models sleep at night and are warm again before the working day, served from this process.

    python flows/scale_schedule.py production fraud --exclude team=risk      # names of saved Deployment Target blocks

You see: two deployments with a schedule each; every run leaves a table of what it did, and why not. A schedule that was
switched off in the UI stays off when this is started again.
"""

from argparse import ArgumentParser

from prefect import serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

from prefect_modeldeploy import scale_to_zero, wake_up

EVENINGS = DeploymentScheduleCreate(
    slug="weekday-evenings", schedule=CronSchedule(cron="0 20 * * MON-FRI", timezone="Europe/Berlin")
)
MORNINGS = DeploymentScheduleCreate(
    slug="weekday-mornings", schedule=CronSchedule(cron="45 6 * * MON-FRI", timezone="Europe/Berlin")
)

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("targets", nargs="*", default=["production"])
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--on-no-wake", choices=["refuse", "stop"], default="refuse")
    evening = vars(parser.parse_args())
    morning = {"targets": evening["targets"]}
    serve(
        scale_to_zero.to_deployment(name="evenings", tags=["modeldeploy"], parameters=evening, schedules=[EVENINGS]),
        wake_up.to_deployment(name="mornings", tags=["modeldeploy"], parameters=morning, schedules=[MORNINGS]),
    )
