"""The fault-point harness: an accident at every point of every flow, then what mends it, then a look from outside.

`python -m tests.chaos.fault_points` tries all of them and prints a table; tests/chaos/test_fault_points.py a sample.
It is bound by CPU: the environment of its lanes spares what no look depends on (frugal.py), and all processes that have
accidents, those under a runner too (warm.py), are forked from one that has imported everything.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from prefect_modeldeploy import DeploymentTarget, orders
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.tasks import _journal
from tests.chaos import accidents, frugal, served
from tests.chaos.accidents import CALLS, HOWS, WHENS, Case
from tests.chaos.expected import ROLLED_BACK, TOLD
from tests.chaos.processes import PATIENCE_SECONDS, alone
from tests.chaos.scenes import AFTER_RECONCILE, Scene
from tests.chaos.stories import STOPPED, STORIES
from tests.prefect_server import running_server

Point = tuple[str, str, str]
"""Story, `<place>:<when>`, how."""


@dataclass
class Trial:
    """One accident, and what was found wrong after it."""

    story: str
    point: str
    how: str
    outcome: str = ""
    violations: list[str] = field(default_factory=list)
    lost: int = 0
    how_lost: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    looks: int = 0
    """At the endpoint's arms, while it happened."""

    @property
    def where(self) -> Point:
        return self.story, self.point, self.how

    @property
    def is_well(self) -> bool:
        return not (self.violations or self.lost)


def points(story: str) -> list[tuple[str, str]]:
    """Every (point, how) of a story."""
    stopped = [(point, accidents.STOP) for point in STOPPED.get(story, ())]
    return stopped + [
        (f"{place}:{when}", how)
        for place, when, how in itertools.product(STORIES[story].places, WHENS, HOWS)
        # Nothing of ours can fail between a save and the next effect but the process; calls have no save of theirs.
        if when != "saved" or (how in ("kill", "sigterm") and place not in CALLS)
    ]


async def attempt(home: Path, number: int, story: str, point: str, how: str) -> Trial:
    """Run the story with one accident, mend it, and look."""
    trial = Trial(story, point, how)
    async with STORIES[story].stage(home, number) as scene, scene.watch() if scene.watch else nullcontext() as seen:
        marker = home / f"struck-{number}"
        case = Case(scene.flow, scene.arguments, scene.target, point, how, marker)

        async def mend() -> None:
            trial.outcome = await scene.mend()

        match how:
            case "ui cancel":
                said = await _under_a_runner(home, case)
            case accidents.STOP:
                said = await alone(home, case, mend)
            case _:
                said = await alone(home, case)
        if not marker.exists():
            trial.violations.append(f"the point was not reached: {said[-300:]}")
        allowed = STORIES[story].outcomes(point, how)
        if how in TOLD and allowed == ROLLED_BACK and scene.serves and not await _has_ended(scene):
            now = await scene.serves()
            if now != scene.served:
                trial.violations.append(f"told to end, it has left {now}, and {scene.served} served before")
        if how != accidents.STOP:
            await mend()
        if not trial.outcome and (record := await _journal.load(scene.target.endpoint)):
            trial.outcome = record.outcome or ""
        if allowed and trial.outcome.removesuffix(AFTER_RECONCILE) not in allowed:
            trial.violations.append(f"{trial.outcome or 'no outcome'}, and right is {' or '.join(sorted(allowed))}")
        trial.violations += await scene.look()
        await asyncio.sleep(0.2)  # what the last change did to clients
    if seen is not None:
        trial.violations += seen.wrong
        trial.looks = seen.looks
    failures = Counter(scene.answers.failures)
    failures["status 500"] -= scene.answers.of_models  # those are the models' own
    trial.how_lost = dict(+failures)
    trial.lost = failures.total()
    trial.answered = scene.answers.count
    return trial


async def _has_ended(scene: Scene) -> bool:
    record = await _journal.load(scene.target.endpoint)
    return record is not None and record.phase is Phase.ENDED


