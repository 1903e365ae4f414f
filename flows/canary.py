"""Canary rollout, served from this process.

    python flows/canary.py

Then start it in the UI, or with `prefect deployment run canary-rollout/canary --param target=production
--param candidate=digits-2`. You see: the weights move by steps, a verdict after each, and at the end the record's
report as an artifact of the run.
"""

from prefect_modeldeploy import canary_rollout

if __name__ == "__main__":
    canary_rollout.serve(name="canary", tags=["modeldeploy"])
