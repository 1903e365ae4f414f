"""The examples of the page run, and its tables name what there is."""

import re
from pathlib import Path

import pytest

import prefect_modeldeploy
from prefect_modeldeploy import PrometheusMetrics

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "measurements-from-elsewhere.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_target_of_the_example_is_measured_by_prometheus() -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[0], "measurements-from-elsewhere.md", "exec"), names)
    assert names["target"].metrics is names["metrics"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", PrometheusMetrics.model_fields)
def test_every_field_is_on_the_page(field: str) -> None:
    assert f"`{field}`" in PAGE
