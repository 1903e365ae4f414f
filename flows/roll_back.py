"""The way back, served from this process.

    python flows/roll_back.py

You see: two deployments. `prefect deployment run roll-back/by-hand --param target=production` brings the former
version back at once. Every five minutes rollouts whose process is gone are finished or rolled back, as their plans say.
"""

from prefect import serve
from prefect.schedules import Cron

from prefect_modeldeploy import reconcile_rollouts, roll_back

OFTEN = Cron("*/5 * * * *", timezone="UTC", slug="every-five-minutes")

if __name__ == "__main__":
    serve(
        roll_back.to_deployment(name="by-hand", tags=["modeldeploy"]),
        reconcile_rollouts.to_deployment(name="always", tags=["modeldeploy"], schedules=[OFTEN]),
    )
