"""When two answers are the same, and when one is right."""

from typing import Any

import pytest

from prefect_modeldeploy.traffic.answers import is_right, likeness


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"a": [1, "x"]}, {"a": [1, "x"]}, "equal"),
        (1, 1.0, "equal"),
        (1.0, 1.001, "close"),
        (0.0, 0.009, "close"),
        (float("nan"), float("nan"), "equal"),
        (1.0, 1.1, "different"),
        ([1.0, 1.001], [1.0, 1.001, 2], "different"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.001, "b": 2.0}, "close"),
        ({"a": 1.001, "b": 3}, {"a": 1.0, "b": 2}, "different"),
        ({"a": 1}, {"a": 1, "b": 2}, "different"),
        (True, 1, "different"),
        (None, 0, "different"),
        ("cat", "dog", "different"),
        ({"id": "1", "y": [{"id": 2, "v": 3}]}, {"id": "7", "y": [{"v": 3}]}, "equal"),
    ],
)
def test_likeness(one: Any, other: Any, alike: str) -> None:
    assert likeness(one, other, tolerance=0.01, ignore={"id"}) == alike
    assert likeness(other, one, tolerance=0.01, ignore={"id"}) == alike


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ({"label": "cat", "score": 0.9}, {"label": "cat"}, True),
        ({"label": "dog"}, {"label": "cat"}, False),
        ({"score": 1}, {"label": "cat"}, False),
        ([{"y": 1.0005}], [{"y": 1}], True),
        ([1, 2], [1], False),
        ("cat", {"label": "cat"}, False),
        (0, False, False),
    ],
)
def test_an_answer_is_right_where_the_label_looks(answer: Any, expected: Any, right: bool) -> None:
    assert is_right(answer, expected, tolerance=0.001) is right
