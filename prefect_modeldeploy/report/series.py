"""From windows to lines that can be drawn: merged where they hold few requests, cut where there is no data, thinned."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import ArmPoint, Point

ArmName = Literal["canary", "stable"]
Line = tuple[list[float], list[float]]

FEWEST, ENOUGH = 20, 300
"""Requests that a stretch should hold, if an arm had few or many in all: with fewer, each failure is a spike."""
MOST = 120
"""Stretches that a line may have: more are not visible at 700 pixels."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One or several windows in a row, at the same weight, seen as one. Times in seconds since the start."""

    start: float
    end: float
    weight: float
    requests: int
    hits: int
    """Those of the requests that count: failures of the arm, or requests that the canary got."""
    p50: float | None = None
    p99: float | None = None

    @property
    def rate(self) -> float:
        """Share of the requests that count, in percent."""
        return 100 * self.hits / self.requests


def in_order(points: Iterable[Point]) -> list[Point]:
    """The points by time; values that are not numbers cannot be drawn."""
    return sorted((p for p in points if math.isfinite(p.at) and math.isfinite(p.seconds)), key=lambda p: p.at)


def extent(record: RolloutRecord, points: Sequence[Point]) -> float:
    """How many seconds the plots cover."""
    return max(record.seconds or 0.0, points[-1].at if points else 0.0) or 1.0


def experienced(points: Sequence[Point], name: ArmName, seconds: float) -> list[list[Stretch]]:
    """What one arm experienced, as runs of stretches; between two runs there is no data."""
    found = []
    for p in points:
        arm: ArmPoint = p.canary if name == "canary" else p.stable
        found.append(Stretch(p.at - p.seconds, p.at, p.weight, arm.requests, arm.failures, arm.p50, arm.p99))
    return _runs(found, seconds)


def observed_share(points: Sequence[Point], seconds: float) -> list[list[Stretch]]:
    """Share of the requests that the canary really got."""
    both = [
        Stretch(p.at - p.seconds, p.at, p.weight, p.canary.requests + p.stable.requests, p.canary.requests)
        for p in points
    ]
    return _runs(both, seconds)


def staircase(runs: Sequence[Sequence[Stretch]], value: Callable[[Stretch], float | None]) -> Line:
    """Runs as a line of level pieces; NaN breaks it where there is no data."""
    xs: list[float] = []
    ys: list[float] = []
    for run in runs:
        if xs:
            xs.append(run[0].start)
            ys.append(math.nan)
        for stretch in run:
            level = value(stretch)
            xs += [stretch.start, stretch.end]
            ys += [math.nan if level is None else level] * 2
    return xs, ys


def weights(points: Sequence[Point]) -> Line:
    """The weight that was asked for, as a staircase that breaks where nobody looked."""
    levels: list[list[Stretch]] = []
    for p in points:
        now = Stretch(p.at - p.seconds, p.at, p.weight, 1, 0)
        last = levels[-1][-1] if levels else None
        if last is None or now.start - last.end > max(3 * p.seconds, 1.0):
            levels.append([now])
        elif last.weight == now.weight:
            levels[-1][-1] = replace(last, end=now.end)
        else:
            levels[-1].append(replace(now, start=last.end))
    return staircase(levels, lambda stretch: stretch.weight)


def boundaries(points: Sequence[Point]) -> list[float]:
    """When the weight changed, in seconds since the start."""
    return [before.at for before, after in pairwise(points) if after.weight != before.weight][:MOST]


def verdict_at(record: RolloutRecord, points: Sequence[Point]) -> float | None:
    """When the verdict fell: the end of the last window at the last judged weight. None while it is open."""
    if record.outcome is None or not points:
        return None
    judged = [step.weight for step in record.steps if step.step >= 0]
    ends = [p.at for p in points if judged and p.weight == judged[-1]]
    return ends[-1] if ends else points[-1].at


def thinned(xs: Sequence[float], ys: Sequence[float], most: int) -> Line:
    """At most about `most` vertices: the lowest and the highest of each bucket, so that no peak is lost."""
    if len(xs) <= most:
        return list(xs), list(ys)
    size = math.ceil(2 * len(xs) / most)
    kept: set[int] = {0, len(xs) - 1}
    for first in range(0, len(xs), size):
        bucket = [i for i in range(first, min(first + size, len(xs))) if not math.isnan(ys[i])]
        kept |= {min(bucket, key=ys.__getitem__), max(bucket, key=ys.__getitem__)} if bucket else {first}
    order = sorted(kept)
    return [xs[i] for i in order], [ys[i] for i in order]


def _runs(windows: Sequence[Stretch], seconds: float) -> list[list[Stretch]]:
    """Windows with requests, in runs, each run merged. Silence is a gap when it is too long to be chance."""
    busy = [window for window in windows if window.requests > 0]
    if not busy:
        return []
    between = sum(w.end - w.start for w in windows) / sum(w.requests for w in busy)
    silence = max(seconds / 20, 5 * between)  # chance is silent for 5 mean gaps once in 150 times
    runs: list[list[Stretch]] = [[busy[0]]]
    for window in busy[1:]:
        if window.start - runs[-1][-1].end > silence:
            runs.append([window])
        else:
            runs[-1].append(window)
    fewest = min(max(sum(w.requests for w in busy) / 12, FEWEST), ENOUGH)
    return [_merged(run, lambda s: s.requests < fewest or s.end - s.start < seconds / MOST) for run in runs]


def _merged(run: Sequence[Stretch], small: Callable[[Stretch], bool]) -> list[Stretch]:
    """Neighbours at the same weight become one until they hold enough requests and last long enough."""
    merged = [run[0]]
    for window in run[1:]:
        last = merged[-1]
        if window.weight == last.weight and small(last):
            merged[-1] = _joined(last, window)
        else:
            merged.append(window)
            _fold_small_tail(merged, len(merged) - 2, small)
    _fold_small_tail(merged, len(merged) - 1, small)
    return merged


def _fold_small_tail(merged: list[Stretch], index: int, small: Callable[[Stretch], bool]) -> None:
    """The rest of a step that is too small to stand alone goes to the stretch before it."""
    if index > 0 and merged[index - 1].weight == merged[index].weight and small(merged[index]):
        merged[index - 1 : index + 1] = [_joined(merged[index - 1], merged[index])]


def _joined(a: Stretch, b: Stretch) -> Stretch:
    return Stretch(
        a.start,
        b.end,
        a.weight,
        a.requests + b.requests,
        a.hits + b.hits,
        _mean(a.p50, a.requests, b.p50, b.requests),
        _mean(a.p99, a.requests, b.p99, b.requests),
    )


def _mean(a: float | None, n: int, b: float | None, m: int) -> float | None:
    """Mean of two quantiles by requests: the quantile of both is not known without their histograms."""
    if a is None or b is None:
        return b if a is None else a
    return (a * n + b * m) / (n + m)
