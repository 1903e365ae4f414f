"""Deploy models from Prefect."""
