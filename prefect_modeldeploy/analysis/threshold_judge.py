"""A judge that goes by threshold rules. Same manners as `Judge`: windows in, verdicts out, state in between."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.expressions import Condition, Value
from prefect_modeldeploy.analysis.gathered import facts_about, read_arm, slim, write_arm
from prefect_modeldeploy.analysis.memory import Memory
from prefect_modeldeploy.analysis.rules import fingerprint, given
from prefect_modeldeploy.analysis.split import SplitCheck
from prefect_modeldeploy.analysis.thresholds import Counts, Phase, Rule, assess, combine, due_in, measure, single_value
from prefect_modeldeploy.analysis.verdict import Decision, Verdict
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Arm, Window

SCHEMA = 1


class ThresholdJudge:
    """Decides about one rollout by rules.

    A failed rule rolls back; when all rules that have an end are successful, the canary is promoted. Inconclusive rules
    and errors decide nothing: the verdict says so, and the rollout's deadline or a person decides.

    Args:
        rules: At least one; rules with the same interval and delay are measured together.
        canary_share: Share that the router is asked for, for windows that do not say it themselves.
        split_tolerance: Relative error of the smaller arm's share that is no alarm.
    """

    def __init__(
        self, rules: Sequence[Rule], *, canary_share: float | None = None, split_tolerance: float = 0.05
    ) -> None:
        names = [rule.name for rule in rules]
        if not names or len(set(names)) < len(names):
            raise InvalidInput("rules", names, "at least one rule is needed, and each needs a name of its own")
        self._watched = [_Watched(rule) for rule in rules]
        self._gathered = {_rhythm(rule): (Arm(0, 0), Arm(0, 0)) for rule in rules}
        self._share = canary_share
        self._split, self._memory = SplitCheck(split_tolerance), Memory()
        self._seconds, self._windows, self._canary_requests = 0.0, 0, 0

    def observe(self, window: Window, values: Mapping[str, Sequence[float]] | None = None) -> Verdict:
        """Count one closed window.

        Args:
            window: What both arms experienced.
            values: Answers of further queries, by name: conditions know them by these names. An empty answer is no
                data.
        """
        if not self._memory.add(window.id):
            return self.verdict()
        self._windows += 1
        self._seconds += window.seconds
        self._canary_requests += window.canary.requests
        share = self._share if window.share is None else window.share
        self._split.observe(share, window.canary.requests, window.baseline.requests, window.seconds)
        for rhythm, (canary, baseline) in self._gathered.items():
            self._gathered[rhythm] = (canary + slim(window.canary), baseline + slim(window.baseline))
        if not self._split.failed:
            self._measure({name: single_value(name, value) for name, value in (values or {}).items()})
        return self.verdict()

    def _measure(self, values: Mapping[str, Value]) -> None:
        if self._halted:
            return
        measured = set()
        for watched in self._watched:
            rhythm = _rhythm(watched.rule)
            if watched.due(self._seconds):
                watched.measure({**facts_about(*self._gathered[rhythm]), **values}, self._seconds)
                measured.add(rhythm)
        for rhythm in measured:
            self._gathered[rhythm] = (Arm(0, 0), Arm(0, 0))

    @property
    def _halted(self) -> bool:
        """True once a rule has ended without success: nothing is measured after that."""
        phases = (assess(w.rule, w.counts)[0] for w in self._watched if not w.rule.dry_run)
        return any(phase.completed and phase is not Phase.SUCCESSFUL for phase in phases)

    def verdict(self, *, terminating: bool = False) -> Verdict:
        """The verdict so far. `terminating`: all steps are over; rules without an end count as successful."""
        decision, decided_by, reason = self._decide(terminating)
        return Verdict(
            decision=decision,
            reason=reason,
            harm={},
            safe={},
            forecast_seconds=None,
            split_ok=not self._split.failed,
            decided_by=decided_by,
            windows=self._windows,
            seconds=self._seconds,
            canary_requests=self._canary_requests,
            split_evidence=self._split.log_evidence,
        )

    def _decide(self, terminating: bool) -> tuple[Decision, str | None, str]:
        deciding = [watched for watched in self._watched if not watched.rule.dry_run]
        terminating = terminating or self._halted
        ending = [w for w in deciding if terminating or w.rule.wanted is not None or w.rule.consecutive_success_limit]
        phases = {w.rule.name: assess(w.rule, w.counts, terminating=terminating) for w in ending}
        overall = combine([phase for phase, _ in phases.values()])
        if self._split.failed and overall is not Phase.FAILED:
            asked, seen = self._split.observed or (0.0, 0.0)
            return "continue", None, f"the router was asked for {asked:.2%} and sends {seen:.2%}: not judged any more"
        if overall is Phase.RUNNING:
            return "continue", None, "the rules are not through with their measurements yet"
        name = next(name for name, (phase, _) in phases.items() if phase is overall)
        reason = f'rule "{name}" is {overall.value.lower()}: {phases[name][1]}'
        if overall is Phase.FAILED:
            return "roll_back", name, reason
        if overall is Phase.SUCCESSFUL:
            return "promote", name, "all rules are successful"
        return "continue", name, reason

    @property
    def phases(self) -> dict[str, tuple[Phase, str]]:
        """Where each rule stands and why, those of the dry run included."""
        return {watched.rule.name: assess(watched.rule, watched.counts) for watched in self._watched}

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as JSON types; under 2 kB with eight rules of one rhythm."""
        writer = Writer()
        writer.double(self._seconds)
        writer.counts((self._windows, self._canary_requests))
        self._split.write(writer)
        for watched in self._watched:
            watched.write(writer)
        for arms in self._gathered.values():
            for arm in arms:
                write_arm(writer, arm)
        return {"schema": SCHEMA, "rules": self._fingerprint, "ids": self._memory.text, "judge": writer.text()}

    @property
    def _fingerprint(self) -> str:
        return fingerprint(given(watched.rule) for watched in self._watched)

    @classmethod
    def restore(
        cls,
        rules: Sequence[Rule],
        state: Mapping[str, Any],
        *,
        canary_share: float | None = None,
        split_tolerance: float = 0.05,
    ) -> Self:
        """Go on where a judge with the same rules stood.

        Raises:
            InvalidInput: The state is of another schema, of other rules, or damaged.
        """
        judge = cls(rules, canary_share=canary_share, split_tolerance=split_tolerance)
        if state.get("schema") != SCHEMA or state.get("rules") != judge._fingerprint:
            raise InvalidInput("state", state.get("rules"), "it is of other rules or another version: start anew")
        try:
            reader = Reader(state["judge"])
            judge._seconds = reader.double()
            judge._windows, judge._canary_requests = reader.counts(2)
            judge._split.read(reader)
            for watched in judge._watched:
                watched.read(reader)
            for rhythm in judge._gathered:
                judge._gathered[rhythm] = (read_arm(reader), read_arm(reader))
            reader.end()
            judge._memory = Memory(state["ids"])
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInput("state", type(error).__name__, f"the saved state is damaged ({error})") from error
        return judge


class _Watched:
    """A rule, its counts, and when it was measured last."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.counts = rule, Counts()
        self._success = Condition(rule.success) if rule.success else None
        self._failure = Condition(rule.failure) if rule.failure else None
        self._last: float | None = None

    def due(self, now: float) -> bool:
        since = None if self._last is None else now - self._last
        return due_in(self.rule, self.counts, started=now, last=since) == 0.0

    def measure(self, facts: Mapping[str, Value], now: float) -> None:
        phase, _ = measure(self._success, self._failure, facts)
        self.counts, self._last = self.counts.add(phase), now

    def write(self, writer: Writer) -> None:
        c = self.counts
        writer.counts((c.count, c.successful, c.failed, c.inconclusive, c.error))
        writer.counts((c.consecutive_success, c.consecutive_error))
        writer.double(-1.0 if self._last is None else self._last)

    def read(self, reader: Reader) -> None:
        self.counts = Counts(*reader.counts(7))
        last = reader.double()
        self._last = None if last < 0.0 else last


def _rhythm(rule: Rule) -> tuple[float, float]:
    return rule.initial_delay_seconds, rule.interval_seconds
