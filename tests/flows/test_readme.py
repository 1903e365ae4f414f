"""The first example of the README, as a reader copies it."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import joblib
import pytest
from sklearn.dummy import DummyClassifier

from prefect_modeldeploy import DeploymentSpec, promote_to_production
from prefect_modeldeploy.target import router_of
from tests.flows.conftest import QUICK, Site
from tests.readme import block_after, execute
from tests.traffic.load import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_new_version_is_released_as_the_readme_says(
    new_site: Callable[[str], Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"m{uuid4().hex[:8]}"
    target = new_site(name).target
    await target.save(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for version in (1, 2):
        joblib.dump(DummyClassifier().fit([[0.0], [1.0]], [0, 1]), f"models/{name}-{version}.joblib")
    first = DeploymentSpec(name=f"{name}-1", model=name, version="1", source=f"models/{name}-1.joblib")
    await promote_to_production(target, first)

    recipe = block_after("## What you write").replace('"production"', repr(name)).replace("fraud", name)
    sooner = recipe.replace("step_seconds=60", "step_seconds=1, **sooner")
    assert sooner != recipe
    more = QUICK.model_dump(include={"warm_up_seconds", "poll_seconds", "judge"})
    release = (await execute(sooner, sooner=more))["release"]
    async with router_of(target) as (router, endpoint):
        url = await router.url(endpoint)
    async with load(f"{url}/predict", rate=300, body=b"[[1.0]]") as answers:
        await release("2")
    assert answers.failures == []
    assert capsys.readouterr().out.splitlines()[-1].startswith("promoted ")
    async with router_of(target) as (router, endpoint):
        serving = await router.get_endpoint(endpoint)
    assert [(arm.upstream, arm.weight) for arm in serving.arms if arm.weight] == [(f"{name}-2", 100)]
