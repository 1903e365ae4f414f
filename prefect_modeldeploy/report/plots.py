"""Four plots over time, as SVG: weights, error rate, latency and evidence.

Drawn for a page 700 pixels wide, on white, in colours that people with colour blindness can tell apart. The same
record and points give the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_modeldeploy.report import canvas, series, words
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point

_DASHES = ("-", "--", "-.", ":")
_VERTICES = 1_500  # of all lines of evidence: keeps the SVG under 60 kB


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing: its title, what it shows for people who do not see it, and an `<svg>` element."""

    title: str
    description: str
    svg: str


def plots(record: RolloutRecord, points: Sequence[Point]) -> list[Plot]:
    """The four plots of a rollout; none if nothing was measured."""
    measured = series.in_order(points)
    if not measured:
        return []
    with canvas.style():
        return [draw(record, measured) for draw in (_weights, _errors, _latency, _evidence)]


def _weights(record: RolloutRecord, points: Sequence[Point]) -> Plot:
    title = "Share of the canary"
    figure, (axes,) = canvas.page(1)
    xs, ys = series.weights(points)
    axes.fill_between(xs, ys, color=canvas.CANARY, alpha=0.15, linewidth=0)
    axes.plot(xs, ys, color=canvas.CANARY, label="asked for")
    got = series.staircase(series.observed_share(points, series.extent(record, points)), lambda s: s.rate)
    axes.plot(*got, color=canvas.INK, linewidth=1.0, linestyle=(0, (1, 1.5)), label="observed")
    axes.set_ylim(0, 106)
    axes.set_yticks([0, 25, 50, 75, 100])
    canvas.percent_scale(axes)
    canvas.legend(axes)
    canvas.finish(axes, record, points, title, "")
    most = words.share(max(p.weight for p in points))
    return Plot(title, f"{title} over time; at most {most} were asked for.", canvas.svg(figure, title))


def _errors(record: RolloutRecord, points: Sequence[Point]) -> Plot:
    title, said, drawn = "Error rate", [], list[float]()
    figure, (axes,) = canvas.page(1)
    for name, colour, runs in _arms(record, points):
        axes.plot(*series.staircase(runs, lambda s: s.rate), color=colour, label=name, clip_on=False)
        stretches = [stretch for run in runs for stretch in run]
        drawn += [s.rate for s in stretches]
        said.append(f"{name} {words.failed(sum(s.hits for s in stretches), sum(s.requests for s in stretches))}")
    top = min(106.0, max(1.0, max(drawn, default=0.0) * 1.15))
    axes.set_ylim(-0.03 * top, top)  # no failures is a line that can be seen
    canvas.percent_scale(axes)
    canvas.legend(axes)
    canvas.finish(axes, record, points, title, "" if drawn else "No requests")
    return Plot(title, f"{title} of both arms over time. In all: {', '.join(said)}.", canvas.svg(figure, title))


def _latency(record: RolloutRecord, points: Sequence[Point]) -> Plot:
    title, drawn = "Latency", list[float]()
    figure, (axes,) = canvas.page(1)
    for name, colour, runs in _arms(record, points):
        median = series.staircase(runs, lambda s: s.p50)
        tail = series.staircase(runs, lambda s: s.p99)
        axes.plot(*median, color=colour, label=f"{name} p50")
        axes.plot(*tail, color=colour, linestyle=(0, (4, 2)), label=f"{name} p99")
        drawn += [y for y in (*median[1], *tail[1]) if y > 0]
    low, high = min(drawn, default=1e-3), max(drawn, default=1e-3)
    canvas.latency_scale(axes, low, high)
    canvas.legend(axes)
    canvas.finish(axes, record, points, title, "" if drawn else "No requests")
    between = f"between {words.latency(low)} and {words.latency(high)}" if drawn else "no requests"
    description = f"{title} of both arms over time, median and 99th percentile: {between}."
    return Plot(title, description, canvas.svg(figure, title))


def _evidence(record: RolloutRecord, points: Sequence[Point]) -> Plot:
    limits, weights = words.thresholds(record), words.weights(record)
    metrics = sorted({name for p in points for name in (*p.harm, *p.safe)})
    harm = f"Evidence of harm: roll back at {limits['harm']:.4g}"
    safe = f"Evidence of safety: promote at {limits['safe']:.4g}"
    if len(metrics) > 1:
        harm, safe = f"{harm} on average", f"{safe} in every metric"
    figure, (upper, lower) = canvas.page(2, legend_rows=math.ceil((len(metrics) + 1) / 4))
    most = max(24, _VERTICES // (2 * len(metrics) + 1))
    xs = [p.at for p in points]
    dot = "o" if len(xs) == 1 else ""  # a line of one point is invisible
    for axes, title, limit, found in (
        (upper, harm, limits["harm"], [p.harm for p in points]),
        (lower, safe, limits["safe"], [p.safe for p in points]),
    ):
        lines = [[_drawable(evidence.get(name), limit) for evidence in found] for name in metrics]
        for index, (name, ys) in enumerate(zip(metrics, lines, strict=True)):
            colour = canvas.METRICS[index % len(canvas.METRICS)]
            dashes = _DASHES[index // len(canvas.METRICS) % len(_DASHES)]
            axes.plot(
                *series.thinned(xs, ys, most),
                color=colour,
                linestyle=dashes,
                marker=dot,
                clip_on=False,
                label=words.metric(name),
            )
        if axes is upper and len(metrics) > 1:
            mean = [_drawable(series.log_total(evidence, weights), limit) for evidence in found]
            axes.plot(
                *series.thinned(xs, mean, most),
                color=canvas.INK,
                linewidth=2.0,
                marker=dot,
                clip_on=False,
                label="weighted average",
            )
        drawn = [y for line in lines for y in line if math.isfinite(y)]
        canvas.evidence_scale(axes, drawn, limit)
        canvas.finish(axes, record, points, title, "" if drawn else "No evidence")
    upper.tick_params(labelbottom=False)
    upper.set_xlabel("")
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, borderaxespad=0.2)
    return Plot("Evidence", f"{harm}. {safe}.", canvas.svg(figure, "Evidence"))


def _arms(
    record: RolloutRecord, points: Sequence[Point]
) -> list[tuple[series.ArmName, str, list[list[series.Stretch]]]]:
    seconds = series.extent(record, points)
    return [
        ("stable", canvas.STABLE, series.experienced(points, "stable", seconds)),
        ("canary", canvas.CANARY, series.experienced(points, "canary", seconds)),
    ]


def _drawable(log: float | None, limit: float) -> float:
    """Evidence from its logarithm, cut to what the plot shows; NaN where there is none."""
    if log is None or math.isnan(log):
        return math.nan
    return math.exp(min(max(log, math.log(canvas.LOWEST)), math.log(max(canvas.HIGHEST, 10 * limit))))
