"""A small language for conditions: `canary.error_rate > 0.05 && canary.requests >= 100`. Parsed here, never `eval`.

    or          a || b       a or b
    and         a && b       a and b
    not         !a           not a
    compare     <  <=  >  >=  ==  !=         (chains are not allowed: write a && b)
    arithmetic  +  -  *  /  %  and a leading -
    values      0.05   1e-3   true   false   names with dots   a[0]   ( ... )
    functions   isNaN(x)  isInf(x)  default(x, y)  abs(x)  min(x, y, ...)  max(x, y, ...)  len(list)  hasData(x)

There is no data where a name is known but None, or not a number: then the whole condition has no answer (`NoData`),
unless `default`, `isNaN` or `hasData` deal with it. A condition must give true or false; numbers are not truth values.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prefect_modeldeploy.errors import InvalidInput

LONGEST = 500
"""Longest condition in characters."""

Value = Any
Facts = Mapping[str, Value]
_Node = Callable[[Facts], Value]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<sign>\|\||&&|<=|>=|==|!=|[-+*/%<>!()\[\],]))"
)
_WORDS = {"or": "||", "and": "&&", "not": "!"}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}
_STRENGTH = {"||": 1, "&&": 2, **dict.fromkeys(_COMPARE, 4), "+": 5, "-": 5, "*": 6, "/": 6, "%": 6}
_NOT_STRENGTH, _NEGATE_STRENGTH, _DEEPEST = 3, 7, 50


class NoData(Exception):
    """The condition cannot be answered: something that it asks for was not measured."""


class ConditionError(Exception):
    """The condition was understood but makes no sense for these values."""


class Condition:
    """A parsed condition.

    Args:
        text: The condition.

    Raises:
        InvalidInput: It cannot be parsed; the message says where.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._node = _Parser(text).parse()

    def __call__(self, facts: Facts) -> bool:
        """True or false for these facts.

        Raises:
            NoData: A fact that is needed is None or NaN.
            ConditionError: An unknown name, a division by zero, or a result that is not true or false.
        """
        return _truth(self._node(facts))


