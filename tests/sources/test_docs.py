"""The examples of the page run, and its tables name what there is."""

import re
from pathlib import Path

import pytest

import prefect_modeldeploy
from prefect_modeldeploy import CanaryPlan, JudgePlan, PrometheusMetrics
from prefect_modeldeploy.rollout.judging import fewest_examples
from prefect_modeldeploy.tasks.traffic import shadow_of

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "measurements-from-elsewhere.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_target_of_the_example_is_measured_by_prometheus() -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[0], "measurements-from-elsewhere.md", "exec"), names)
    assert names["target"].metrics is names["metrics"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", PrometheusMetrics.model_fields)
def test_every_field_is_on_the_page(field: str) -> None:
    assert f"`{field}`" in PAGE


def test_the_plan_of_the_second_example_can_be_proven_with_what_the_page_says() -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[1], "measurements-from-elsewhere.md", "exec"), names)
    assert names["plan"].golden_set == Path("golden.jsonl")  # type: ignore[attr-defined]
    told = {
        370: JudgePlan(latency=False),
        570: JudgePlan(),
        180: JudgePlan(margin=0.02, latency=False),
        70: JudgePlan(margin=0.05),
    }
    for examples, plan in told.items():
        assert str(examples) in PAGE
        assert fewest_examples(plan, examples) == examples
        assert fewest_examples(plan, examples - 10) is None


def test_the_shadow_of_the_third_example_is_judged_by_agreement() -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[2], "measurements-from-elsewhere.md", "exec"), names)
    plan = names["plan"]
    assert isinstance(plan, CanaryPlan)
    shadow = shadow_of(plan)
    assert shadow is not None
    assert (shadow.share, shadow.ignore) == (5, ("request_id",))
