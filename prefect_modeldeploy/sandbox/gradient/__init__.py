"""Paperspace Gradient: REST v1 (`/v1`), the retired GraphQL API (`/graphql`) with its log host (`/jobs/logs`), and the
endpoints of the deployments (`/endpoints/<id>/...`).

What is unknown about the vendor, and what the emulator does: the table in docs/sandbox.md.
"""

from prefect_modeldeploy.sandbox.gradient.emulator import GradientEmulator

EMULATOR = GradientEmulator
