"""Promotion without steps, served from this process.

    python flows/promote.py

Then start it in the UI, or with `prefect deployment run promote-to-production/promote --param target=production
--param candidate=digits-2`. You see: the candidate takes over as soon as it is ready, and the former version sleeps.
"""

from prefect_modeldeploy import promote_to_production

if __name__ == "__main__":
    promote_to_production.serve(name="promote", tags=["modeldeploy"])
