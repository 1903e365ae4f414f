"""Which shapes of answers go together."""

from typing import Any

import pytest

from prefect_modeldeploy.tasks.preflight import difference_of


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (1, 2.5),
        ({"p": 0.1, "label": None}, {"p": 1, "label": "fraud"}),
        ([{"p": 1}], [{"p": 2}, {"p": 3}]),
        ([], [1]),
        (None, {"p": 1}),
    ],
)
def test_values_may_differ(stable: Any, canary: Any) -> None:
    assert difference_of(stable, canary) is None


@pytest.mark.parametrize(
    ("stable", "canary", "said"),
    [
        (1, "1", "answer is a number there and a text here"),
        (True, 1, "answer is a boolean there and a number here"),
        ({"p": 1}, {"q": 1}, "answer.p is only there"),
        ({"p": 1}, {"p": 1, "q": 1}, "answer.q is only here"),
        ({"rows": [{"p": 1}]}, {"rows": [{"p": "x"}]}, "answer.rows[0].p is a number there and a text here"),
        ([1], {"0": 1}, "answer is a list there and an object here"),
    ],
)
def test_shapes_may_not(stable: Any, canary: Any, said: str) -> None:
    assert difference_of(stable, canary) == said
