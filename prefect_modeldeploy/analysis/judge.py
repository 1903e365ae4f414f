"""The judge: windows in, verdicts out (F3, F4). No clock, no I/O; the same windows give the same verdicts, bit for bit.

    roll_back   when the evidence of harm has ever reached 1/alpha. All metrics together: the weighted average of
                their e-processes, which is one itself under any dependence.
    promote     when every metric's evidence of safety is at 1/beta now (no correction is needed: all must hold),
                and the canary has answered `min_requests`.
    continue    otherwise: no data is never a verdict.

Ville's inequality bounds both errors over the whole rollout, however often one looks and however the shares change.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.evalue import log_sum
from prefect_modeldeploy.analysis.memory import Memory
from prefect_modeldeploy.analysis.metrics import Metric
from prefect_modeldeploy.analysis.portfolio import round_down
from prefect_modeldeploy.analysis.settings import JudgeSettings
from prefect_modeldeploy.analysis.split import SplitCheck
from prefect_modeldeploy.analysis.tracker import Tracker
from prefect_modeldeploy.analysis.verdict import Decision, Verdict
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Window

SCHEMA = 2

_SMOOTHING_SECONDS = 30.0


class _Entry:
    """One metric, its evidence now, and the most that the evidence ever was."""

    def __init__(self, metric: Metric, tracker: Tracker) -> None:
        self.metric, self.tracker = metric, tracker
        self.harm, self.safe = tracker.log_harm, tracker.log_safe
        self.best_harm = self.best_safe = 0.0

    def observe(self, window: Window) -> None:
        self.tracker.observe(window)
        self.harm, self.safe = self.tracker.log_harm, self.tracker.log_safe
        harm, safe = round_down((self.harm, self.safe))
        self.best_harm, self.best_safe = max(self.best_harm, harm), max(self.best_safe, safe)

    @property
    def counts_for_safety(self) -> bool:
        return self.metric.required or self.tracker.reading is not None

    def write(self, writer: Writer) -> None:
        writer.singles((self.best_harm, self.best_safe))
        self.tracker.write(writer)

    def read(self, reader: Reader) -> None:
        self.best_harm, self.best_safe = reader.singles(2)
        self.tracker.read(reader)
        self.harm, self.safe = self.tracker.log_harm, self.tracker.log_safe


class Judge:
    """Decides about one rollout. Feed it closed windows, in order; save `state()` after each.

    Evidence is carried over steps, pauses and restarts; a new attempt gets a new judge. A window whose id was among
    the last 64 counted is not counted again.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._entries = {m.name: _Entry(m, m.track(settings.margin, settings.history)) for m in settings.metrics}
        self._shared = [entry for entry in self._entries.values() if entry.metric.alpha is None]
        self._split = SplitCheck(settings.split_tolerance, settings.in_flight_seconds)
        self._memory = Memory()
        self._windows = self._canary_requests = 0
        self._seconds = self._best_total = 0.0
        self._traffic = (0.0, 0.0)  # requests a second on the canary and on the baseline, smoothed

    def observe(self, window: Window) -> Verdict:
        """Count one closed window and say what the evidence is now. The time it takes does not grow."""
        if not self._memory.add(window.id):
            return self.verdict()
        canary, baseline = window.canary.requests, window.baseline.requests
        self._windows += 1
        self._seconds += window.seconds
        self._canary_requests += canary
        self._smooth(canary, baseline, window.seconds)
        share = self.settings.canary_share if window.share is None else window.share
        self._split.observe(share, canary, baseline, window.seconds)
        if not self._split.failed:
            for entry in self._entries.values():
                entry.observe(window)
            self._best_total = max(self._best_total, round_down([self._harm_total])[0])
        return self.verdict()

    def verdict(self) -> Verdict:
        """The verdict on what has been counted so far."""
        decision, decided_by, reason = self._decide()
        entries = self._entries.items()
        late = self.settings.max_seconds is not None and self._seconds >= self.settings.max_seconds
        return Verdict(
            decision=decision,
            reason=reason,
            harm={name: entry.harm for name, entry in entries},
            safe={name: entry.safe for name, entry in entries},
            forecast_seconds=self._forecast() if decision == "continue" and not self._split.failed else None,
            split_ok=not self._split.failed,
            harm_total=self._harm_total,
            harm_limit=-math.log(self.settings.shared_alpha if self._shared else self.settings.alpha),
            safe_limit=-math.log(self.settings.beta),
            p_harm={name: math.exp(-entry.best_harm) for name, entry in entries},
            p_safe={name: math.exp(-entry.best_safe) for name, entry in entries},
            readings={name: reading for name, entry in entries if (reading := entry.tracker.reading)},
            decided_by=decided_by,
            windows=self._windows,
            seconds=self._seconds,
            canary_requests=self._canary_requests,
            split_evidence=self._split.log_evidence,
            expired=late and decision == "continue",
        )

    def _decide(self) -> tuple[Decision, str | None, str]:
        harmful = self._harmful()
        if harmful:
            return "roll_back", harmful.metric.name, f"{_describe(harmful)}; it is worse, p = {self._p(harmful):.2g}"
        if self._split.failed:
            asked, seen = self._split.observed or (0.0, 0.0)
            return "continue", None, f"the router was asked for {asked:.2%} and sends {seen:.2%}: not judged any more"
        waited_for = self._least_safe()
        if waited_for is None:
            return "continue", None, "no metric has data yet"
        name = waited_for.metric.name
        if waited_for.tracker.reading is None:
            return "continue", name, f"{name}: no data yet, so there is no verdict"
        if waited_for.safe < -math.log(self.settings.beta):
            odds = math.exp(waited_for.safe)
            needed = 1.0 / self.settings.beta
            return "continue", name, f"{_describe(waited_for)}; not proven safe yet ({odds:.2g} to 1 of {needed:.3g})"
        if self._canary_requests < self.settings.min_requests:
            missing = self.settings.min_requests - self._canary_requests
            return "continue", name, f"safe so far, but {missing} more canary requests are asked for"
        return "promote", name, f"{_describe(waited_for)}; proven not worse by the margin"

    def _harmful(self) -> _Entry | None:
        """The metric that the roll-back is due to; None if there is none."""
        for entry in self._entries.values():
            if entry.metric.alpha is not None and entry.best_harm >= -math.log(entry.metric.alpha):
                return entry
        if not self._shared or self._best_total < -math.log(self.settings.shared_alpha):
            return None
        return max(self._shared, key=lambda entry: math.log(entry.metric.weight) + entry.best_harm)

    def _p(self, entry: _Entry) -> float:
        return math.exp(-(self._best_total if entry.metric.alpha is None else entry.best_harm))

    def _least_safe(self) -> _Entry | None:
        counting = [entry for entry in self._entries.values() if entry.counts_for_safety]
        return min(counting, key=lambda entry: entry.safe, default=None)

    @property
    def _harm_total(self) -> float:
        if not self._shared:
            return 0.0
        weights = log_sum([math.log(entry.metric.weight) for entry in self._shared])
        return log_sum([math.log(entry.metric.weight) + entry.harm for entry in self._shared]) - weights

    def _smooth(self, canary: int, baseline: int, seconds: float) -> None:
        if seconds <= 0.0:
            return
        fresh = 1.0 if self._traffic == (0.0, 0.0) else -math.expm1(-seconds / _SMOOTHING_SECONDS)
        old_c, old_b = self._traffic
        self._traffic = (old_c + fresh * (canary / seconds - old_c), old_b + fresh * (baseline / seconds - old_b))

    def _forecast(self) -> float | None:
        """Seconds until the evidence reaches a limit, at the present rates and traffic (F11)."""
        to_promote = 0.0
        to_roll_back = math.inf
        for entry in self._entries.values():
            growth = entry.tracker.growth(*self._traffic)
            if entry.counts_for_safety:
                to_promote = max(to_promote, _time(-math.log(self.settings.beta) - entry.safe, growth.safe))
            to_roll_back = min(to_roll_back, _time(-math.log(self.settings.alpha) - entry.harm, growth.harm))
        more = self.settings.min_requests - self._canary_requests
        to_promote = max(to_promote, _time(more, self._traffic[0]))
        soonest = min(to_promote, to_roll_back)
        return soonest if self._windows and math.isfinite(soonest) else None

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as JSON types.

        Under 2 kB with eight metrics of different kinds. With a history a `Latency` of three thresholds takes about
        300 characters of it, a `Drift` 210, another metric 160 at most, and the rest 400.
        """
        writer = Writer()
        writer.counts((self._windows, self._canary_requests))
        for value in (self._seconds, *self._traffic):
            writer.double(value)
        writer.singles([self._best_total])
        self._split.write(writer)
        for entry in self._entries.values():
            entry.write(writer)
        fingerprint = self.settings.fingerprint
        return {"schema": SCHEMA, "settings": fingerprint, "ids": self._memory.text, "judge": writer.text()}

    @classmethod
    def restore(cls, settings: JudgeSettings, state: Mapping[str, Any]) -> Self:
        """Go on where a judge with the same settings stood.

        The history may be left out of the settings: the state has kept what it taught. A rule that is new in this
        version is taken for the same as long as it has its default; see `rules.py`.

        Raises:
            InvalidInput: The state is of another schema, of other settings, or damaged.
        """
        if state.get("schema") != SCHEMA:
            raise InvalidInput("state.schema", state.get("schema"), f"this version reads schema {SCHEMA}")
        if state.get("settings") != settings.fingerprint:
            raise InvalidInput(
                "state.settings", state.get("settings"), "evidence cannot go on under other settings: start a new judge"
            )
        judge = cls(settings)
        try:
            reader = Reader(state["judge"])
            judge._windows, judge._canary_requests = reader.counts(2)
            judge._seconds, *traffic = (reader.double() for _ in range(3))
            judge._traffic = (traffic[0], traffic[1])
            (judge._best_total,) = reader.singles(1)
            judge._split.read(reader)
            for entry in judge._entries.values():
                entry.read(reader)
            reader.end()
            judge._memory = Memory(state["ids"])
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInput("state", type(error).__name__, f"the saved state is damaged ({error})") from error
        return judge


def _time(missing: float, a_second: float) -> float:
    if missing <= 0.0:
        return 0.0
    return missing / a_second if a_second > 0.0 else math.inf


def _describe(entry: _Entry) -> str:
    reading, what = entry.tracker.reading, entry.tracker.what
    name = f"{entry.metric.name} ({what})" if what else entry.metric.name
    if reading is None:
        return name
    canary, baseline = (f"{x:.2%}" if entry.metric.shares else f"{x:.4g}" for x in reading)
    return f"{name}: canary {canary}, baseline {baseline}"
