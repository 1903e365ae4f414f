"""Canary rollout and its dry run, served from this process.

    python flows/canary.py

Then start it in the UI, or with `prefect deployment run canary-rollout/canary --param target=production
--param candidate=digits-2`. You see: the weights move by steps, a verdict after each, and at the end the record's
report as an artifact of the run. `plan-rollout/plan` takes the same parameters and only says what would happen.
"""

from prefect import serve

from prefect_modeldeploy import canary_rollout, plan_rollout

if __name__ == "__main__":
    serve(
        canary_rollout.to_deployment(name="canary", tags=["modeldeploy"]),
        plan_rollout.to_deployment(name="plan", tags=["modeldeploy"]),
    )
