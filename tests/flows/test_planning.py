"""The dry run: it says what a canary rollout would do and how long the proof would take, and touches nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client

from prefect_modeldeploy import Autoscaling, CanaryPlan, RolloutPreview, cli, plan_rollout, promote_to_production
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Actor, RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.flows import arms_kit
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import MAKERS, hosted

pytestmark = pytest.mark.usefixtures("prefect_server")


async def world(site: Site) -> dict[str, Any]:
    """All that a rollout could change: what the node and Prefect's server keep."""
    async with client_of(site.target) as client:
        deployments = [d.model_dump(exclude={"raw"}) for d in await client.find()]
    async with get_client() as prefect:
        variables = {v.name: v.value for v in await prefect.read_variables() if site.target.endpoint in v.name}
    endpoint = (await site.endpoint()).model_dump()
    return {"endpoint": endpoint, "deployments": deployments, "variables": variables}


async def test_steps_times_cost_and_changes_are_told_and_nothing_is_changed(site: Site) -> None:
    site.target.price_per_replica_hour = 3.6
    async with await site.load() as answers:
        await site.history(answers, 600)
        before = await world(site)
        preview = await plan_rollout(site.target, site.spec("2"), QUICK)
        assert await world(site) == before
    model = site.target.model
    assert preview.begins
    assert (preview.candidate, preview.stable, preview.open_rollout) == (f"{model}-2", f"{model}-1", None)
    assert preview.traffic is not None
    assert preview.traffic.requests >= 500
    assert 30 < preview.traffic.per_second < 400
    assert [(step.weight, step.seconds) for step in preview.steps] == [(20, 1), (50, 1)]
    good, *worse = preview.forecasts
    assert (good.canary, good.outcome) == ("as good as stable", "promoted")
    assert {each.outcome for each in worse} == {"rolled_back"}
    assert preview.cost is not None
    assert preview.cost.money == pytest.approx(3.6 * good.seconds / 3600)
    assert {(c.when, c.what, c.deployment) for c in preview.changes} == {
        ("at the start", "create", f"{model}-2"),
        ("after the promotion", "scale_to_zero", f"{model}-1"),
        ("after a roll-back", "delete", f"{model}-2"),
    }
    artifact = await Artifact.aget(f"plan-local-{model}")
    assert artifact is not None
    assert "would begin" in str(artifact.data)


async def test_what_is_there_already_is_neither_created_nor_let_go_of(site: Site) -> None:
    """As the rollout itself: whoever has created what bears the spec's name may need it."""
    site.target.price_per_replica_hour = 3.6
    spec = site.spec("2", autoscaling=Autoscaling(min_replicas=2, max_replicas=2))
    async with client_of(site.target) as client, await site.load() as answers:
        await client.create(spec)
        async for _ in client.wait([spec.name], lambda deployment: deployment.ready):
            pass
        await site.history(answers)
        runs = await plan_rollout(site.target, spec, QUICK)
        await client.scale_to_zero(spec.name)
        sleeps = await plan_rollout(site.target, spec, QUICK)
        await client.stop(spec.name)
        stopped = await plan_rollout(site.target, spec, QUICK)

    def of_the_candidate(preview: RolloutPreview) -> set[tuple[str, str]]:
        assert preview.begins
        return {(change.when, change.what) for change in preview.changes if change.deployment == spec.name}

    kept = ("after a roll-back", "keep")
    assert of_the_candidate(runs) == {kept}
    assert of_the_candidate(sleeps) == {("at the start", "wake"), kept}
    assert of_the_candidate(stopped) == {("at the start", "start"), kept}
    costs = [preview.cost.money for preview in (runs, sleeps, stopped) if preview.cost]
    assert costs[0] == 0
    assert all(cost for cost in costs[1:])
    assert any("this very spec" in each for each in runs.assumptions)


