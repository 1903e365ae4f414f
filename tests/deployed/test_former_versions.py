"""A replaced version goes by the project's own schedule, at its times: it is warm, then at zero, then deleted."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import yaml

from prefect_modeldeploy.tasks._notes import Former, Notes
from tests.conftest import eventually
from tests.deployed.kit import NAMES, ROOT, call, deployments_of, run, runs_by, runs_of, spec_as_json, switch
from tests.flows.conftest import QUICK, Site
from tests.prefect_server import Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the set-up is counted too

CLEANING = NAMES["clean-up-orphans"]
DELAYS = {"former_warm_seconds": 20.0, "former_delete_after_seconds": 90.0}


def deploy_with_short_nights(environment: dict[str, str], target: str, directory: Path) -> None:
    """The clean-up as the project deploys it, for this target; a night lasts twenty seconds."""
    content = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())
    [cleaning] = [one for one in content["deployments"] if one["name"] == "clean-up-orphans"]
    [schedule] = cleaning["schedules"]
    cleaning["parameters"]["targets"] = [target]
    cleaning["schedules"] = [{"slug": schedule["slug"], "active": schedule["active"], "interval": 20}]
    file = directory / "prefect.yaml"
    file.write_text(yaml.safe_dump({**content, "deployments": [cleaning]}))
    call(environment, "prefect", "--no-prompt", "deploy", "--prefect-file", str(file), "--all", cwd=directory)


async def is_noted_to_rest(target: str, former: str) -> bool:
    """Whether it was scaled to zero, that is written down, and no clean-up is under way."""
    note = (await Notes(Former, target).all())[former]
    runs = [run.state for run in await runs_of(CLEANING) if run.state]
    return note.zero_at is None and not any(state.is_running() or state.is_pending() for state in runs)


async def test_though_prefects_server_is_killed_in_between(
    prefect_server: Server, deployed: dict[str, str], worker: None, site: Site, tmp_path: Path
) -> None:
    target = site.target.endpoint
    former, newer = f"{target}-1", f"{target}-2"
    plan = QUICK.model_copy(update={"steps": (), **DELAYS}).model_dump(mode="json")
    await switch(CLEANING, on=False)  # a process every twenty seconds: not before there is something to do
    await asyncio.to_thread(deploy_with_short_nights, deployed, target, tmp_path)
    await run(NAMES["promote-to-production"], target=target, candidate=spec_as_json(site, "1"), approval=None)
    await run(NAMES["canary-rollout"], target=target, candidate=spec_as_json(site, "2"), plan=plan)
    due = (await Notes(Former, target).all())[former]
    assert due.zero_at is not None
    assert due.delete_at is not None
    await switch(CLEANING, on=True)

    async def has_become(what: dict[str, str]) -> bool:
        return await deployments_of(site) == what

    await eventually(partial(has_become, {former: "SCALED_TO_ZERO", newer: "READY"}), 120, every=0.2)
    assert datetime.now(UTC) > due.zero_at, "it was kept warm"
    await eventually(partial(is_noted_to_rest, target, former), 60, every=0.2)
    prefect_server.kill()
    assert await has_become({former: "SCALED_TO_ZERO", newer: "READY"})
    prefect_server.start()
    await asyncio.to_thread(wait_for, prefect_server.url)
    before = {run.id for run in await runs_by("SCHEDULE", CLEANING)}
    await eventually(partial(has_become, {newer: "READY"}), 200, every=0.2)
    assert datetime.now(UTC) > due.delete_at, "it could have been rolled back to"
    assert {run.id for run in await runs_by("SCHEDULE", CLEANING)} - before
    await eventually(partial(is_forgotten, target), 60, every=0.2)


async def is_forgotten(target: str) -> bool:
    return await Notes(Former, target).all() == {}
