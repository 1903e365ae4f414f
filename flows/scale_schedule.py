"""Idle models sleep at night and are warm again before the working day, served from this process.

    python flows/scale_schedule.py production fraud --exclude team=risk      # names of saved Deployment Target blocks

You see: two deployments with a schedule each; every run leaves a table of what it did, and why not.
"""

from argparse import ArgumentParser

from prefect import serve
from prefect.schedules import Cron

from prefect_modeldeploy import scale_to_zero, wake_up

EVENINGS = Cron("0 20 * * MON-FRI", timezone="Europe/Berlin", slug="weekday-evenings")
MORNINGS = Cron("45 6 * * MON-FRI", timezone="Europe/Berlin", slug="weekday-mornings")

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("targets", nargs="*", default=["production"])
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--on-no-wake", choices=["refuse", "stop"], default="refuse")
    evening = vars(parser.parse_args())
    morning = {"targets": evening["targets"]}
    serve(
        scale_to_zero.to_deployment(name="evenings", parameters=evening, schedules=[EVENINGS]),
        wake_up.to_deployment(name="mornings", parameters=morning, schedules=[MORNINGS]),
    )
