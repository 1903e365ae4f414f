import math
from random import Random

import pytest

from prefect_modeldeploy.analysis.expressions import Condition, ConditionError, NoData
from prefect_modeldeploy.errors import InvalidInput

FACTS = {
    "canary.error_rate": 0.06,
    "canary.requests": 100,
    "canary.p99": None,
    "result": [0.5, 2.0],
    "strange": math.nan,
    "huge": 10**400,
    "endless": math.inf,
}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("true", True),
        ("!false", True),
        ("not (1 > 2)", True),
        ("canary.error_rate > 0.05 && canary.requests >= 100", True),
        ("canary.error_rate > 0.05 and canary.requests > 100", False),
        ("result[0] < 1 and result[1] == 2", True),
        ("len(result) == 2", True),
        ("false || true && false", False),
        ("true or false and false", True),
        ("not false and false", False),
        ("-2 + 3 * 2 == 4", True),
        ("2 - 1 - 1 == 0", True),
        ("7 % 4 == 3 && 1e-3 * 1000 == 1.0", True),
        ("-canary.error_rate < 0", True),
        ("min(3, 1, 2) == 1 && max(3, 1, 2) == 3 && abs(-1) == 1", True),
        ("default(canary.p99, 0.2) < 0.5", True),
        ("default(strange, 7) == 7", True),
        ("hasData(canary.p99)", False),
        ("isNaN(strange)", True),
        ("isInf(endless) && !isInf(huge) && !isNaN(canary.requests)", True),
        ("hasData(canary.p99) && canary.p99 > 1", False),
    ],
)
def test_conditions_mean_what_one_expects(text, answer):
    assert Condition(text)(FACTS) is answer


@pytest.mark.parametrize(
    "text", ["canary.p99 > 1", "strange == strange", "result[5] > 1", "result[1e999] > 1", "true && canary.p99 < 1"]
)
def test_what_was_not_measured_has_no_answer(text):
    with pytest.raises(NoData):
        Condition(text)(FACTS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense > 1", "unknown name nonsense"),
        ("1 / 0 > 1", "cannot be computed"),
        ("huge / 2 > 1", "cannot be computed"),
        ("canary.requests", "neither true nor false"),
        ("1 && true", "neither true nor false"),
        ("true > 1", "not a number"),
        ("canary.requests[0] == 1", "only lists"),
    ],
)
def test_what_makes_no_sense_is_an_error(text, problem):
    with pytest.raises(ConditionError, match=problem):
        Condition(text)(FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "1 +", "(1 > 2", "a < b < c", "1 2", "result[", "a ; b", "a = 1", "f(1) > 0", "min() > 1",
        "default(1) > 0", "__import__('os').system('true')", "'text' == 'text'", "lambda: 1", "a.b().c",
        "[1, 2][0] == 1",
        "(" * 200, "!" * 200 + "true", "-" * 200 + "1 > 0", "9" * 2000,
    ],
)  # fmt: skip
def test_what_is_not_the_language_is_refused_when_it_is_written(text):
    with pytest.raises(InvalidInput, match="condition"):
        Condition(text)


def test_names_reach_only_the_facts():
    with pytest.raises(ConditionError, match="unknown name"):
        Condition("canary.__class__ == 1")(FACTS)


def test_the_place_of_a_mistake_is_named():
    with pytest.raises(InvalidInput, match="near character 7"):
        Condition("1 < 2 < 3 ")
    with pytest.raises(InvalidInput, match="character 3 is not understood"):
        Condition("a ~ b")


def test_the_longest_condition_is_evaluated():
    assert Condition("1" + " +1" * 160 + " == 161")({})


def test_whatever_is_written_is_refused_or_answered():
    """Random pieces of the language: no other error ever comes out, and none of them takes long."""
    pieces = [
        *"()[],!<>+-*/%=&|'^ ",
        "&&",
        "||",
        "==",
        "!=",
        "not ",
        " and ",
        "1e999",
        "0",
        "9" * 99,
        "true",
        "endless",
    ]
    pieces += ["huge", "result", "result[", "strange", "canary.p99", "nobody", "min(", "default(", "hasData(", "len("]
    random, answers = Random(4), 0
    for _ in range(20_000):
        text = "".join(random.choices(pieces, k=random.randint(1, 9)))
        try:
            answers += Condition(text)(FACTS) in (True, False)
        except (InvalidInput, ConditionError, NoData):
            continue
    assert answers > 20
