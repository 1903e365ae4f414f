"""The fault-point harness: an accident at every point of a rollout, then reconcile, then a look from outside.

`python -m tests.chaos.fault_points` tries all of them and prints a table; tests/chaos/test_fault_points.py a sample.
What must hold afterwards is DESIGN section 7: weights sum to 100 %, traffic goes to ready arms only, the rollout has
ended, exactly one production deployment serves, nothing that the rollout created is left, no request was lost.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console
from rich.table import Table

from prefect_modeldeploy import DeploymentTarget, LocalServing, canary_rollout, promote_to_production
from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.flows.reconcile import reconcile_rollouts
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Effect, Phase
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.chaos.victim import HOWS, WHENS, Case
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import MAKERS, Hosted, hosted

PLAN = QUICK.model_copy(update={"steps": (50,), "step_seconds": 0.5, "former": "delete"})

EFFECTS = {
    "canary": tuple(
        effect
        for effect in Effect
        if effect not in (Effect.ASK, Effect.CLEAR, Effect.HAND_OVER, Effect.RESTORE, Effect.DETACH)
        and effect is not Effect.RETIRE_CANARY
    ),
    "broken canary": (Effect.RESTORE, Effect.DETACH, Effect.RETIRE_CANARY, Effect.END),
    "promotion": (Effect.DEPLOY, Effect.ATTACH, Effect.FILL, Effect.PROMOTE, Effect.RETIRE_FORMER),
    **{f"native {provider}": (Effect.CLAIM, Effect.DEPLOY, Effect.WAIT_READY, Effect.PROMOTE) for provider in MAKERS},
}
"""The effects of each story. A native one runs on the emulator of a hosted provider, the others on this machine."""

FLOWS = {"canary": canary_rollout, "broken canary": canary_rollout, "promotion": promote_to_production}


@dataclass
class Trial:
    """One accident, and what was found wrong after it."""

    story: str
    point: str
    how: str
    outcome: str = ""
    violations: list[str] = field(default_factory=list)
    lost: int = 0
    answered: int = 0


def points(story: str) -> list[tuple[str, str]]:
    """Every (point, how) of a story."""
    return [
        (f"{effect}:{when}", how)
        for effect, when, how in itertools.product(EFFECTS[story], WHENS, HOWS)
        if how in ("kill", "sigterm") or when != "saved"  # nothing of ours can fail there but the process
    ]


@asynccontextmanager
async def fresh_site(home: Path, number: int) -> AsyncIterator[Site]:
    """A target of its own, with version 1 in production."""
    name = f"c{number}"
    site = Site(DeploymentTarget(credentials=LocalServing(home=home), model=name, endpoint=name))
    async with client_of(site.target) as client:
        first = await client.create(site.spec("1", "good"))
        async for _ in client.wait([first.id], lambda deployment: deployment.ready):
            pass
        stable = EndpointArm(name="stable", upstream=first.id, weight=100)
        await client.router().put_endpoint(Endpoint(name=name, arms=(stable,)))
        try:
            yield site
        finally:
            await client.router().delete_endpoint(name)
            for found in await client.find(model=name):
                await client.delete(found.id)


async def attempt(home: Path, number: int, story: str, point: str, how: str) -> Trial:
    """Run the story with one accident under traffic, reconcile, and look."""
    trial = Trial(story, point, how)
    async with fresh_site(home, number) as site, await site.load(rate=100) as answers:
        await site.history(answers, 100)
        candidate = site.spec("2", "broken" if story == "broken canary" else "as_good")
        arguments = {"target": site.target, "candidate": candidate}
        if story != "promotion":
            arguments["plan"] = PLAN
        marker = home / f"struck-{number}"
        case = Case(FLOWS[story], arguments, point, how, marker).write(home / f"case-{number}")
        code, said = await run_victim(case)
        if not marker.exists():
            trial.violations.append(f"the point was not reached (exit {code}): {said[-300:]}")
        for record in await reconcile_rollouts([site.target]):
            trial.outcome = f"{record.outcome} after reconcile"
        await judge(site, trial)
        await asyncio.sleep(0.2)  # what the last change did to clients
    trial.lost = len([failure for failure in answers.failures if failure != "status 500"])  # the models' own
    trial.answered = answers.count
    return trial


async def attempt_native(home: Path, number: int, story: str, point: str, how: str) -> Trial:
    """The same for a promotion by the provider itself: no traffic of ours, but what serves can be asked for."""
    trial, directory = Trial(story, point, how), home / str(number)
    directory.mkdir()
    async with hosted(story.removeprefix("native "), directory) as site:
        before = await site.served()
        arguments = {"target": site.target, "candidate": site.candidate, "mode": "native"}
        marker = home / f"struck-{number}"
        case = Case(promote_to_production, arguments, point, how, marker).write(home / f"case-{number}")
        code, said = await run_victim(case)
        if not marker.exists():
            trial.violations.append(f"the point was not reached (exit {code}): {said[-300:]}")
        for record in await reconcile_rollouts([site.target]):
            trial.outcome = f"{record.outcome} after reconcile"
        await judge_native(site, before, trial)
    return trial


async def judge_native(site: Hosted, before: set[tuple[str, str | None]], trial: Trial) -> None:
    """One version serves, and the record says which."""
    record, serving = await _journal.load(site.target.endpoint), await site.served()
    if record is None or record.phase is not Phase.ENDED:
        trial.violations.append(f"the rollout has not ended: {record.phase if record else 'no record'}")
        return
    trial.outcome = trial.outcome or (record.outcome or "")
    if len(serving) != 1:
        trial.violations.append(f"{len(serving)} serve: {serving}")
    if (serving == before) is (record.outcome == "promoted"):
        trial.violations.append(f"{record.outcome}, but {before} was there before and {serving} serves now")
    async with client_of(site.target) as client:
        found = [d for d in await client.find(model=site.target.model) if d.id == (record.serving or record.canary)]
    if record.outcome == "promoted" and not any(d.ready for d in found):
        trial.violations.append("what serves is not ready")


async def run_victim(case: Path) -> tuple[int, str]:
    environment = {**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.victim",
        str(case),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 180)
    return process.returncode or 0, said.decode(errors="replace")


async def judge(site: Site, trial: Trial) -> None:
    """What must hold, seen from outside."""
    record = await _journal.load(site.target.endpoint)
    arms, model = await site.arms(), site.target.model
    async with client_of(site.target) as client:
        found = {d.id: d for d in await client.find(model=model)}
    gone = (DeploymentStatus.DELETED, DeploymentStatus.STOPPING)
    left = {id for id, d in found.items() if d.status not in gone}

    def must(held: bool, what: str) -> None:
        if not held:
            trial.violations.append(what)

    must(abs(sum(weight for _, weight in arms.values()) - 100) < 1e-6, f"weights {arms}")
    for name, (deployment, weight) in arms.items():
        must(weight == 0 or (deployment in found and found[deployment].ready), f"{name} gets traffic and is not ready")
    if record is None or record.phase is not Phase.ENDED:
        trial.violations.append(f"the rollout has not ended: {record.phase if record else 'no record'}")
        return
    trial.outcome = trial.outcome or (record.outcome or "")
    serving = f"{model}-2" if record.outcome == "promoted" else f"{model}-1"
    must(arms == {"stable": (serving, 100.0)}, f"{record.outcome}, but the arms are {arms}")
    if trial.story == "promotion" and record.outcome == "promoted":
        left.discard(f"{model}-1")  # its former version is only scaled to zero
    must(left == {serving}, f"{record.outcome}, but {left} are there")
    if trial.story == "broken canary":
        must(record.outcome == "rolled_back", "the broken version was promoted")


def show(trials: Sequence[Trial]) -> bool:
    """Print the table; True if nothing was violated and nothing lost."""
    table = Table("story", "accident", "points", "violations", "requests", "lost", "outcomes")
    for story, how in sorted({(trial.story, trial.how) for trial in trials}):
        mine = [trial for trial in trials if (trial.story, trial.how) == (story, how)]
        outcomes = sorted({trial.outcome for trial in mine})
        figures = (len(mine), sum(len(t.violations) for t in mine), sum(t.answered for t in mine))
        lost = sum(trial.lost for trial in mine)
        table.add_row(story, how, *map(str, figures), str(lost), ", ".join(outcomes))
    console = Console(width=140)
    console.print(table)
    for trial in trials:
        if trial.violations or trial.lost:
            console.print(trial)
    return not any(trial.violations or trial.lost for trial in trials)


async def try_points(home: Path, chosen: Sequence[tuple[str, str, str]]) -> list[Trial]:
    """One after the other; each takes some seconds."""
    trials = []
    for number, (story, point, how) in enumerate(chosen):
        trial = await (attempt_native if story.startswith("native") else attempt)(home, number, story, point, how)
        print(f"{number + 1}/{len(chosen)} {trial}", file=sys.stderr, flush=True)
        trials.append(trial)
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--story", choices=list(EFFECTS), action="append", help="default: all")
    parser.add_argument("--how", choices=HOWS, action="append", help="default: all")
    parser.add_argument("--at", help="only points that contain this, such as `shift:` or `:after`", default="")
    asked = parser.parse_args()
    chosen = [
        (story, point, how)
        for story in asked.story or EFFECTS
        for point, how in points(story)
        if how in (asked.how or HOWS) and asked.at in point
    ]
    with tempfile.TemporaryDirectory() as directory, prefect_test_harness(server_startup_timeout=90):

        async def run() -> list[Trial]:
            try:
                return await try_points(Path(directory), chosen)
            finally:
                await stop_node(Path(directory))

        trials = asyncio.run(run())
    sys.exit(0 if show(trials) else 1)


if __name__ == "__main__":
    main()