async def test_what_an_interrupted_rollout_has_created_is_let_go_of_by_its_own_plan(site: Site) -> None:
    target, spec = site.target, site.spec("2")
    async with client_of(target) as client:
        await client.create(spec)
    facts = {"id": "r", "provider": "local", "model": target.model, "endpoint": target.endpoint, "spec": spec}
    plan = QUICK.model_copy(update={"failed_canary": "scale_to_zero"})
    began: Any = {"who": Actor(name="ada"), "canary": spec.name, "plan": plan, "started_at": "2026-01-01T00:00:00Z"}
    await _journal.save(RolloutRecord.model_validate(facts | began))
    changes = {(each.when, each.what) for each in (await plan_rollout(target, spec, QUICK)).changes}
    assert ("after a roll-back", "scale_to_zero") in changes
    assert ("at the start", "create") not in changes


async def test_without_traffic_it_says_so_instead_of_guessing(site: Site) -> None:
    preview = await plan_rollout(site.target, site.spec("2"))
    assert (preview.traffic, preview.forecasts, preview.cost) == (None, (), None)
    assert [step.canary_requests for step in preview.steps] == [None, None, None]


@pytest.mark.slow
async def test_it_names_the_refusals_of_the_flow_itself(site: Site, new_site: Callable[[str], Site]) -> None:
    async def refused(site: Site, candidate: Any, plan: CanaryPlan = QUICK) -> list[str]:
        return [each.error for each in (await plan_rollout(site.target, candidate, plan)).refusals]

    serving = f"{site.target.model}-1"
    assert await refused(site, serving) == ["InvalidInput"]
    assert await refused(site, "no-such-thing") == ["NotFound"]
    native = QUICK.model_copy(update={"promote": "native"})
    assert await refused(site, site.spec("2"), native) == ["UnsupportedOperation"]
    assert await refused(new_site("empty"), site.spec("2")) == ["InvalidInput"]


async def test_it_says_who_holds_the_endpoint(site: Site) -> None:
    target, now = site.target, "2026-01-01T00:00:00Z"
    facts = {"id": "r", "provider": "local", "model": target.model, "endpoint": target.endpoint, "plan": QUICK}
    actor = Actor(name="ada")
    await _journal.save(RolloutRecord.model_validate({**facts, "who": actor, "canary": "other", "started_at": now}))
    preview = await plan_rollout(target, site.spec("2"))
    assert [each.error for each in preview.refusals] == ["RolloutInProgress"]
    assert "other, at PLANNED, started 2026-01-01 00:00 UTC by ada" in (preview.open_rollout or "")


@pytest.mark.slow
def test_the_command_line_tells_the_same(site: Site, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    site.target.save(site.target.endpoint, overwrite=True)
    spec, plan = tmp_path / "spec.json", tmp_path / "plan.json"
    spec.write_text(site.spec("2").model_dump_json())
    plan.write_text('{"steps": [10, 40]}')
    command = ["plan", site.target.endpoint, str(spec), "--plan", str(plan)]
    assert _exit_code([*command, "--json"]) == 0
    preview = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [step["weight"] for step in preview["steps"]] == [10, 40]
    assert _exit_code(["plan", site.target.endpoint, f"{site.target.model}-1"]) == 3
    text = " ".join(capsys.readouterr().out.split())
    assert "would be refused" in text
    assert "serves already" in text


def _exit_code(command: list[str]) -> object:
    with pytest.raises(SystemExit) as end:
        cli.app(command)
    return end.value.code


@pytest.mark.slow
@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_provider_is_only_asked(provider: str, tmp_path: Path) -> None:
    """By what really reached it, with our gateway in front of it and without."""
    home = tmp_path / "node"
    async with hosted(provider, tmp_path) as there, arms_kit.gateway_at(home) as (gateway, node):
        try:
            [first] = await there.production()
            target = there.target.model_copy(update={"gateway": gateway})
            await promote_to_production(target, first.id)
            before = await node.get_endpoint(target.endpoint)
            await there.control.forget_requests()
            preview = await plan_rollout(target, there.candidate, QUICK)
            await plan_rollout(there.target, there.candidate, QUICK)
            assert {request.method for request in await there.control.requests()} == {"GET"}
            assert await node.get_endpoint(target.endpoint) == before
        finally:
            await stop_node(home)
    assert (preview.begins, preview.stable) == (True, first.id), preview.refusals
    assert ("at the start", "create", there.candidate.name) in {(c.when, c.what, c.deployment) for c in preview.changes}