class _Parser:
    """Precedence climbing: one loop for all operators of two sides."""

    def __init__(self, text: str) -> None:
        if not text.strip() or len(text) > LONGEST:
            raise InvalidInput("condition", text[:60], f"must have between 1 and {LONGEST} characters")
        self._text, self._tokens, self._at, self._depth = text, _tokens(text), 0, 0

    def parse(self) -> _Node:
        node = self._expression(0)
        if self._at < len(self._tokens):
            self._fail("something is left over")
        return node

    def _expression(self, strength: int) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"nested deeper than {_DEEPEST}")
        node = self._operand()
        while (sign := self._peek()) in _STRENGTH and _STRENGTH[sign] > strength:
            self._at += 1
            node = _binary(sign, node, self._expression(_STRENGTH[sign]))
            if sign in _COMPARE and self._peek() in _COMPARE:
                self._fail("comparisons cannot be chained; write a < b && b < c")
        self._depth -= 1
        return node

    def _operand(self) -> _Node:
        kind, symbol = self._next()
        if kind == "number":
            return _constant(float(symbol))
        if kind == "name":
            return self._indexed(self._named(symbol))
        if symbol == "(":
            node = self._expression(0)
            self._expect(")")
            return self._indexed(node)
        if symbol == "!":
            node = self._expression(_NOT_STRENGTH)
            return lambda facts: not _truth(node(facts))
        if symbol == "-":
            node = self._expression(_NEGATE_STRENGTH)
            return lambda facts: -_number(node(facts))
        raise self._error("expected a value here")

    def _named(self, name: str) -> _Node:
        if self._peek() == "(":
            return self._call(name)
        if name in ("true", "false"):
            return _constant(name == "true")
        return lambda facts: _look_up(facts, name)

    def _call(self, name: str) -> _Node:
        if name not in _FUNCTIONS:
            self._fail(f"no function {name}; there are {', '.join(_FUNCTIONS)}")
        self._expect("(")
        arguments: list[_Node] = []
        while self._peek() != ")":
            arguments.append(self._expression(0))
            if self._peek() != ")":
                self._expect(",")
        self._expect(")")
        fewest, most, function = _FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            self._fail(f"{name} takes {fewest if fewest == most else f'at least {fewest}'} arguments")
        return lambda facts: function([partial(argument, facts) for argument in arguments])

    def _indexed(self, node: _Node) -> _Node:
        while self._peek() == "[":
            self._at += 1
            node = _item(node, self._expression(0))
            self._expect("]")
        return node

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            self._fail("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1][:2]

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            self._fail(f"expected {sign}")
        self._at += 1

    def _error(self, problem: str) -> InvalidInput:
        place = self._tokens[min(self._at, len(self._tokens) - 1)][2] if self._tokens else 0
        return InvalidInput("condition", self._text, f"{problem} (near character {place + 1})")

    def _fail(self, problem: str) -> None:
        raise self._error(problem)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            strange = text[at:].lstrip()[0]
            raise InvalidInput(
                "condition", text, f"character {text.index(strange, at) + 1} is not understood: {strange!r}"
            )
        group = str(match.lastgroup)
        found, place = match[group], match.start(group)
        tokens.append(("sign", _WORDS[found], place) if found in _WORDS else (group, found, place))
        at = match.end()
    return tokens


def _constant(value: Value) -> _Node:
    return lambda _: value


def _binary(sign: str, left: _Node, right: _Node) -> _Node:
    if sign == "||":
        return lambda facts: _truth(left(facts)) or _truth(right(facts))
    if sign == "&&":
        return lambda facts: _truth(left(facts)) and _truth(right(facts))
    if sign in ("==", "!="):
        return lambda facts: _COMPARE[sign](_known(left(facts)), _known(right(facts)))
    if sign in _COMPARE:
        return lambda facts: _COMPARE[sign](_number(left(facts)), _number(right(facts)))

    def compute(facts: Facts) -> float:
        try:
            return _ARITHMETIC[sign](_number(left(facts)), _number(right(facts)))
        except (ZeroDivisionError, OverflowError) as error:
            raise ConditionError(f"{sign} cannot be computed: {error}") from error

    return compute


def _item(node: _Node, index: _Node) -> _Node:
    def pick(facts: Facts) -> Value:
        values, at = node(facts), _number(index(facts))
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ConditionError("only lists can be indexed")
        if not 0 <= at < len(values) or at != int(at):
            raise NoData(f"there is no element {at:g} of {len(values)}")
        return values[int(at)]

    return pick


def _look_up(facts: Facts, name: str) -> Value:
    if name not in facts:
        raise ConditionError(f"unknown name {name}; known are {', '.join(sorted(facts))}")
    return facts[name]


def _known(value: Value) -> Value:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise NoData("not measured")
    return value


def _number(value: Value) -> float:
    value = _known(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConditionError(f"{value!r} is not a number")
    return value


def _truth(value: Value) -> bool:
    value = _known(value)
    if not isinstance(value, bool):
        raise ConditionError(f"{value!r} is neither true nor false")
    return value


_Lazy = Callable[[], Value]


def _has_data(arguments: list[_Lazy]) -> bool:
    try:
        _known(arguments[0]())
    except NoData:
        return False
    return True


def _is_nan(arguments: list[_Lazy]) -> bool:
    value = arguments[0]()
    return isinstance(value, float) and math.isnan(value)


def _default(arguments: list[_Lazy]) -> Value:
    return _known(arguments[0]()) if _has_data(arguments[:1]) else arguments[1]()


def _length(arguments: list[_Lazy]) -> float:
    values = _known(arguments[0]())
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConditionError(f"{values!r} is not a list")
    return float(len(values))


_FUNCTIONS: dict[str, tuple[int, int, Callable[[list[_Lazy]], Value]]] = {
    "isNaN": (1, 1, _is_nan),
    "isInf": (1, 1, lambda arguments: abs(_number(arguments[0]())) == math.inf),
    "hasData": (1, 1, _has_data),
    "default": (2, 2, _default),
    "abs": (1, 1, lambda arguments: abs(_number(arguments[0]()))),
    "min": (1, 20, lambda arguments: min(_number(argument()) for argument in arguments)),
    "max": (1, 20, lambda arguments: max(_number(argument()) for argument in arguments)),
    "len": (1, 1, _length),
}
