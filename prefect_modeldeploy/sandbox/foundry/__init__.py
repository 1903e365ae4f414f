"""Palantir Foundry: live deployments, models, versions, functions, and OAuth2 client credentials.

What is unknown about the vendor, and what the emulator does: the table in docs/sandbox.md.

A deployment is DEGRADED when a fate holds it there: `fate(timeline="create", stage="DEGRADED", outcome="stuck")`;
a new version stays away with `fate(timeline="upgrade", outcome="stuck")`, and is unseen in lists with
`fate(timeline="version", outcome="late")`. `expires_in` is in our seconds, so that it is true at every speed.
"""

from prefect_modeldeploy.sandbox.foundry.emulator import FoundryEmulator

EMULATOR = FoundryEmulator

__all__ = ["EMULATOR", "FoundryEmulator"]
