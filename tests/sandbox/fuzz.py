"""Fuzzing of an emulator: whatever is sent, the answer is in the vendor's envelope and never a 5xx."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import strategies as st

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "%00", "../..", "a,b", "\x00", "é", "0", "null", "1e999", "{}"]
)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True, allow_infinity=True)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Sending:
    """A request of a fuzz test."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    content: bytes

    def send(self, http: httpx.Client) -> httpx.Response:
        """Send it as JSON."""
        url = self.path + ("?" + "&".join(f"{quote(n)}={quote(v)}" for n, v in self.query) if self.query else "")
        return http.request(self.method, url, content=self.content, headers={"content-type": "application/json"})


def sendings(
    routes: Mapping[str, Sequence[str]],
    ids: Mapping[str, Sequence[str]],
    fields: Mapping[str, Any],
    queries: Sequence[str],
) -> st.SearchStrategy[Sending]:
    """Requests that are nearly right: real paths with real and wrong ids, known fields with wrong values.

    Args:
        routes: Path template -> methods, with `{}` where an id belongs.
        ids: End of the path before an id -> ids that exist there; the longest end that fits counts.
        fields: Name of a body's field -> a value that is right.
        queries: Names of query parameters.
    """
    strange = TEXTS.map(lambda text: quote(text, safe="") or "x")
    names = st.sampled_from(list(fields))
    right = st.lists(names, max_size=8).map(lambda chosen: {name: fields[name] for name in chosen})
    wrong = st.dictionaries(names | TEXTS, VALUES, max_size=2)
    values = st.sampled_from(["1", "2", "-1", "0", "x", "true", "99999999999999999999", "2020-01-01", ""]) | TEXTS

    @st.composite
    def build(draw: st.DrawFn) -> Sending:
        def seldom() -> bool:
            return draw(st.integers(0, 5)) == 5

        template = path = draw(st.sampled_from(list(routes)))
        while "{}" in path:
            before = path[: path.index("{}")]
            end = max((end for end in ids if before.endswith(end)), key=len, default="")
            there = st.sampled_from(list(ids[end])) if end else strange
            path = path.replace("{}", draw(strange if seldom() else there), 1)
        method = draw(st.sampled_from(METHODS if seldom() else list(routes[template])))
        query = tuple(draw(st.lists(st.tuples(st.sampled_from(list(queries)), values), max_size=3)))
        if method == "GET":
            return Sending(method, path, query, b"")
        if seldom():
            return Sending(method, path, query, draw(st.binary(max_size=20) | VALUES.map(_json)))
        return Sending(method, path, query, _json({**draw(right), **(draw(wrong) if draw(st.booleans()) else {})}))

    return build()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")
