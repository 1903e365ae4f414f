"""How long an abort takes, from the signal to the canary's last request: `python -m tests.benchmarks.abort [N]`.

Each abort is of a real rollout under 200 requests/s. `worker`: cancelled over Prefect's API while it runs under that
of a process work pool, which asks for new runs every second (not every 10 s, the default; a cancellation comes as an
event). `health check`: by a canary that is stopped; the signal is the moment in which the health check decides, which
it does when there was no ready replica for the plan's `unready_seconds`. `since unwell` are the same aborts from the
moment in which the canary is stopped: so long its share of the requests is lost, for the judge, who would see that as
well, is kept from looking. N of these (default 100), and a fifth as many under the runner of `.serve()`, by
event, by the red button, by SIGTERM to a process of its own, and by cancelling the run's task.

The last request is the last one that the gateway sent the canary's way, answered or not, by its access log. Lost is
what the clients got no answer to from a model. Ends with 1 if a goal was missed, and says which.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.deployments.runner import EntrypointType
from prefect.settings import get_current_settings
from prefect.states import Cancelling

from prefect_modeldeploy import DeploymentTarget, LocalServing, canary_rollout, orders
from prefect_modeldeploy.flows._signals import Signals
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _red_button
from prefect_modeldeploy.traffic.access_log import ACCESS_LOG, read_lines
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.chaos.accidents import Case
from tests.conftest import eventually
from tests.deployed.kit import is_deployed
from tests.flows.conftest import QUICK, Site
from tests.prefect_server import running_server
from tests.traffic.load import Answers

PLAN = QUICK.model_copy(update={"steps": (50,), "step_seconds": 1200.0, "deadline_seconds": 3600.0})
QUIET_SECONDS = 2.0
"""A canary without a request for so long has no traffic any more: longer than the gateway tries to reach a replica."""
PATIENCE_SECONDS = 180.0
"""When its server declines, Prefect's client takes up to a minute to end a run whose traffic has long been back."""
SERVE = "from prefect_modeldeploy import canary_rollout\ncanary_rollout.serve('served')"
RUNNERS = {
    "worker": (sys.executable, "-m", "prefect", "worker", "start", "--pool", "abort", "--type", "process"),
    "served": (sys.executable, "-c", SERVE),
}
"""What runs the rollouts, by the name of their deployment."""

GOAL_SECONDS = 5.0
GOALS_SECONDS = {"health check": 1.0}
"""Where the 99th percentile must be less than elsewhere."""


class Signal(NamedTuple):
    """When it was given, and when the canary had become unwell; seconds since the epoch."""

    at: float
    unwell_at: float | None = None


class Took(NamedTuple):
    """Seconds from the signal to the last request of the canary, and from when that was unwell; requests lost."""

    seconds: float
    since_unwell: float | None
    lost: int


Signalled = Callable[["asyncio.Future[object]"], Awaitable[Signal]]
"""Gives the signal to a running rollout."""


class CanaryRequests:
    """What the gateway sends to the canary from now on, whatever becomes of it there."""

    def __init__(self, home: Path) -> None:
        self._log = Home(home).gateway / ACCESS_LOG
        self._offset = self._log.stat().st_size
        self.count, self.last = 0, 0.0

    def read(self) -> "CanaryRequests":
        """Count those that have ended; the last one is told by when it came, in seconds since the epoch."""
        lines, self._offset = read_lines(self._log, self._offset, 1 << 20)
        for fields in (line.split(" ") for line in lines):
            if fields[4:5] == ["canary"]:  # and HAProxy's own lines are of other words
                self.count, self.last = self.count + 1, max(self.last, int(fields[1]) / 1e6)
        return self


async def prepared(home: Path) -> Site:
    site = Site(DeploymentTarget(credentials=LocalServing(home=home), model="m", endpoint="m"))
    async with client_of(site.target) as client:
        for version, source in (("1", "good"), ("2", "as_good")):
            await client.create(site.spec(version, source))
        async for _ in client.wait(["m-1", "m-2"], lambda deployment: deployment.ready):
            pass
        stable = EndpointArm(name="stable", upstream="m-1", weight=100)
        await client.router().put_endpoint(Endpoint(name="m", arms=(stable,)))
    return site


