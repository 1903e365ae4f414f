"""From windows to lines that can be drawn: merged where they hold few requests, cut where there is no data, thinned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Literal

from prefect_modeldeploy.report import words
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
    """The points by time, their weights in the steps of 0.01 that weights have (a share times 100 is not exact)."""
    exact = (
        p if round(p.weight, 2) == p.weight else p.model_copy(update={"weight": round(p.weight, 2)}) for p in points
    )
    return sorted(exact, key=lambda p: p.at)


def log_total(logs: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """ln of the weighted average of evidence given as logarithms, by metric; None without any."""
    known = {name: log for name, log in logs.items() if not math.isnan(log)}
    top = max(known.values(), default=None)
    if top is None or math.isinf(top):
        return top
    total = sum(weights.get(name, 1.0) for name in known)
    return top + math.log(sum(weights.get(name, 1.0) * math.exp(log - top) for name, log in known.items()) / total)


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
        starts = [stretch.start for stretch in run]
        for stretch, end in zip(run, [*starts[1:], run[-1].end], strict=True):
            level = value(stretch)
            xs += [stretch.start, end]
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
    """When the last step was judged; else the end of the last window at its weight. None while the rollout is open."""
    if record.outcome is None or not points:
        return None
    late = record.outcome != "promoted"  # a promotion is decided before the bake, which can only undo it
    judged = [step for step in record.steps if late or not words.baking(record, step)]
    if judged and judged[-1].at is not None:
        return judged[-1].at  # windows may end earlier, when nobody calls, or later, while a person is asked
    ends = [p.at for p in points if judged and p.weight == judged[-1].weight]
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
    total = sum(window.requests for window in busy)
    between = sum(window.end - window.start for window in windows) / total
    silence = max(seconds / 20, 5 * between)  # chance is silent for 5 mean gaps once in 150 times
    runs: list[list[Stretch]] = [[busy[0]]]
    for window in busy[1:]:
        if window.start - runs[-1][-1].end > silence:
            runs.append([window])
        else:
            runs[-1].append(window)
    fewest = min(max(total / 12, FEWEST), ENOUGH)
    return [_merged(run, fewest, seconds / MOST) for run in runs]


def _merged(run: Sequence[Stretch], fewest: float, shortest: float) -> list[Stretch]:
    """Neighbours at the same weight become one until they hold enough requests and last long enough.

    What is left of a step at its end, too small to stand alone, goes to the stretch before it.
    """
    stretches: list[Stretch] = []
    for _, step in groupby(run, key=lambda window: window.weight):
        groups: list[list[Stretch]] = []
        full, requests = True, 0
        for window in step:
            if full:
                groups.append([])
                requests = 0
            groups[-1].append(window)
            requests += window.requests
            full = requests >= fewest and window.end - groups[-1][0].start >= shortest
        if not full and len(groups) > 1:
            groups[-2:] = [groups[-2] + groups[-1]]
        stretches += [_joined(group) for group in groups]
    return stretches


def _joined(group: Sequence[Stretch]) -> Stretch:
    requests = sum(window.requests for window in group)
    return Stretch(
        group[0].start,
        group[-1].end,
        group[0].weight,
        requests,
        sum(window.hits for window in group),
        _quantile([(w.p50, w.requests) for w in group if w.p50 is not None], 0.5),
        _quantile([(w.p99, w.requests) for w in group if w.p99 is not None], 0.99 ** min(requests / len(group), 69)),
    )


def _quantile(values: Sequence[tuple[float, int]], level: float) -> float | None:
    """The level-quantile of values that stand for so many requests each.

    The p99 of few requests is their maximum, and the maximum of n is below the true p99 in 0.99^n of the windows: so
    that quantile of the maxima estimates it. From 69 requests a window on this is the median of the windows.
    """
    rank, seen = level * sum(requests for _, requests in values), 0
    for value, requests in sorted(values):
        seen += requests
        if seen >= rank:
            return value
    return None
