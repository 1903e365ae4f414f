"""Idle models sleep at night and are warm again before the working day, served from this process.

    python flows/scale_schedule.py production fraud      # names of saved Deployment Target blocks

You see: two deployments with a schedule each; every run leaves a table of what it did, and why not.
"""

import sys

from prefect import serve
from prefect.schedules import Cron

from prefect_modeldeploy import scale_to_zero, wake_up

EVENINGS = Cron("0 20 * * MON-FRI", timezone="Europe/Berlin", slug="weekday-evenings")
MORNINGS = Cron("45 6 * * MON-FRI", timezone="Europe/Berlin", slug="weekday-mornings")

if __name__ == "__main__":
    targets = {"targets": sys.argv[1:] or ["production"]}
    serve(
        scale_to_zero.to_deployment(name="evenings", parameters=targets, schedules=[EVENINGS]),
        wake_up.to_deployment(name="mornings", parameters=targets, schedules=[MORNINGS]),
    )
