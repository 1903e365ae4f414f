"""The scenes of the stories: what is set up, which flow runs, who mends it and what is looked at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from prefect_modeldeploy import (
    CanaryPlan,
    DeploymentTarget,
    JudgePlan,
    LocalServing,
    canary_rollout,
    clean_up_orphans,
    orders,
    promote_to_production,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.deployments import Autoscaling, Capability, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.flows._start import run_rollout
from prefect_modeldeploy.flows.reconcile import reconcile_rollouts
from prefect_modeldeploy.rollout import Approval, Phase, RolloutRecord
from prefect_modeldeploy.target import client_of, register_arms
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._notes import Former, Notes
from prefect_modeldeploy.traffic.answers import Example
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.chaos import looks
from tests.chaos.accidents import Case
from tests.chaos.clients import calling
from tests.chaos.processes import PATIENCE_SECONDS, alone
from tests.chaos.watching import Seen, watched
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import PROMOTED_BY, Hosted, hosted, up
from tests.traffic.load import Answers, load


@flow
async def hand_over(target: DeploymentTarget | str, candidate: DeploymentSpec) -> RolloutRecord:
    """A rollout without steps that ends in the provider's own promotion, behind a router of the provider."""
    plan = CanaryPlan(steps=(), promote="native", smoke_request={"x": 1}, former="delete")
    return await run_rollout(target, candidate, plan, kind="promotion")


# Proof within a second or two at 100 requests/s: how sure the judge is, is not the subject here.
PLAN = QUICK.model_copy(
    update={
        "steps": (50,),
        "step_seconds": 0.5,
        "former": "delete",
        "judge": JudgePlan(margin=0.15, beta=0.45, latency=False),
    }
)

BAKED = PLAN.model_copy(update={"bake_seconds": 1.0, "former_warm_seconds": 1.0})

GOLDEN = CanaryPlan(
    golden_set=tuple(Example(input=[float(number)], expected=[float(number)]) for number in range(200)),
    former="delete",
    judge=JudgePlan(margin=0.2, accuracy_margin=0.1, latency=False),
)

SILENCE = Approval(before=("traffic", "promotion"), timeout_seconds=5, on_timeout="promote")
"""A person is asked, and says nothing, but to a run that is suspended."""


AFTER_RECONCILE = " after reconcile"


@dataclass
class Scene:
    """A story, ready to run: the flow, and what is done and looked at after its accident."""

    flow: Flow[..., Any]
    arguments: dict[str, Any]
    target: DeploymentTarget
    look: Callable[[], Awaitable[list[str]]]
    """What is wrong in the end."""
    mend: Callable[[], Awaitable[str]]
    """What happens next in real life; returns what came of it."""
    answers: Answers = field(default_factory=Answers)
    serves: Callable[[], Awaitable[object]] | None = None
    """What serves now."""
    served: object = None
    """What did before: it does again once a rollout has turned back."""
    watch: Callable[[], AbstractAsyncContextManager[Seen]] | None = None
    """The endpoint's arms, all the while."""


@asynccontextmanager
async def local_site(home: Path, number: int) -> AsyncIterator[Site]:
    """A target of its own on this machine, with version 1 in production."""
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


@asynccontextmanager
async def rollout(flow: Callable[..., Any], more: dict[str, Any], home: Path, number: int) -> AsyncIterator[Scene]:
    source = "broken" if more.get("broken") else "as_good"
    given = {name: value for name, value in more.items() if name != "broken"}
    async with local_site(home, number) as site, await site.load(rate=100) as answers:
        await site.history(answers, 100)
        yield await _behind_the_gateway(flow, {"candidate": site.spec("2", source), **given}, site, answers)


