"""Threshold rules, for people who want them, with the counter semantics of Argo Rollouts' analysis.

Every `interval_seconds` the windows since the last measurement are added up and a rule's two conditions are asked:
that is a *measurement*. A rule counts its measurements and is judged by the counts:

    Failed          more failures than `failure_limit`
    Inconclusive    more inconclusive measurements than `inconclusive_limit`
    Error           more errors in a row than `consecutive_error_limit`
    Successful      `count` measurements were made, or `consecutive_success_limit` successes came in a row

The rules were read from the tests of argo-rollouts at commit 9f8d111d (`analysis/analysis_test.go`). One thing
differs: where Argo asks the author to handle missing data, here no data makes a measurement inconclusive.

Thresholds have no guarantee: they are blind below their limit, and fire on incidents that hit both arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from prefect_modeldeploy.analysis.expressions import Condition, ConditionError, Facts, NoData
from prefect_modeldeploy.errors import InvalidInput


class Phase(StrEnum):
    """Where a measurement, a rule, or all the rules together stand."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"

    @property
    def completed(self) -> bool:
        """True when it will not change any more."""
        return self not in (Phase.PENDING, Phase.RUNNING)


_WORST_LAST = (Phase.SUCCESSFUL, Phase.INCONCLUSIVE, Phase.ERROR, Phase.FAILED)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One threshold rule.

    Args:
        name: What the verdict calls it.
        success: Condition of a good measurement; empty: whatever is not a failure.
        failure: Condition of a bad one; empty: whatever is not a success. See `expressions.py` for the language.
        failure_limit: Failures that are tolerated, in all. -1 (only with `consecutive_success_limit`): any number.
        inconclusive_limit: Inconclusive measurements that are tolerated, in all.
        consecutive_error_limit: Errors in a row that are tolerated.
        consecutive_success_limit: So many successes in a row are a success. 0: not asked for.
        count: So many measurements are made. 0: one without an interval, else no end of them.
        interval_seconds: Seconds between measurements. 0: a single measurement, unless `count` says more.
        initial_delay_seconds: Seconds before the first one.
        dry_run: Measure and report, but decide nothing by it.
    """

    name: str
    success: str = ""
    failure: str = ""
    failure_limit: int = 0
    inconclusive_limit: int = 0
    consecutive_error_limit: int = 4
    consecutive_success_limit: int = 0
    count: int = 0
    interval_seconds: float = 0.0
    initial_delay_seconds: float = 0.0
    dry_run: bool = False

    def __post_init__(self) -> None:
        lowest = -1 if self.consecutive_success_limit else 0
        if self.failure_limit < lowest:
            hint = "must be at least 0, or -1 with a consecutive_success_limit"
            raise InvalidInput(f"{self.name}.failure_limit", self.failure_limit, hint)
        for field in ("inconclusive_limit", "consecutive_error_limit", "consecutive_success_limit", "count"):
            if getattr(self, field) < 0:
                raise InvalidInput(f"{self.name}.{field}", getattr(self, field), "must not be negative")
        for field in ("interval_seconds", "initial_delay_seconds"):
            if not getattr(self, field) >= 0:
                raise InvalidInput(f"{self.name}.{field}", getattr(self, field), "must not be negative")

    @property
    def wanted(self) -> int | None:
        """How many measurements are wanted; None: until something is decided."""
        return self.count or (None if self.interval_seconds else 1)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a rule's measurements were so far."""

    count: int = 0
    successful: int = 0
    failed: int = 0
    inconclusive: int = 0
    error: int = 0
    consecutive_success: int = 0
    consecutive_error: int = 0

    def add(self, phase: Phase) -> "Counts":
        """Count one more measurement. Errors do not count as measurements that were wanted."""
        good, bad = phase is Phase.SUCCESSFUL, phase is Phase.ERROR
        return replace(
            self,
            count=self.count + (not bad),
            successful=self.successful + good,
            failed=self.failed + (phase is Phase.FAILED),
            inconclusive=self.inconclusive + (phase is Phase.INCONCLUSIVE),
            error=self.error + bad,
            consecutive_success=self.consecutive_success + 1 if good else 0,
            consecutive_error=self.consecutive_error + 1 if bad else 0,
        )

    @property
    def measured(self) -> bool:
        """True after the first measurement, whatever came of it."""
        return self.count + self.error + self.consecutive_error > 0


