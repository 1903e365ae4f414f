"""What the flows over many targets share: every target gets its turn, whatever happens to another, and a table."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_run_logger

from prefect_modeldeploy.errors import FleetError
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._rows import FleetRow, row_of_failed

_PRICED = ("scaled_to_zero", "stopped", "orphan")
_SAVED = ("woken", "restored")


async def for_each(
    targets: Sequence[DeploymentTarget], do: Callable[[DeploymentTarget], Awaitable[list[FleetRow]]]
) -> list[FleetRow]:
    """Do something to all targets at once; one that fails has a row that says so."""
    done = await asyncio.gather(*(do(target) for target in targets), return_exceptions=True)
    rows = list[FleetRow]()
    for target, result in zip(targets, done, strict=True):
        if isinstance(result, list):
            rows += result
        elif isinstance(result, Exception):
            rows.append(row_of_failed(target, result))
        else:
            raise result
    return rows


async def tell(key: str, rows: list[FleetRow]) -> list[FleetRow]:
    """Log the rows, leave them as a table artifact, and return them.

    Raises:
        FleetError: Some of them failed.
    """
    for row in rows:
        get_run_logger().info("%s: %s (%s)", row.deployment, row.action.replace("_", " "), row.reason)
    await acreate_table_artifact(without_empty([_cells(row) for row in rows]), key=key, description=_summary(key, rows))
    if failed := [row for row in rows if row.action == "failed"]:
        problems = "; ".join(f"{row.endpoint}/{row.deployment}: {row.reason}" for row in failed)
        raise FleetError(f"{len(failed)} of {len(rows)} failed, the others are done: {problems}")
    return rows


def _cells(row: FleetRow) -> dict[str, str]:
    return {
        "Endpoint": row.endpoint,
        "Deployment": row.deployment,
        "Provider": row.provider,
        "What was done": row.action.replace("_", " ") + (" (dry run)" if row.dry_run else ""),
        "Why": row.reason,
        "Replicas": str(row.replicas),
        "Cost per hour": known(row.cost_per_hour, ".4g") if row.action in _PRICED else "",
        "Replica hours saved": known(row.saved_replica_hours, ".2f") if row.action in _SAVED else "",
        "Money saved": known(row.saved_money, ".2f") if row.action in _SAVED else "",
    }


def without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without the columns that have nothing in any of them: the UI has little room."""
    told = {name for row in rows for name, cell in row.items() if cell}
    return [{name: cell for name, cell in row.items() if name in told} for row in rows]


def known(value: float | None, form: str) -> str:
    """A number in words for a table."""
    return "unknown" if value is None else format(value, form)


def _summary(key: str, rows: list[FleetRow]) -> str:
    actions = [row.action.replace("_", " ") for row in rows]
    counted = ", ".join(f"{actions.count(action)} {action}" for action in sorted(set(actions))) or "nothing to do"
    woken = [row for row in rows if row.action in _SAVED]
    if not woken:
        return f"{key}: {counted}"
    hours = [row.saved_replica_hours for row in woken if row.saved_replica_hours is not None]
    money = [row.saved_money for row in woken if row.saved_money is not None]
    saved = f"at most {sum(hours):.2f} replica hours" if hours else "an unknown number of replica hours"
    worth = f"worth {sum(money):.2f}" + ("" if len(money) == len(woken) else " and more") if money else "price unknown"
    return f"{key}: {counted}. Saved since they were let go: {saved}, {worth}"
