"""What came of the demo: the expectations, the closing table, the object that `--json` prints."""

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from prefect_modeldeploy.rollout import RolloutRecord

BROKEN = "3"
"""The only version that may fail requests, and only as the canary."""


@dataclass
class Outcome:
    """What happened, and whether it was what should happen."""

    started: float = field(default_factory=time.monotonic)
    rollouts: list["RolloutRecord"] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)
    wake_seconds: float | None = None
    replicas_at_zero: int | None = None
    report: str | None = None
    unmet: list[str] = field(default_factory=list)

    def expect(self, held: bool, what: str) -> None:
        """Note an expectation that did not hold."""
        if not held:
            self.unmet.append(what)

    def expect_of_requests(self) -> None:
        """No request was lost, and none failed but by the broken version while it was the canary."""
        self.expect(self.requests["lost"] == 0, f"{self.requests['lost']} requests were lost")
        broken_failed = 0
        for by in self.requests["served"]:
            if (by["arm"], by["version"]) == ("canary", BROKEN):
                broken_failed = by["failed"]
            else:
                failed = f"version {by['version']} failed {by['failed']} requests as {by['arm']}"
                self.expect(by["failed"] == 0, failed)
        self.expect(broken_failed > 0, "the broken version never failed a request")

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "ok": not self.unmet,
            "seconds": round(time.monotonic() - self.started, 1),
            "rollouts": [
                {
                    "version": record.canary_version,
                    "outcome": record.outcome,
                    "seconds": round(record.seconds or 0.0, 1),
                    "decided_by": record.decided_by,
                }
                for record in self.rollouts
            ],
            "requests": {
                **{key: self.requests.get(key, 0) for key in ("sent", "answered", "failed_by_model", "lost")},
                "by_arm": self.requests.get("by_arm", {}),
            },
            "wake_seconds": self.wake_seconds,
            "report": self.report,
            "unmet": self.unmet,
        }


def conclude(outcome: Outcome, console: Console, *, as_json: bool) -> int:
    """Print what happened; returns the exit code: 0 only if every expectation held."""
    if outcome.rollouts:
        console.print(_closing(outcome))
    if outcome.requests:
        console.print(_requests(outcome.requests))
    if outcome.report:
        console.print(f"report of the last rollout: {outcome.report}", soft_wrap=True, highlight=False, markup=False)
    for unmet in outcome.unmet:
        console.print(Text.assemble(("not as expected: ", "bold red"), unmet), soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(outcome.as_json()) + "\n")
    return 1 if outcome.unmet else 0


def served_by(requests: dict[str, Any], version: str) -> Counter[str]:
    """What a version did, whichever arm it was: requests `answered`, `wrong` among them, and `failed`."""
    did = Counter[str]()
    for by in requests["served"]:
        if by["version"] == version:
            did.update({key: by[key] for key in ("answered", "wrong", "failed")})
    return did


def _closing(outcome: Outcome) -> Table:
    table = Table(title="What happened", show_header=True)
    for column in ("", "outcome", "seconds", "decided by"):
        table.add_column(column)
    for record in outcome.rollouts:
        seconds = f"{record.seconds:.1f}" if record.seconds is not None else ""
        words = str(record.outcome).replace("_", " ")
        table.add_row(f"rollout of version {record.canary_version}", words, seconds, record.decided_by or "")
    if outcome.wake_seconds is not None:
        table.add_row("wake from zero", "answered", f"{outcome.wake_seconds:.2f}", "")
    return table


def _requests(requests: dict[str, Any]) -> Table:
    table = Table("version", "as", title=f"{requests['sent']} requests sent, {requests['lost']} lost")
    for column in ("answered", "of them wrong", "failed"):
        table.add_column(column, justify="right")
    for by in sorted(requests["served"], key=lambda by: (by["version"], by["arm"])):
        wrong = f"{by['wrong'] / by['answered']:.1%}" if by["answered"] else ""
        table.add_row(by["version"], by["arm"], str(by["answered"]), wrong, str(by["failed"]))
    return table