def measure(success: Condition | None, failure: Condition | None, facts: Facts) -> tuple[Phase, str]:
    """One measurement, and what is to be said about it."""
    try:
        good = None if success is None else success(facts)
        bad = None if failure is None else failure(facts)
    except NoData as missing:
        return Phase.INCONCLUSIVE, f"no data: {missing}"
    except ConditionError as error:
        return Phase.ERROR, str(error)
    if bad:
        return Phase.FAILED, ""
    if good or (good is None and bad is False) or (good is None and bad is None):
        return Phase.SUCCESSFUL, ""
    return (Phase.INCONCLUSIVE, "neither condition holds") if bad is False else (Phase.FAILED, "")


def assess(rule: Rule, counts: Counts, *, terminating: bool = False) -> tuple[Phase, str]:
    """Where a rule stands, and why. `terminating`: no more measurements will come."""
    if not counts.measured:
        return (Phase.SUCCESSFUL if terminating else Phase.PENDING), ""
    if rule.failure_limit >= 0 and counts.failed > rule.failure_limit:
        return Phase.FAILED, f"failed ({counts.failed}) > failure_limit ({rule.failure_limit})"
    if counts.inconclusive > rule.inconclusive_limit:
        limit = rule.inconclusive_limit
        return Phase.INCONCLUSIVE, f"inconclusive ({counts.inconclusive}) > inconclusive_limit ({limit})"
    if counts.consecutive_error > rule.consecutive_error_limit:
        limit = rule.consecutive_error_limit
        return Phase.ERROR, f"errors in a row ({counts.consecutive_error}) > consecutive_error_limit ({limit})"
    asked = rule.consecutive_success_limit
    if asked and counts.consecutive_success >= asked:
        return Phase.SUCCESSFUL, f"{counts.consecutive_success} successes in a row"
    if rule.wanted is not None and counts.count >= rule.wanted:
        if not asked:
            return Phase.SUCCESSFUL, f"{counts.count} measurements"
        short = f"only {counts.consecutive_success} of {asked} successes in a row in {counts.count} measurements"
        return (Phase.FAILED if rule.failure_limit < 0 else Phase.INCONCLUSIVE), short
    return (Phase.SUCCESSFUL if terminating else Phase.RUNNING), ""


def combine(phases: Sequence[Phase]) -> Phase:
    """All the rules together: running until each has completed, then the worst of them."""
    if not phases or not all(phase.completed for phase in phases):
        return Phase.RUNNING
    return max(phases, key=_WORST_LAST.index)


def due_in(rule: Rule, counts: Counts, *, started: float, last: float | None) -> float | None:
    """Seconds until the next measurement is due (0: now); None if no more are wanted.

    Args:
        rule: The rule.
        counts: Its measurements so far.
        started: Seconds since the rules began to be watched.
        last: Seconds since the last measurement; None before the first.
    """
    if assess(rule, counts)[0].completed:
        return None
    if last is None:
        return max(0.0, rule.initial_delay_seconds - started)
    return max(0.0, rule.interval_seconds - last)


def next_due(waits: Mapping[str, float | None]) -> float | None:
    """Seconds until the first of several rules is due; None if none is."""
    return min((wait for wait in waits.values() if wait is not None), default=None)


def single_value(field: str, values: Sequence[float]) -> float | None:
    """The one number of a query's answer: None for an empty answer (no data), an error for several series.

    Raises:
        InvalidInput: There is more than one value: the query does not say which is meant.
    """
    if len(values) > 1:
        raise InvalidInput(field, list(values), "the query gave several series; make it give one")
    value = values[0] if values else None
    return None if value is None or value != value else float(value)
