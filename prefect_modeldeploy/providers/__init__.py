"""One file per serving system: its block, and its API in our words."""

from prefect_modeldeploy.providers.local import LocalServing

Credentials = LocalServing
"""Every provider's block: what a Deployment Target can hold."""

__all__ = ["Credentials", "LocalServing"]
