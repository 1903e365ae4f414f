"""The four plots: what they show, how they look the same every time, how small they stay."""

import math
import os
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET

import pytest

from prefect_modeldeploy.report.plots import Plot, plots

from .reading import SVG, words_in
from .simulated_rollouts import ALL, NAMES, Traffic, held, promoted, rolled_back, silent, single_point, windows


def parsed(plot: Plot) -> ET.Element:
    return ET.fromstring(plot.svg)


def drawn(name: str) -> list[Plot]:
    return plots(*ALL[name]())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "without_steps"])
def test_every_measured_rollout_has_the_four_plots_as_small_well_formed_svg(name: str) -> None:
    record, points = ALL[name]()
    assert name != "long" or len(points) > 2_500
    result = plots(record, points)
    assert [plot.title for plot in result] == ["Share of the canary", "Error rate", "Latency", "Evidence"]
    for plot in result:
        assert parsed(plot).tag == f"{SVG}svg"
        assert len(plot.svg) < 60_000, plot.title


def test_nothing_measured_means_nothing_drawn() -> None:
    assert drawn("without_steps") == []


def test_text_stays_text_and_nothing_comes_from_outside() -> None:
    for plot in drawn("promoted"):
        root = parsed(plot)
        assert plot.title.split()[0] in " ".join(words_in(root))
        assert not [
            e for e in root.iter() if e.tag.removeprefix(SVG) in ("script", "image", "foreignObject", "metadata")
        ]
        urls = set(re.findall(r'"(https?://[^"]+)"', plot.svg))
        assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_axes_carry_units_and_legends_name_the_arms() -> None:
    weights, errors, latency, evidence = (words_in(parsed(plot)) for plot in drawn("promoted"))
    for texts in (weights, errors, latency, evidence):
        assert "time since the start (s)" in texts
        assert "proven at 1 min 32 s" in texts
    assert {"asked for", "observed", "50 %"} <= set(weights)
    assert {"stable", "canary"} <= set(errors)
    assert {"stable p50", "stable p99", "canary p50", "canary p99"} <= set(latency)
    assert any(text.endswith(" ms") for text in latency)
    assert {"failures", "latency p50", "latency p99", "weighted average"} <= set(evidence)
    assert "Evidence of harm: roll back at 20 on average" in evidence
    assert "Evidence of safety: promote at 20 in every metric" in evidence


def test_thresholds_follow_the_plan() -> None:
    record, points = promoted()
    plan = record.plan.model_copy(update={"judge": record.plan.judge.model_copy(update={"alpha": 0.01, "beta": 0.1})})
    texts = words_in(parsed(plots(record.model_copy(update={"plan": plan}), points)[3]))
    assert "Evidence of harm: roll back at 100 on average" in texts
    assert "Evidence of safety: promote at 10 in every metric" in texts


def test_an_unfinished_rollout_has_no_verdict_mark() -> None:
    record, points = promoted()
    running = record.model_copy(update={"outcome": None, "ended_at": None})
    for plot in plots(running, points):
        assert not [text for text in words_in(parsed(plot)) if " at 1 min" in text]


def test_the_line_of_a_verdict_claims_no_more_than_was_measured() -> None:
    """A promotion comes after its proof, maybe long after; a person may decide with or without one."""
    record, points = promoted()
    by_hand, harmful = (
        {"steps": (*record.steps[:-1], record.steps[-1].model_copy(update={"decision": decision}))}
        for decision in ("continue", "roll_back")
    )
    for changes, said in (
        ({}, "proven at 1 min 32 s"),
        (by_hand, "judged until 1 min 32 s"),
        ({"outcome": "rolled_back", "decided_by": "approval"}, "judged until 1 min 32 s"),
        (harmful | {"outcome": "rolled_back"}, "rolled back at 1 min 32 s"),
        (by_hand | {"outcome": "rolled_back", "decided_by": "deadline"}, "rolled back at 1 min 32 s"),
        ({"outcome": "held"}, "held at 1 min 32 s"),
    ):
        assert said in words_in(parsed(plots(record.model_copy(update=changes), points)[0]))


def test_no_traffic_says_so_instead_of_drawing_zeros() -> None:
    _, errors, latency, evidence = (words_in(parsed(plot)) for plot in plots(*silent()))
    assert "No requests" in errors
    assert "No requests" in latency
    assert evidence.count("No evidence") == 2


