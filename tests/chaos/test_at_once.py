"""Ten processes start a rollout of the same endpoint in the same moment: one runs, and no other changes anything."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy import canary_rollout, promote_to_production, roll_back
from prefect_modeldeploy.errors import RolloutInProgress, StaleEpoch
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Approval, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from tests.chaos.accidents import Case
from tests.chaos.processes import alone
from tests.chaos.scenes import local_site
from tests.chaos.watching import watched
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site

TEN = range(2, 12)
"""Half of them are canary rollouts of the same version, each of the others promotes one of its own."""

LONG = QUICK.model_copy(update={"step_seconds": 240.0, "deadline_seconds": 900.0})
SOMEBODY = Approval(before=("promotion",), timeout_seconds=600)


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_of_ten_processes_that_start_at_once_exactly_one_runs(tmp_path: Path, prefect_server: None) -> None:
    """Canary rollouts and promotions. The eleventh is a roll-back, which is the one that may."""
    go = tmp_path / "go"
    async with local_site(tmp_path / "node", 1) as site, await site.load(rate=100) as answers:
        await site.history(answers, 100)
        before, created = await site.endpoint(), set[str]()
        async with watched(site.target) as seen:
            ten = [asyncio.create_task(_started(tmp_path / f"of-{version}", go, site, version)) for version in TEN]
            await eventually(lambda: len([*tmp_path.glob("of-*/ready")]) == len(TEN), seconds=180)
            go.touch()

            async def nine_have_ended() -> bool:
                created.update(await site.deployments())
                return sum(task.done() for task in ten) == 9 and len(created) > 1

            await eventually(nine_have_ended, seconds=240)
            running, during = await _journal.latest(site.target.endpoint), await site.endpoint()
            back = await roll_back(site.target)
            ends = Counter(await asyncio.gather(*ten))
        assert running is not None
        assert ends == {RolloutInProgress.__name__: 9, StaleEpoch.__name__: 1}, "the one was taken over in the end"
        assert created == {before.arms[0].upstream, running.canary}, "one was created, of the one that runs"
        assert during.epoch == before.epoch + 1, "one has claimed the endpoint"
        assert (back.id, back.outcome) == (running.id, "rolled_back")
        assert await site.arms() == {"stable": (before.arms[0].upstream, 100.0)}
        await eventually(partial(_is_gone, site, running.canary))  # its process may still be stopping
    assert not seen.wrong
    assert set(answers.failures) <= {"status 500"}
    await stop_node(tmp_path / "node")


async def _is_gone(site: Site, deployment_id: str) -> bool:
    return deployment_id not in await site.deployments()


async def _started(directory: Path, go: Path, site: Site, version: int) -> str:
    """A process of its own, which begins when `go` is there; returns the name of the type that the flow ended with."""
    directory.mkdir()
    never = directory / "struck"
    never.touch()  # no accident befalls it
    arguments: dict[str, Any] = {"target": site.target}
    if version % 2:
        flow: Any = promote_to_production
        arguments |= {"candidate": site.spec(str(version)), "approval": SOMEBODY}
    else:
        flow = canary_rollout
        arguments |= {"candidate": site.spec("2"), "plan": LONG}
    given = {"flow": flow, "arguments": arguments, "ready": directory / "ready", "go": go}
    said = await alone(directory, Case(_when_released, given, site.target, "end:saved", "kill", never))
    return said.rpartition("ended with ")[2].split()[0]


async def _when_released(
    flow: Callable[..., Awaitable[RolloutRecord]], arguments: dict[str, Any], ready: Path, go: Path
) -> None:
    ready.touch()
    await eventually(go.exists, seconds=180, every=0.002)
    try:
        ended: object = await flow(**arguments)
    except Exception as error:
        ended = error
    print(f"\nended with {type(ended).__name__}", flush=True)
