"""Enough of GraphQL to run a client's documents: one operation, fields with arguments and variables, nested selections.

No fragments, aliases or directives: none of the vendor's clients sends them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DEEPEST = 40

_TOKEN = re.compile(
    r"""\s+|,|\#[^\n]*|(?P<token>\.\.\.|[{}()\[\]:!=$@]|"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[A-Za-z_]\w*)"""
)


class BadQuery(Exception):
    """The document cannot be run."""

    def __init__(self, message: str, code: str = "GRAPHQL_VALIDATION_FAILED") -> None:
        super().__init__(message)
        self.message, self.code = message, code


@dataclass(frozen=True)
class Field:
    """A field of a selection."""

    name: str
    arguments: dict[str, Any]
    selection: "dict[str, Field]" = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """A query or a mutation."""

    kind: str
    selection: dict[str, Field]


def parse(text: str, variables: dict[str, Any]) -> Operation:
    """Read a document. Raises BadQuery."""
    return _Reader(_tokens(text), variables).operation()


def answer(value: Any, selection: dict[str, Field], typename: str) -> Any:
    """What of a value was asked for. A callable in it is a field with arguments. Raises BadQuery."""
    if isinstance(value, list):
        return [answer(item, selection, typename) for item in value]
    if value is None:
        return None
    if not isinstance(value, dict):
        if selection:
            raise BadQuery(f'Field "{typename}" must not have a selection since it has no subfields.')
        return value
    if not selection:
        raise BadQuery(f'Field "{typename}" must have a selection of subfields.')
    found: dict[str, Any] = {}
    for name, asked in selection.items():
        if name == "__typename":
            found[name] = typename
            continue
        if name not in value:
            raise BadQuery(f'Cannot query field "{name}" on type "{typename}".')
        inner = value[name]
        found[name] = answer(inner(**asked.arguments) if isinstance(inner, Callable) else inner, asked.selection, name)  # type: ignore[arg-type]
    return found


def _tokens(text: str) -> list[str]:
    found, at = list[str](), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadQuery(f"Syntax Error: Unexpected character: {text[at]!r}.", "GRAPHQL_PARSE_FAILED")
        if token := match.group("token"):
            found.append(token)
        at = match.end()
    return found


class _Reader:
    def __init__(self, tokens: list[str], variables: dict[str, Any]) -> None:
        self._tokens, self._at, self._variables = tokens, 0, variables

    def operation(self) -> Operation:
        kind = "query"
        if self._peek() != "{":
            kind = self._next()
            if kind not in ("query", "mutation"):
                raise self._unexpected(kind)
            if self._peek() not in ("{", "("):
                self._next()
            if self._peek() == "(":
                while self._next() != ")":
                    continue
        selection = self._selection(0)
        if self._peek():
            raise BadQuery("The sandbox runs documents of one operation, without fragments.")
        return Operation(kind, selection)

    def _selection(self, depth: int) -> dict[str, Field]:
        if depth > DEEPEST:
            raise BadQuery("Syntax Error: Document is nested too deeply.", "GRAPHQL_PARSE_FAILED")
        self._expect("{")
        fields: dict[str, Field] = {}
        while self._peek() != "}":
            name = self._name()
            arguments = self._arguments(depth) if self._peek() == "(" else {}
            inner = self._selection(depth + 1) if self._peek() == "{" else {}
            known = fields.get(name)
            fields[name] = Field(name, arguments, _merged(known.selection, inner) if known else inner)
        self._next()
        if not fields:
            raise BadQuery('Syntax Error: Expected Name, found "}".', "GRAPHQL_PARSE_FAILED")
        return fields

    def _arguments(self, depth: int) -> dict[str, Any]:
        self._expect("(")
        found = {}
        while self._peek() != ")":
            name = self._name()
            self._expect(":")
            found[name] = self._value(depth)
        self._next()
        return found

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise BadQuery("Syntax Error: Document is nested too deeply.", "GRAPHQL_PARSE_FAILED")
        token = self._next()
        match token:
            case "$":
                return self._variables.get(self._name())
            case "[":
                items = []
                while self._peek() != "]":
                    items.append(self._value(depth + 1))
                self._next()
                return items
            case "{":
                fields = {}
                while self._peek() != "}":
                    name = self._name()
                    self._expect(":")
                    fields[name] = self._value(depth + 1)
                self._next()
                return fields
            case "true" | "false" | "null":
                return {"true": True, "false": False, "null": None}[token]
        if token.startswith('"'):
            return token[1:-1]
        if re.fullmatch(r"-?\d{1,15}", token):
            return int(token)
        if re.fullmatch(r"-?\d+\.\d+", token):
            return float(token)
        if re.fullmatch(r"[A-Za-z_]\w*", token):
            return token
        raise self._unexpected(token)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise BadQuery("Syntax Error: Unexpected <EOF>.", "GRAPHQL_PARSE_FAILED")
        self._at += 1
        return token

    def _name(self) -> str:
        token = self._next()
        if not re.fullmatch(r"[A-Za-z_]\w*", token):
            raise self._unexpected(token)
        return token

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise self._unexpected(self._tokens[self._at - 1])

    def _unexpected(self, token: str) -> BadQuery:
        return BadQuery(f"Syntax Error: Unexpected {token!r}.", "GRAPHQL_PARSE_FAILED")


def _merged(one: dict[str, Field], other: dict[str, Field]) -> dict[str, Field]:
    """The vendor's SDK selects `data` twice: GraphQL merges such selections."""
    merged = dict(one)
    for name, asked in other.items():
        known = merged.get(name)
        merged[name] = Field(name, asked.arguments, _merged(known.selection, asked.selection)) if known else asked
    return merged