async def one(answers: Answers, running: "asyncio.Future[object]", signalled: Signalled) -> Took:
    """Abort a rollout once its canary has traffic."""
    canary = CanaryRequests(HOME[0])
    while canary.read().count < 20:
        if running.done():
            raise SystemExit(f"the rollout ended before it was aborted: {running}")
        await asyncio.sleep(0.02)
    before, give_up = lost(answers), time.time() + PATIENCE_SECONDS
    signalling = asyncio.ensure_future(signalled(running))
    while not (signalling.done() and running.done()) or time.time() - canary.read().last < QUIET_SECONDS:
        if time.time() > give_up:
            raise SystemExit(f"the canary's last request was {time.time() - canary.read().last:.2f} s ago; {running}")
        await asyncio.sleep(0.02)
    signal = await signalling
    await asyncio.gather(running, return_exceptions=True)
    unwell = None if signal.unwell_at is None else canary.last - signal.unwell_at
    took = Took(max(0.0, canary.last - signal.at), unwell, lost(answers) - before)
    print(f"    {took.seconds:.2f} s", file=sys.stderr, flush=True)
    return took


def lost(answers: Answers) -> int:
    """Requests that no model has answered; where one answers with 500, it has."""
    return len(answers.failures) - answers.of_models


async def by_event(running: "asyncio.Future[object]") -> Signal:
    since = time.time()
    await orders.order("m", "abort", "benchmark")
    return Signal(since)


async def by_button(running: "asyncio.Future[object]") -> Signal:
    since = time.time()
    await _red_button.press("benchmark")
    await asyncio.wait({running})
    await _red_button.release()
    return Signal(since)


async def by_cancel(running: "asyncio.Future[object]") -> Signal:
    running.cancel()
    return Signal(time.time())


async def by_health(running: "asyncio.Future[object]") -> Signal:
    """Stop the canary's replicas; the signal is given when the health check has seen enough."""
    said: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    original = Signals._unwell

    async def noted(self: Signals, how: str) -> None:
        said.set_result(time.time())
        await original(self, how)

    Signals._unwell = noted  # type: ignore[method-assign]
    try:
        async with LocalServing(home=HOME[0]).get_client() as client:
            unwell_at = time.time()
            await client.stop("m-2")
            await asyncio.wait({running})
            if not said.done():
                raise SystemExit(f"the rollout ended before its health check said so: {running}")
            await client.start("m-2")
    finally:
        Signals._unwell = original  # type: ignore[method-assign]
    return Signal(said.result(), unwell_at)


HOME: list[Path] = []


