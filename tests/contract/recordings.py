"""What the vendors' official clients really sent (recorded by the project), and whether ours sends the same.

A recording is a line of JSON: `{"call": label, "method": ..., "path": ..., "query": [[name, value]...], "body": ...}`,
in `tests/contract/recorded/<vendor>.jsonl`: only what the comparison needs, since nothing may depend on files outside
the repository.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_modeldeploy.sandbox.journal import Request

RECORDED = Path(__file__).parent / "recorded"


@dataclass(frozen=True)
class Sent:
    """What a request says: nothing of its headers, and the query in no order."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    body: Any

    @classmethod
    def of(cls, request: Request) -> "Sent":
        """From a sandbox's journal."""
        return cls(request.method, request.path, tuple(sorted(request.query)), request.body)


def recorded(vendor: str, call: str) -> list[Sent]:
    """The requests of one recorded call, in order. Raises LookupError when there is none by that name."""
    found = []
    for line in (RECORDED / f"{vendor}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["call"] == call:
            query = tuple(sorted((name, value) for name, value in entry.get("query", [])))
            found.append(Sent(entry["method"], entry["path"], query, entry.get("body")))
    if not found:
        raise LookupError(f"{vendor}.jsonl has no call {call!r}")
    return found


def calls(vendor: str) -> list[str]:
    """Names of all recorded calls."""
    lines = (RECORDED / f"{vendor}.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["call"] for line in lines))


def assert_same(
    ours: Sequence[Request], theirs: Sequence[Sent], *, rename: Callable[[str], str] = lambda text: text
) -> None:
    """Compare method, path, query and body of what our client sent with a recording.

    Args:
        ours: From `control.requests(...)`.
        theirs: From `recorded(...)`.
        rename: Replaces ids in the recording by the ids of this sandbox's world; gets the whole request as JSON text.
    """
    expected = [json.loads(rename(json.dumps(_plain(sent)))) for sent in theirs]
    assert [_plain(Sent.of(request)) for request in ours] == expected


def _plain(sent: Sent) -> dict[str, Any]:
    query = [list(pair) for pair in sent.query]
    return {"method": sent.method, "path": sent.path, "query": query, "body": sent.body}
