"""Nothing runs unseen: every night what nothing routes to is found, every morning there is a table of all there is.

    python flows/fleet.py production fraud      # names of saved Deployment Target blocks

You see: two deployments with a schedule each. The clean-up lets go of replaced versions as the plans of their rollouts
said, and only reports the models that nothing routes to; `action="scale_to_zero"` or `"delete"` lets go of those too.
"""

import sys

from prefect import serve
from prefect.schedules import Cron

from prefect_modeldeploy import clean_up_orphans, fleet_report

MORNINGS = Cron("0 7 * * *", timezone="Europe/Berlin", slug="every-morning")
NIGHTS = Cron("0 3 * * *", timezone="Europe/Berlin", slug="every-night")

if __name__ == "__main__":
    targets = {"targets": sys.argv[1:] or ["production"]}
    serve(
        fleet_report.to_deployment(name="mornings", parameters=targets, schedules=[MORNINGS]),
        clean_up_orphans.to_deployment(name="nights", parameters=targets, schedules=[NIGHTS]),
    )