async def by_sigterm(site: Site, answers: Answers, count: int) -> list[Took]:
    """SIGTERM to a process that does nothing else."""
    never = HOME[0] / "struck"
    never.touch()  # no accident befalls it
    arguments = {"target": site.target, "candidate": "m-2", "plan": PLAN}
    case = Case(canary_rollout, arguments, site.target, "end:saved", "kill", never).write(HOME[0] / "case")
    took: list[Took] = []
    for _ in range(count):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.victim", str(case)),
            env={**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

        async def terminate(_: object, process: asyncio.subprocess.Process = process) -> Signal:
            since = time.time()
            process.terminate()
            return Signal(since)

        took.append(await one(answers, asyncio.ensure_future(process.wait()), terminate))
    return took


async def under_a_runner(name: str, site: Site, answers: Answers, count: int) -> list[Took]:
    """The same, cancelled over the API while another process runs it."""
    environment = {**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""}
    # Not 10 s until a run begins; a cancellation comes as an event.
    environment |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    target = f"bench-{name}"
    await site.target.save(target, overwrite=True)
    said = HOME[0] / f"{name}.log"
    with said.open("wb") as output:
        server = subprocess.Popen(RUNNERS[name], env=environment, stdout=output, stderr=output)
    took: list[Took] = []
    try:
        deployment_id = await _deployed(name)
        async with get_client() as client:
            for _ in range(count):
                parameters = {"target": target, "candidate": "m-2", "plan": PLAN.model_dump(mode="json")}
                run = await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
                running = asyncio.ensure_future(_until_final(run.id))

                async def cancel(_: object, run_id: UUID = run.id) -> Signal:
                    since = time.time()
                    await client.set_flow_run_state(run_id, Cancelling())
                    return Signal(since)

                took.append(await one(answers, running, cancel))
    except SystemExit:
        print(said.read_text()[-5000:])
        show(name, took)
        raise
    finally:
        server.terminate()
        server.wait()
    return took


async def _deployed(name: str) -> UUID:
    """The id of the rollout's deployment, once there is one."""
    if name == "worker":
        await eventually(_has_pool, 60, every=0.5)
        deployment = await canary_rollout.ato_deployment(
            name, work_pool_name="abort", entrypoint_type=EntrypointType.MODULE_PATH
        )
        return await deployment.apply()
    await eventually(lambda: is_deployed(f"canary-rollout/{name}"), 60, every=0.5)
    async with get_client() as client:
        return (await client.read_deployment_by_name(f"canary-rollout/{name}")).id


async def _has_pool() -> bool:
    async with get_client() as client:
        return any(pool.name == "abort" for pool in await client.read_work_pools())


async def _until_final(run_id: UUID) -> object:
    async with get_client() as client:
        while True:
            state = (await client.read_flow_run(run_id)).state
            if state is not None and state.is_final():
                return state
            await asyncio.sleep(0.3)


def show(name: str, took: list[Took]) -> list[str]:
    """Print the figures; returns the goal that was missed, if it was."""
    if not took:
        return []
    p99 = _row(name, [one.seconds for one in took], f"   {sum(one.lost for one in took)} requests lost")
    if unwell := [one.since_unwell for one in took if one.since_unwell is not None]:
        _row("since unwell", unwell)
    goal = GOALS_SECONDS.get(name, GOAL_SECONDS)
    return [f"{name}: p99 {p99:.2f} s, and the goal is less than {goal:g} s"] if p99 >= goal else []


def _row(name: str, seconds: list[float], more: str = "") -> float:
    """Print one line; returns the 99th percentile."""
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    figures = f"median {p50:.2f} s   p99 {p99:.2f} s   longest {ordered[-1]:.2f} s"
    print(f"  {name:14s} {len(ordered):4d} aborts   {figures}{more}", flush=True)
    return p99


async def main(count: int) -> list[str]:
    """Measure and print; returns the goals that were missed."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        HOME.append(Path(directory))
        site = await prepared(HOME[0])
        print("signal to last request of the canary  (goal: p99 < 5 s, < 1 s from the health check)")
        print("worker: of a process work pool; served: by the runner of .serve(); both ask for runs every second")
        print(f"health check: decides when no replica was ready for {PLAN.unready_seconds:g} s, and looks every 0.5 s")
        try:
            async with await site.load(rate=200) as answers:
                few = max(3, count // 5)
                for name, times in (("worker", count), ("served", few)):
                    missed += show(name, await under_a_runner(name, site, answers, times))
                missed += show("SIGTERM", await by_sigterm(site, answers, few))
                ways = (
                    ("health check", by_health, count),
                    ("event", by_event, few),
                    ("red button", by_button, few),
                    ("cancel", by_cancel, few),
                )
                plan = PLAN.model_copy(update={"warm_up_seconds": 600.0})
                for name, signalled, times in ways:
                    took = []
                    for _ in range(times):
                        running = asyncio.ensure_future(canary_rollout(site.target, "m-2", plan))
                        took.append(await one(answers, running, signalled))
                    missed += show(name, took)
        finally:
            await stop_node(HOME[0])
    return missed


if __name__ == "__main__":
    with running_server():
        missed = asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
    for goal in missed:
        print(f"missed: {goal}")
    sys.exit(1 if missed else 0)