@asynccontextmanager
async def across(provider: str, broken: bool, home: Path, number: int) -> AsyncIterator[Scene]:
    """A canary at a hosted provider that splits nothing: our gateway does, and its models fail now and then."""
    directory = home / str(number)
    directory.mkdir()
    async with hosted(provider, directory) as there, arms_kit.gateway_at(home) as (gateway, node):
        target = there.target.model_copy(update={"gateway": gateway})
        [first] = await there.production()
        await there.control.behave(error_rate=0.4 if broken else 0.04)
        await there.control.behave(match=first.id.rpartition("/")[2], error_rate=0.04)
        await register_arms(target, [first.id])
        stable = EndpointArm(name="stable", upstream=first.id, weight=100)
        await node.put_endpoint(Endpoint(name=target.endpoint, arms=(stable,)))
        failed = "delete" if target.credentials.can(Capability.DELETE) else "scale_to_zero"
        # The sandbox's models fail at random, and PLAN is in haste: the bad luck of one rollout in 400 is no finding.
        judge = PLAN.judge.model_copy(update={"beta": 0.001} if broken else {"alpha": 0.001})
        # The former version may still have the provider's own role, which keeps it from being deleted.
        plan = PLAN.model_copy(update={"former": "scale_to_zero", "failed_canary": failed, "judge": judge})
        try:
            async with load(f"{await node.url(target.endpoint)}/predict", rate=100, body=b'{"x": 1}') as answers:
                site = Site(target)
                await site.history(answers, 100)
                arguments = {"candidate": there.candidate, "plan": plan}
                before = await looks.hosted_now(there)
                scene = await _behind_the_gateway(canary_rollout, arguments, site, answers)
                yield replace(scene, look=partial(looks.created_once, scene.look, there, before))
        finally:
            await node.delete_endpoint(target.endpoint)
            for arm in await node.list_arms():
                await node.delete_arm(arm["id"])


@asynccontextmanager
async def lost(point: str, broken: bool, home: Path, number: int) -> AsyncIterator[Scene]:
    """The run that finishes a rollout whose process was killed has the accident; the next one does what is left."""
    # Who dies while it takes a rollout over keeps others from it for 60 s: the lease of its lock.
    plan = PLAN.model_copy(update={"deadline_seconds": 300.0})
    async with rollout(canary_rollout, {"plan": plan, "broken": broken}, home, number) as scene:
        killed = home / f"killed-{number}"
        await alone(home, Case(scene.flow, scene.arguments, scene.target, point, "kill", killed))
        if not killed.exists():
            raise AssertionError(f"nothing was killed at {point}")
        yield replace(scene, flow=reconcile_rollouts, arguments={"targets": [scene.target]})


@asynccontextmanager
async def way_back(home: Path, number: int) -> AsyncIterator[Scene]:
    async with local_site(home, number) as site, await site.load(rate=100) as answers:
        await _promoted(site, "2")
        yield await _behind_the_gateway(roll_back, {}, site, answers)


@asynccontextmanager
async def way_back_to(home: Path, number: int) -> AsyncIterator[Scene]:
    """To a version that is named, not the one before."""
    async with local_site(home, number) as site, await site.load(rate=100) as answers:
        for version in ("2", "3"):
            await _promoted(site, version)
        yield await _behind_the_gateway(roll_back, {"to": f"{site.target.model}-1"}, site, answers)


async def _promoted(site: Site, version: str) -> None:
    """The former version may be stopping for a moment yet: what is not at rest then looks as if it were not there."""
    await promote_to_production(site.target, site.spec(version, "as_good"))

    async def is_at_rest() -> bool:
        return DeploymentStatus.STOPPING not in (await site.deployments()).values()

    await eventually(is_at_rest)


