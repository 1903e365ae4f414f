"""What all plots share: style, page, time axis, scales, and SVG that is small and the same every time.

matplotlib is imported when the first plot is drawn, not with this module: it takes most of a second.
"""

import io
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prefect_modeldeploy.report import series, words
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, GRID = "#ffffff", "#1f2328", "#636c76", "#dde1e6"
CANARY, STABLE = "#d55e00", "#0072b2"
METRICS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#7f5fb0", "#8c6d31")
"""Okabe and Ito's colours without yellow, and two that differ from them in lightness."""

LOWEST, HIGHEST = 1e-3, 1e6
"""Evidence beyond these is drawn at the edge (a threshold that is higher moves it)."""

# Inches. The same margins everywhere, so that a moment is at the same place in all plots.
_WIDTH, _LEFT, _RIGHT, _ABOVE, _BELOW, _PANEL, _GAP, _LEGEND_ROW = 7.0, 0.78, 0.16, 0.48, 0.46, 1.35, 0.16, 0.2

_FONTS = "'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"  # DejaVu is the widest: no other makes texts overlap
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.0,
    "text.parse_math": False,  # a `$` in a metric's name is a `$`
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
_style = threading.Lock()


@contextmanager
def style() -> Iterator[None]:
    """The report's look, whatever a user's own matplotlibrc says.

    matplotlib's settings belong to the process, so one thread at a time borrows them; they are given back unchanged.
    """
    import matplotlib

    with _style, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def page(panels: int, legend_rows: int = 0) -> tuple["Figure", list["Axes"]]:
    """A figure with panels one below the other, and room for what stands around them."""
    from matplotlib.figure import Figure

    foot = _BELOW + _LEGEND_ROW * legend_rows
    height = panels * (_PANEL + _ABOVE) + (panels - 1) * _GAP + foot
    figure = Figure(figsize=(_WIDTH, height), facecolor=PAPER)
    width = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
    bottoms = [foot + (panels - 1 - index) * (_PANEL + _ABOVE + _GAP) for index in range(panels)]
    return figure, [figure.add_axes((_LEFT / _WIDTH, bottom / height, width, _PANEL / height)) for bottom in bottoms]


def finish(axes: "Axes", record: RolloutRecord, points: Sequence[Point], title: str, empty: str) -> None:
    """Title, time axis, boundaries of the steps, the verdict; `empty` says that nothing was drawn."""
    from matplotlib.transforms import blended_transform_factory

    seconds = series.extent(record, points)
    divisor, unit = (1.0, "s") if seconds <= 180 else (60.0, "min") if seconds <= 10_800 else (3600.0, "h")
    step = _round_step(seconds / divisor / 8) * divisor
    axes.set_xlim(0, seconds)
    axes.set_xticks([i * step for i in range(int(seconds / step + 1e-9) + 1)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / divisor:g}")
    axes.set_xlabel(f"time since the start ({unit})", labelpad=2)
    axes.text(0, 1.21, title, transform=axes.transAxes, fontsize=10.5, fontweight="bold")
    if empty:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=11)
    for moment in series.boundaries(points):
        axes.axvline(moment, color=MUTED, linewidth=0.6)
    verdict = series.verdict_at(record, points)
    if verdict is not None:
        axes.axvline(verdict, color=INK, linewidth=1.4)
        side = "right" if verdict > 0.9 * seconds else "left" if verdict < 0.1 * seconds else "center"
        above = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(verdict, 1.04, words.verdict(record, verdict), transform=above, ha=side, fontsize=8.5)


def legend(axes: "Axes") -> None:
    """The legend of a single panel, beside its title."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.15), ncols=4, borderaxespad=0, handlelength=1.8)


def percent_scale(axes: "Axes") -> None:
    """Ticks such as `25 %`."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g} %")


def latency_scale(axes: "Axes", low: float, high: float) -> None:
    """Milliseconds or seconds; logarithmic when the values lie far apart."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if high > 8 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
        tens = range(math.floor(math.log10(low / 1.5)), math.ceil(math.log10(high * 1.5)) + 1)
        subs = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
        axes.yaxis.set_major_locator(FixedLocator([sub * 10.0**ten for ten in tens for sub in subs]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, high * 1.15)
    axes.yaxis.set_major_formatter(lambda value, _: words.latency(value))


def evidence_scale(axes: "Axes", values: Sequence[float], limit: float) -> None:
    """Powers of ten, wide enough for the threshold, with the threshold as a dashed line."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min([0.1, *values]), max([limit * 10, *values])
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(len(tens) / 6)
    ticks = [ten for ten in tens if ten % every == 0]
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.yaxis.set_major_locator(FixedLocator([10.0**ten for ten in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:.3g}")
    axes.axhline(limit, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))


def svg(figure: "Figure", salt: str) -> str:
    """The figure as one `<svg>` element without prolog, date, or anything that is not drawn."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = salt  # ids that several plots on one page do not share
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg ") :].strip()
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r"<[^>]+>", lambda tag: _tidied(tag[0], used), text)
    text = text.replace("<svg ", f'<svg style="font-family: {_FONTS}" ', 1)
    return re.sub(r"\n\s*", "\n", text)


def _tidied(tag: str, used: set[str]) -> str:
    """A tag without what changes nothing; a hundredth of a point is not visible."""
    tag = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", tag)
    tag = re.sub(r" font-family: 'DejaVu Sans';?| transform=\"rotate\(-0 [^\"]*\"", "", tag)
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that is at least `least`."""
    ten = 10.0 ** math.floor(math.log10(least))
    return next(step for step in (ten, 2 * ten, 5 * ten, 10 * ten) if step >= least * (1 - 1e-9))
