"""Faults on demand: which requests go wrong, how, and how often."""

import itertools
import random
from collections import Counter
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["status", "lost_request", "lost_answer", "reset", "delay", "slow_answer"]


class Fault(BaseModel):
    """What goes wrong with the requests that match. The first one that strikes wins.

    | kind         | the effect happens | the caller gets                                                        |
    |--------------|--------------------|------------------------------------------------------------------------|
    | status       | no                 | `status` with `body` (default: the vendor's envelope) and `retry_after`|
    | lost_request | no                 | the connection closed without an answer                                |
    | reset        | no                 | the connection reset (RST)                                             |
    | lost_answer  | yes                | the connection closed without an answer, after `seconds`               |
    | delay        | after `seconds`    | the answer, late                                                       |
    | slow_answer  | at once            | the answer, `seconds` late                                             |

    404 just after creation is `kind="status", status=404, method="GET", per_path=True, times=2`, or the fate `late`.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field("", description="Given by the sandbox.")
    provider: str = Field("*", description="Provider; a glob.")
    method: str = Field("*", description="HTTP method; a glob.")
    path: str = Field("*", description="Path without the query; a glob, in which * spans slashes.")
    kind: Kind = Field(description="What goes wrong.")
    status: int = Field(503, ge=200, le=599, description="status: the HTTP status.")
    body: Any = Field(None, description="status: the JSON body, or a text. None: the vendor's own envelope.")
    headers: dict[str, str] = Field(default_factory=dict, description="status: further headers.")
    retry_after: float | None = Field(None, ge=0, description="status: seconds in a Retry-After header.")
    seconds: float = Field(0.0, ge=0, le=600, description="How long it waits, in our seconds.")
    probability: float = Field(1.0, ge=0, le=1, description="Chance that a matching request is struck.")
    seed: int = Field(0, description="Of the chance.")
    skip: int = Field(0, ge=0, description="How many matching requests are let through first.")
    times: int | None = Field(1, ge=1, description="How many requests it strikes; None: without end.")
    per_path: bool = Field(False, description="Count skip and times for each path by itself.")
    fired: int = Field(0, ge=0, description="How many requests it has struck; kept by the sandbox.")


class Faults:
    """The faults that were set, in their order."""

    def __init__(self) -> None:
        self._rules: dict[str, _Rule] = {}
        self._numbers = itertools.count(1)

    def add(self, fault: Fault) -> Fault:
        """Set a fault and give it an id."""
        fault = fault.model_copy(update={"id": f"fault-{next(self._numbers)}", "fired": 0})
        self._rules[fault.id] = _Rule(fault)
        return fault

    def remove(self, fault_id: str | None = None) -> None:
        """Forget one, or all."""
        for known in [fault_id] if fault_id else list(self._rules):
            self._rules.pop(known, None)

    def all(self) -> list[Fault]:
        """Those that were set, with how often each has struck."""
        return [rule.fault for rule in self._rules.values()]

    def draw(self, provider: str, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if one does."""
        return next((rule.fault for rule in self._rules.values() if rule.strikes(provider, method, path)), None)


class _Rule:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._chance = random.Random(fault.seed)  # noqa: S311
        self._seen, self._struck = Counter[str](), Counter[str]()

    def strikes(self, provider: str, method: str, path: str) -> bool:
        fault = self.fault
        patterns = ((provider, fault.provider), (method, fault.method), (path, fault.path))
        if not all(fnmatchcase(value, pattern) for value, pattern in patterns):
            return False
        key = path if fault.per_path else ""
        self._seen[key] += 1
        if self._seen[key] <= fault.skip or (fault.times is not None and self._struck[key] >= fault.times):
            return False
        if self._chance.random() >= fault.probability:
            return False
        self._struck[key] += 1
        self.fault = fault.model_copy(update={"fired": fault.fired + 1})
        return True
