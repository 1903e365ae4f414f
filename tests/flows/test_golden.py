"""Rollouts that are judged by a golden set: where nothing splits the traffic, and behind the gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from prefect_modeldeploy import BasetenCredentials, CanaryPlan, DeploymentTarget, JudgePlan, canary_rollout
from prefect_modeldeploy.errors import InvalidInput, RolloutError
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows.reconcile import reconcile_rollouts
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.traffic.answers import Example
from tests.conftest import eventually
from tests.flows.conftest import Site
from tests.providers.baseten_kit import make_truss, spec_of
from tests.sandbox.kit import RunningSandbox, running_sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")

EXAMPLES = tuple(Example(input={"x": [number, 1]}, expected={"sum": number + 1}) for number in range(120))
JUDGE = JudgePlan(margin=0.05, latency=False)


@pytest_asyncio.fixture
async def hosted() -> AsyncIterator[tuple[RunningSandbox, DeploymentTarget]]:
    """A model at a provider that splits no traffic, with no gateway in front."""
    async with running_sandbox("baseten") as sandbox:
        ready = sandbox["baseten"]
        urls = {name: ready[name] for name in ("base_url", "inference_url")}
        block = BasetenCredentials(api_key=SecretStr(ready["api_key"]), visible_seconds=1.0, **urls)
        yield sandbox, DeploymentTarget(credentials=block, model="sandbox-model", endpoint="golden")


async def _production(target: DeploymentTarget) -> list[str]:
    async with client_of(target) as client:
        return [d.version or d.name for d in await client.find(model=target.model) if d.environment == "production"]


@pytest.mark.slow
async def test_what_answers_as_well_is_promoted_by_the_provider(
    hosted: tuple[RunningSandbox, DeploymentTarget], tmp_path: Path
) -> None:
    _, target = hosted
    file = tmp_path / "golden.jsonl"
    file.write_text("".join(f"{example.model_dump_json()}\n" for example in EXAMPLES))
    before = await _production(target)
    plan = CanaryPlan(golden_set=file, judge=JUDGE)
    record = await canary_rollout(target, spec_of(make_truss(tmp_path / "truss")), plan, note="newer")
    assert (record.outcome, record.mode, record.kind) == ("promoted", "native", "canary"), record.reason
    assert await _production(target) != before
    [step] = record.steps
    assert (step.weight, step.canary_requests, step.stable_requests) == (0, 120, 120)
    for quality in (step.canary_quality, step.stable_quality):
        assert quality is not None
        assert (quality.labelled, quality.correct) == (120, 120)
    report = Path(record.report or "").read_text()
    for told in ("canary right 120 of 120", "stable right 120 of 120", "same answer 120 of 120"):
        assert told in report
    assert "no traffic moves before the promotion" in report


@pytest.mark.slow
async def test_what_answers_worse_is_let_go_and_nothing_else_changes(
    hosted: tuple[RunningSandbox, DeploymentTarget], tmp_path: Path
) -> None:
    sandbox, target = hosted
    await sandbox.control.behave(provider="baseten", match="v2", callable="tests.flows.golden_models:worse")
    before = await _production(target)
    plan = CanaryPlan(golden_set=EXAMPLES, judge=JUDGE)
    record = await canary_rollout(target, spec_of(make_truss(tmp_path)), plan)
    assert (record.outcome, record.decided_by) == ("rolled_back", "accuracy"), record.reason
    assert await _production(target) == before
    async with client_of(target) as client:
        assert "v2" not in [d.name for d in await client.find(model=target.model)]
    # Neither the examples nor the answers are kept.
    kept = json.dumps([record.model_dump(mode="json"), (await _journal.load("golden")).model_dump(mode="json")])  # type: ignore[union-attr]
    assert "echo" not in kept
    assert '"x"' not in kept
    assert record.golden_set is not None
    assert record.golden_set.startswith("120 examples, sha256 ")


async def test_too_few_examples_are_refused_before_anything_is_created(
    hosted: tuple[RunningSandbox, DeploymentTarget], tmp_path: Path
) -> None:
    sandbox, target = hosted
    with pytest.raises(InvalidInput, match=r"too few to prove anything with margin=0\.01, accuracy_margin=0\.05"):
        await canary_rollout(target, spec_of(make_truss(tmp_path)), CanaryPlan(golden_set=EXAMPLES))
    plan = CanaryPlan(golden_set=EXAMPLES, judge=JUDGE, bake_seconds=5)
    with pytest.raises(InvalidInput, match="bake_seconds"):
        await canary_rollout(target, spec_of(make_truss(tmp_path)), plan)
    assert not await sandbox.control.requests(provider="baseten", method="P*", path="*")


# Behind the gateway the answers are the numbers that were asked; the good version fails for 4 % of the requests.
NUMBERS = tuple(Example(input=[float(number)], expected=[float(number)]) for number in range(200))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "outcome"), [("as_good", "promoted"), ("wrong_now_and_then", "rolled_back")])
async def test_behind_the_gateway_the_judged_deployment_takes_over_at_once(
    site: Site, source: str, outcome: str
) -> None:
    plan = CanaryPlan(golden_set=NUMBERS, judge=JudgePlan(margin=0.2, accuracy_margin=0.1, latency=False))
    record = await canary_rollout(site.target, site.spec("2", source), plan)
    assert (record.outcome, record.mode) == (outcome, "swap"), record.reason
    serving = "2" if outcome == "promoted" else "1"
    assert await site.arms() == {"stable": (f"{site.target.model}-{serving}", 100.0)}
    assert [step.weight for step in record.steps] == [0]


@pytest.mark.slow
async def test_what_is_right_about_the_examples_and_harms_clients_is_seen_in_the_bake(
    site: Site, tmp_path: Path
) -> None:
    turned_bad = tmp_path / "turned bad"
    plan = CanaryPlan(golden_set=NUMBERS, bake_seconds=60, judge=JudgePlan(margin=0.2, latency=False))
    async with await site.load() as answers:
        await site.history(answers)
        spec = site.spec("2", "turns_bad", env={"TURNED_BAD": str(turned_bad)})
        run = asyncio.ensure_future(canary_rollout(site.target, spec, plan))
        await eventually(lambda: answers.by_arm["canary"] > 20 or run.done(), seconds=120)
        turned_bad.touch()
        record = await asyncio.wait_for(run, 120)
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures"), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_what_the_examples_have_proven_is_promoted_by_whoever_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are needed no more, so it does not matter that only the caller has them."""

    async def fail(_: Effects, record: RolloutRecord) -> RolloutRecord:
        raise RuntimeError(f"an accident at {record.phase}")

    plan = CanaryPlan(golden_set=NUMBERS, judge=JudgePlan(margin=0.2, accuracy_margin=0.1, latency=False))
    with monkeypatch.context() as patch:
        patch.setattr(Effects, "_promote", fail)
        with pytest.raises(RolloutError, match="open at BAKED"):
            await canary_rollout(site.target, site.spec("2"), plan)
    [ended] = await reconcile_rollouts([site.target])
    assert ended.outcome == "promoted", ended.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}


@pytest.mark.slow
async def test_a_promotion_whose_end_is_not_known_deletes_nothing(
    hosted: tuple[RunningSandbox, DeploymentTarget], tmp_path: Path
) -> None:
    sandbox, target = hosted
    fault = {"provider": "baseten", "method": "POST", "path": "*/promote", "kind": "status", "status": 400}
    await sandbox.control.fault(**fault, times=None)
    plan = CanaryPlan(golden_set=EXAMPLES, judge=JUDGE)
    record = await canary_rollout(target, spec_of(make_truss(tmp_path)), plan)
    assert (record.outcome, record.decided_by) == ("rolled_back", "error"), record.reason
    async with client_of(target) as client:
        assert "v2" in [d.name for d in await client.find(model=target.model)]