@asynccontextmanager
async def way_back_in_flight(home: Path, number: int) -> AsyncIterator[Scene]:
    """A person's way back has the accident, while the process of the rollout lives and splits the traffic."""
    plan = PLAN.model_copy(update={"step_seconds": 600.0, "deadline_seconds": 1200.0})
    async with rollout(canary_rollout, {"plan": plan}, home, number) as scene:
        running = asyncio.create_task(canary_rollout(**scene.arguments))
        try:
            await eventually(partial(_splits, scene), PATIENCE_SECONDS)
            mend = partial(_asked_again, scene.target)
            yield replace(scene, flow=roll_back, arguments={"target": scene.target}, mend=mend, serves=None)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _splits(scene: Scene) -> bool:
    assert scene.serves is not None
    return await scene.serves() != scene.served


async def _asked_again(target: DeploymentTarget) -> str:
    """The person asks again, unless the way back came to its end."""
    record = await _journal.latest(target.endpoint)
    if record is None or record.phase is Phase.ENDED:
        return ""
    return f"{(await roll_back(target)).outcome}{AFTER_RECONCILE}"


async def _behind_the_gateway(
    flow: Callable[..., Any], arguments: dict[str, Any], site: Site, answers: Answers
) -> Scene:
    async def serves() -> object:
        return (await site.arms()).get("stable")

    look = partial(looks.behind_the_gateway, site, await looks.there(site.target))
    arguments = {"target": site.target, **arguments}
    mend, watch = partial(_reconciled, site.target), partial(watched, site.target)
    return Scene(flow, arguments, site.target, look, mend, answers, serves=serves, served=await serves(), watch=watch)


async def _reconciled(target: DeploymentTarget) -> str:
    ended = await reconcile_rollouts([target])
    return f"{ended[0].outcome}{AFTER_RECONCILE}" if ended else ""


@asynccontextmanager
async def baked(home: Path, number: int) -> AsyncIterator[Scene]:
    """A former version that is kept warm for a second, and goes by the schedule that cleans up."""
    async with rollout(canary_rollout, {"plan": BAKED}, home, number) as scene:
        look = partial(looks.cleaned, scene.look, scene.target)
        yield replace(scene, look=look, mend=partial(_cooled, scene.target))


async def _cooled(target: DeploymentTarget) -> str:
    outcome = await _reconciled(target)
    record, notes = await _journal.load(target.endpoint), await Notes(Former, target.endpoint).all()
    if record is not None and record.outcome == "promoted" and record.stable not in notes:
        raise AssertionError(f"nothing says when {record.stable} has to go")
    await _cleaned(target)
    return outcome


@asynccontextmanager
async def cleaning(home: Path, number: int) -> AsyncIterator[Scene]:
    """The schedule itself has the accident; its next run does what is left."""
    async with local_site(home, number) as site, await site.load(rate=100) as answers:
        await site.history(answers, 100)
        warm = PLAN.model_copy(update={"former_warm_seconds": 0.1})
        await canary_rollout(site.target, site.spec("2", "as_good"), warm)
        await eventually(partial(_is_due, site.target))
        scene = await _behind_the_gateway(clean_up_orphans, {}, site, answers)
        look, mend = partial(looks.cleaned, scene.look, site.target), partial(_cleaned, site.target)
        yield replace(scene, arguments={"targets": [site.target]}, look=look, mend=mend)


async def _cleaned(target: DeploymentTarget) -> str:
    await eventually(partial(_is_due, target))
    await clean_up_orphans([target])
    return "cleaned"


async def _is_due(target: DeploymentTarget) -> bool:
    """Whether the time of all the former versions has come."""
    notes = (await Notes(Former, target.endpoint).all()).values()
    return all(note.delete_at is not None and note.delete_at <= datetime.now(UTC) for note in notes)


@asynccontextmanager
async def native(
    provider: str, flow: Callable[..., Any], home: Path, number: int, *, speed: float = 0.0, mode: str = "native"
) -> AsyncIterator[Scene]:
    """The provider moves the traffic, and what serves can be asked for."""
    directory = home / str(number)
    directory.mkdir()
    async with hosted(provider, directory, speed=speed) as site:
        arguments: dict[str, Any] = {}
        if flow is roll_back:
            await promote_to_production(site.target, site.candidate, mode="native")
        else:
            arguments["candidate"] = site.candidate
        if flow is promote_to_production:
            arguments["mode"] = mode
        async with await calling(site) as answers:
            yield await _by_its_provider(flow, arguments, site, answers)