async def _under_a_runner(home: Path, case: Case) -> str:
    """Run the case as a flow run of a served deployment; returns the state that it ends in."""
    case.write(home / "case")
    name = f"chaos-{case.target.endpoint}"
    await case.target.save(name, overwrite=True)
    parameters = {key: _as_parameter(value, name) for key, value in case.arguments.items()}
    async with get_client() as client:
        found = await client.read_deployment_by_name(f"{case.flow.name}/{served.NAME}")  # type: ignore[attr-defined]
        run = await client.create_flow_run_from_deployment(found.id, parameters=parameters)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (run.state and run.state.is_final()):
                if (
                    run.state and run.state.name == "Suspended"
                ):  # no process waits for the silence to end: a person speaks
                    await orders.answer(case.target.endpoint, "promote")
                await asyncio.sleep(0.3)
                run = await client.read_flow_run(run.id)
    return str(run.state)


def _as_parameter(value: Any, target: str) -> Any:
    match value:
        case DeploymentTarget():
            return target
        case [DeploymentTarget()]:
            return [target]
        case BaseModel():
            return value.model_dump(mode="json")
    return value


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[None]:
    """The runner for all that is cancelled in the UI."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(served.__file__),
        env={
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # not 10 s until a run begins
            "CHAOS_CASE": str(home / "case"),
            "CHAOS_NAME": served.NAME,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await _is_served(served.FLOWS[-1].name):
                await asyncio.sleep(0.5)
        yield
    finally:
        process.terminate()
        await process.wait()


async def _is_served(name: str) -> bool:
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(f"{name}/{served.NAME}")
        except ObjectNotFound:
            return False
    return True


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
        if not trial.is_well:
            console.print(trial)
    print(
        f"{len(trials)} points, {sum(len(t.violations) for t in trials)} violations, "
        f"{sum(t.answered for t in trials):,} requests, {sum(t.lost for t in trials)} lost, "
        f"{sum(t.looks for t in trials):,} looks at arms"
    )
    return all(trial.is_well for trial in trials)


async def try_points(home: Path, chosen: Sequence[Point], journal: Path | None = None) -> list[Trial]:
    """One after the other; each takes some seconds. A trial that fails is a violation, and the next one is tried.

    Each is added to the journal, one JSON object a line.
    """
    trials: list[Trial] = []
    parent = os.getppid()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stop_node, home)
        for number, (story, point, how) in enumerate(chosen):
            if os.getppid() != parent:
                break  # who asked for it was killed, and the server may be too
            if how == "ui cancel" and not any(trial.how == how for trial in trials):
                await stack.enter_async_context(serving(home))
            try:
                trial = await attempt(home, number, story, point, how)
            except Exception as error:
                trial = Trial(story, point, how, violations=[f"{type(error).__name__}: {error}"])
            print(f"{number + 1}/{len(chosen)} {trial}", file=sys.stderr, flush=True)
            trials.append(trial)
            if journal is not None:
                with journal.open("a") as lines:
                    lines.write(json.dumps(asdict(trial)) + "\n")
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--story", choices=list(STORIES), action="append", help="default: all")
    parser.add_argument("--how", choices=(*HOWS, accidents.STOP), action="append", help="default: all")
    parser.add_argument("--at", help="only points that contain this, such as `shift:` or `:after`", default="")
    parser.add_argument("--jobs", type=int, default=2, help="so many at once, each with a server and a node of its own")
    parser.add_argument("--journal", type=Path, help="a file of trials: those in it that went well are not tried again")
    asked = parser.parse_args()
    chosen = [
        (story, point, how)
        for story in asked.story or STORIES
        for point, how in points(story)
        if how in (asked.how or (*HOWS, accidents.STOP)) and asked.at in point
    ]
    before = {each.where: each for each in _read(asked.journal) if each.where in chosen and each.is_well}
    left = sorted((where for where in chosen if where not in before), key=lambda where: where[2])  # as slow, each share
    shares = [left[number :: asked.jobs] for number in range(min(asked.jobs, len(left)))]
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as lanes,
    ):
        os.environ.update(frugal.environment(Path(directory)))  # before any lane starts
        now = itertools.chain.from_iterable(lanes.map(partial(_lane, asked.journal), shares))
        trials = [*before.values(), *now]
    sys.exit(0 if show(trials) and len(trials) == len(chosen) else 1)


def _read(journal: Path | None) -> list[Trial]:
    if journal is None or not journal.exists():
        return []
    return [Trial(**json.loads(line)) for line in journal.read_text().splitlines()]


def _lane(journal: Path | None, chosen: Sequence[Point]) -> list[Trial]:
    with tempfile.TemporaryDirectory() as directory, running_server():
        return asyncio.run(try_points(Path(directory), chosen, journal))


if __name__ == "__main__":
    main()