def test_a_single_point_is_visible_and_dated() -> None:
    weights, _, _, evidence = (parsed(plot) for plot in plots(*single_point()))
    assert "rolled back at 3 s" in words_in(weights)
    assert list(evidence.iter(f"{SVG}use")), "a line of one point needs a mark"


def test_silence_breaks_the_lines() -> None:
    """Each stroke of a line begins with M: without data in between there would be one."""
    record, points = held()
    colour = "#0072b2"
    error_rate = plots(record, points)[1]
    [path] = [d for d, style in _strokes(error_rate) if colour in style and len(d) > 200]
    assert path.count("M") == 2


def _strokes(plot: Plot) -> list[tuple[str, str]]:
    return [(e.get("d", ""), e.get("style", "")) for e in parsed(plot).iter(f"{SVG}path")]


@pytest.mark.parametrize("value", [1e300, -1e300, math.inf, -math.inf, math.nan])
def test_evidence_beyond_every_scale_is_drawn_at_the_edge(value: float) -> None:
    record, points = rolled_back()
    points[-1] = points[-1].model_copy(update={"harm": {"failures": value}, "safe": {"failures": -value}})
    evidence = plots(record, points)[3]
    numbers = [float(n) for d, _ in _strokes(evidence) for n in re.findall(r"-?\d+\.?\d*", d)]
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', evidence.svg).groups())  # type: ignore[union-attr]
    assert "nan" not in evidence.svg.lower()
    assert min(numbers) > -10
    assert max(numbers) < max(width, height) + 10


def test_names_of_metrics_are_only_names() -> None:
    record, points = rolled_back()
    names = ["cost_$x_{y}$", "<b>&amp;</b>", "_hidden", "p99.98765", "\x00\x1b[31m\u202e", "a" * 200]
    evil = [p.model_copy(update={"harm": dict.fromkeys(names, 1.0), "safe": dict.fromkeys(names, 1.0)}) for p in points]
    texts = words_in(parsed(plots(record, evil)[3]))
    assert {"cost $x {y}$", "<b>&amp;</b>", "hidden", "p99.98765", "[31m"} <= set(texts)
    assert max(map(len, texts)) < 60


@pytest.mark.slow
def test_the_same_rollout_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from tests.report.simulated_rollouts import rolled_back;"
        "from prefect_modeldeploy.report import report_html, report_markdown; rollout = rolled_back();"
        "print(hashlib.sha256((report_html(*rollout) + report_markdown(*rollout)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": os.getcwd()},  # noqa: PTH109
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Pacific/Auckland"))
    }
    assert len(digests) == 1


def test_a_users_own_style_neither_shows_nor_is_lost() -> None:
    import matplotlib

    rollout = rolled_back()
    expected = plots(*rollout)
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "axes.facecolor": "black"}):
        assert plots(*rollout) == expected
        assert matplotlib.rcParams["lines.linewidth"] == 9
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_threads_may_report_at_the_same_time() -> None:
    import matplotlib

    rollouts = [rolled_back(), single_point()]
    expected = [plots(*rollout) for rollout in rollouts]
    before = dict(matplotlib.rcParams)
    found: dict[int, list[Plot]] = {}

    def draw(index: int) -> None:
        found[index] = plots(*rollouts[index % 2])

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == expected * 2
    assert dict(matplotlib.rcParams) == before


def test_more_metrics_than_colours_differ_by_their_dashes() -> None:
    record, points = rolled_back()
    names = [f"m{i}" for i in range(12)]
    many = [p.model_copy(update={"harm": {n: 0.1 * i for i, n in enumerate(names)}, "safe": {}}) for p in points]
    lines = {style for _, style in _strokes(plots(record, many)[3]) if "fill: none" in style}
    assert len(lines) >= 12


def test_points_in_any_order_give_the_same_plots() -> None:
    record, points = rolled_back()
    assert plots(record, points[::-1]) == plots(record, points)


def test_very_different_latencies_share_a_logarithmic_scale() -> None:
    record, _ = rolled_back()
    points = windows(record.plan, Traffic(slowdown=40, per_second=2000))
    texts = words_in(parsed(plots(record, points)[2]))
    assert any(text.endswith(" ms") for text in texts)
    assert any(re.fullmatch(r"[\d.]+ s", text) for text in texts)