async def _by_its_provider(
    flow: Callable[..., Any], arguments: dict[str, Any], site: Hosted, answers: Answers
) -> Scene:
    look = partial(looks.natively, site, await looks.hosted_now(site))
    mend, served = partial(_reconciled, site.target), await site.served()
    arguments = {"target": site.target, **arguments}
    return Scene(flow, arguments, site.target, look, mend, answers, serves=site.served, served=served)


@asynccontextmanager
async def refused(provider: str, home: Path, number: int) -> AsyncIterator[Scene]:
    """The provider refuses to promote what is up, every time."""
    directory = home / str(number)
    directory.mkdir()
    async with hosted(provider, directory) as site, await calling(site) as answers:
        arguments = {"candidate": await up(site), "mode": "native"}
        method, path = PROMOTED_BY[provider]
        await site.control.fault(method=method, path=path, kind="status", status=403, times=None)
        yield await _by_its_provider(promote_to_production, arguments, site, answers)


@asynccontextmanager
async def called_off(home: Path, number: int) -> AsyncIterator[Scene]:
    """The provider's promotion never ends, and somebody calls it off: only Baseten can."""
    directory = home / str(number)
    directory.mkdir()
    async with hosted("baseten", directory) as site, await calling(site) as answers:
        await site.control.fate(timeline="promotion", outcome="stuck")
        scene = await _by_its_provider(
            promote_to_production, {"candidate": await up(site), "mode": "native"}, site, answers
        )
        somebody = asyncio.create_task(_call_off(site))
        try:
            yield scene
        finally:
            somebody.cancel()
            await asyncio.gather(somebody, return_exceptions=True)


async def _call_off(site: Hosted) -> None:
    method, path = PROMOTED_BY["baseten"]
    await eventually(lambda: site.control.requests(method=method, path=path), PATIENCE_SECONDS)
    await orders.order(site.target.endpoint, "abort", "not now")


@asynccontextmanager
async def night(provider: str, flow: Callable[..., Any], home: Path, number: int) -> AsyncIterator[Scene]:
    """A deployment with settings that it must have again in the morning; what dies is run again by its schedule."""
    if provider == "local":
        async with local_site(home, number) as site:
            yield await _evening(site.target, f"{site.target.model}-1", flow)
    else:
        directory = home / str(number)
        directory.mkdir()
        async with hosted(provider, directory) as hosted_site:
            [first] = await hosted_site.production()
            yield await _evening(hosted_site.target, first.id, flow)


async def _evening(target: DeploymentTarget, deployment_id: str, flow: Callable[..., Any]) -> Scene:
    fixed = target.credentials.client_class.provider in ("fiddler", "gradient")
    async with client_of(target) as client:
        await client.scale(deployment_id, Autoscaling(min_replicas=2, max_replicas=2 if fixed else 3))
        async for _ in client.wait([deployment_id], lambda d: d.ready, model=target.model, timeout_seconds=60):
            pass
        before = await client.get(deployment_id)
    asleep = {"targets": [target], "only_if_idle_seconds": None, "on_no_wake": "stop"}
    if flow is wake_up:
        await scale_to_zero(**asleep)
    look = partial(looks.in_the_morning, target, before)
    arguments = {"targets": [target]} if flow is wake_up else asleep
    return Scene(flow, arguments, target, look, partial(_morning, target, asleep if flow is scale_to_zero else None))


async def _morning(target: DeploymentTarget, asleep: dict[str, Any] | None) -> str:
    """The evening's run once more, if it was that one that died; then the morning's."""
    if asleep is not None:
        await scale_to_zero(**asleep)
    await wake_up([target], timeout_seconds=60)
    return "awake"
