"""What an endpoint serves, as an asset of Prefect: every promotion materialises it."""

from prefect.events import emit_event

from prefect_modeldeploy.rollout import RolloutRecord


def asset_key(record: RolloutRecord) -> str:
    """Prefect's key of the asset: `<provider>://<endpoint>`."""
    return f"{record.provider}://{record.endpoint}"


def materialised(record: RolloutRecord) -> None:
    """Tell Prefect that the production version of the record's endpoint is a new one.

    An event and no `@materialize` task: it cannot fail, so nothing that serves is ever turned back because of it.
    """
    emit_event(
        event="prefect.asset.materialization.succeeded",
        resource={
            "prefect.resource.id": asset_key(record),
            "prefect.resource.name": record.endpoint,
            "prefect.asset.description": f"What {record.endpoint} serves in {record.environment}: {record.model}",
        },
        related=[{"prefect.resource.id": "prefect-modeldeploy", "prefect.resource.role": "asset-materialized-by"}],
        payload={
            "deployment": record.serving or record.canary,
            "version": None if record.turns_away else record.canary_version,
            "former": record.stable,
            "rollout": record.id,
            "who": record.who.name,
            "why": record.why,
        },
    )
