"""How good are the verdicts? Releases that are the same, worse or slower are simulated, and the judge decides.

    nice -n 19 python -m tests.benchmarks.decision_quality --runs 2000 --plot verdicts.svg

Seeded: the same runs give the same table. The traffic is 10-second windows with a 60-minute horizon, half an hour of
the baseline's history, and the judge's default settings. Beside the judge, on the same windows: fixed thresholds
(three failed minutes), a z-test each minute at 5 %, and a group-sequential (Pocock) test with 60 looks.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefect_modeldeploy.analysis import (
    Accuracy,
    Agreement,
    Arm,
    Cost,
    Drift,
    Failures,
    Histogram,
    Judge,
    JudgeSettings,
    Latency,
    Moments,
    Quality,
    Window,
)
from prefect_modeldeploy.measurements import RESOLUTION

SECONDS, WINDOWS, PAST = 10.0, 360, 180
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """One cell of the table."""

    name: str
    canary: float = 0.01
    baseline: float = 0.01
    per_second: float = 50.0
    shares: tuple[float, ...] = (0.1,)
    """Shares of the canary, in equal parts of the hour."""
    burst: float = 0.0
    """Coefficient of variation of the failure rate, drawn anew for each arm and each burst."""
    burst_windows: int = 1
    incident: float = 0.0
    """Failure rate of both arms from minute 5 to minute 10."""
    slower: float | None = None
    """Factor on the canary's latency; None: latencies are not measured."""
    tail: float = 0.0
    """Share of the canary's requests that takes four times as long."""
    past: bool = True
    """Whether the judge is given a history."""
    margin: float = 0.01


@dataclass(frozen=True)
class Outcome:
    """What one simulated rollout led to: minutes and canary requests until each verdict; None if it never came."""

    promoted: float | None
    rolled_back: float | None
    requests: int
    others: dict[str, float | None]

    @property
    def first(self) -> str:
        """The verdict that came first."""
        promoted = math.inf if self.promoted is None else self.promoted
        rolled_back = math.inf if self.rolled_back is None else self.rolled_back
        if promoted == rolled_back == math.inf:
            return "continue"
        return "promote" if promoted < rolled_back else "roll_back"


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """One rollout, watched to the first roll-back or to the end of the hour."""
    rng = np.random.default_rng([seed, _stable_hash(scenario.name)])
    n_c, n_b, y_c, y_b = _counts(rng, scenario)
    history = _history(rng, scenario) if scenario.past else ()
    judge = Judge(JudgeSettings(history=history, margin=scenario.margin))
    promoted = rolled_back = None
    requests = int(n_c.sum())
    for number, share in enumerate(_shares(scenario)):
        window = Window(
            f"{number}",
            Arm(int(n_c[number]), int(y_c[number]), _latency(rng, scenario, n_c[number], canary=True)),
            Arm(int(n_b[number]), int(y_b[number]), _latency(rng, scenario, n_b[number], canary=False)),
            SECONDS,
            share=share,
        )
        verdict = judge.observe(window)
        assert verdict.split_ok, "the router is simulated to do what it is asked"
        if verdict.decision == "promote" and promoted is None:
            promoted = verdict.seconds / 60.0
        if verdict.decision == "roll_back":
            rolled_back, requests = verdict.seconds / 60.0, verdict.canary_requests
            break
    minutes = [_per_minute(counts) for counts in (n_c, n_b, y_c, y_b)]
    return Outcome(promoted, rolled_back, requests, {name: rule(*minutes) for name, rule in OTHERS.items()})


def _stable_hash(name: str) -> int:
    return zlib.crc32(name.encode())


def _shares(scenario: Scenario) -> list[float]:
    return [scenario.shares[number * len(scenario.shares) // WINDOWS] for number in range(WINDOWS)]


def _counts(rng: np.random.Generator, scenario: Scenario) -> tuple[Ints, Ints, Ints, Ints]:
    share = np.array(_shares(scenario))
    per_window = scenario.per_second * SECONDS
    n_c, n_b = rng.poisson(per_window * share), rng.poisson(per_window * (1.0 - share))
    p_c, p_b = _rates(rng, scenario, scenario.canary, WINDOWS), _rates(rng, scenario, scenario.baseline, WINDOWS)
    if scenario.incident:
        p_c[30:60] = p_b[30:60] = scenario.incident
    return n_c, n_b, rng.binomial(n_c, p_c), rng.binomial(n_b, p_b)


def _rates(rng: np.random.Generator, scenario: Scenario, rate: float, windows: int) -> Floats:
    if not scenario.burst:
        return np.full(windows, rate)
    bursts = rng.gamma(scenario.burst**-2, scenario.burst**2, -(-windows // scenario.burst_windows))
    return np.minimum(1.0, rate * np.repeat(bursts, scenario.burst_windows)[:windows])


def _history(rng: np.random.Generator, scenario: Scenario) -> list[Arm]:
    requests = rng.poisson(scenario.per_second * SECONDS, PAST)
    failures = rng.binomial(requests, _rates(rng, scenario, scenario.baseline, PAST))
    return [
        Arm(int(n), int(y), _latency(rng, scenario, n, canary=False)) for n, y in zip(requests, failures, strict=True)
    ]


@cache
def _latency_probabilities(factor: float, tail: float) -> tuple[int, Floats]:
    """The buckets' probabilities of lognormal latencies (median 200 ms, sigma 0.5), from the first bucket on."""
    first, last = (int(math.log(x * 1e6) / math.log(RESOLUTION)) for x in (0.01, 20.0))
    edges = [RESOLUTION**bucket / 1e6 for bucket in range(first, last + 2)]

    def below(x: float) -> float:
        def normal(median: float) -> float:
            return 0.5 * math.erfc(-math.log(x / median) / 0.5 / math.sqrt(2.0))

        return (1.0 - tail) * normal(0.2 * factor) + tail * normal(0.8 * factor)

    probabilities = np.diff([below(edge) for edge in edges])
    return first, probabilities / probabilities.sum()


def _latency(rng: np.random.Generator, scenario: Scenario, count: int, *, canary: bool) -> Histogram | None:
    if scenario.slower is None:
        return None
    first, probabilities = _latency_probabilities(*((scenario.slower, scenario.tail) if canary else (1.0, 0.0)))
    drawn = rng.multinomial(count, probabilities)
    filled = np.flatnonzero(drawn)
    return Histogram(dict(zip((filled + first).tolist(), drawn[filled].tolist(), strict=True)))


def _per_minute(counts: Ints) -> Ints:
    per_minute: Ints = counts.reshape(-1, 6).sum(axis=1)
    return per_minute


def _first(alarms: NDArray[np.bool_]) -> float | None:
    return float(np.argmax(alarms)) + 1.0 if alarms.any() else None


def _threshold(limit: float, n_c: Ints, n_b: Ints, y_c: Ints, y_b: Ints) -> float | None:
    return _first(np.cumsum(y_c > limit * np.maximum(n_c, 1)) >= 3)


def _z(n_c: Ints, n_b: Ints, y_c: Ints, y_b: Ints) -> Floats:
    n_c, n_b, y_c, y_b = (np.cumsum(counts).astype(float) for counts in (n_c, n_b, y_c, y_b))  # type: ignore[assignment]
    pooled = (y_c + y_b) / np.maximum(n_c + n_b, 1)
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / np.maximum(n_c, 1) + 1 / np.maximum(n_b, 1)))
    z: Floats = (y_c / np.maximum(n_c, 1) - y_b / np.maximum(n_b, 1)) / error
    return z


def _z_test(limit: float, n_c: Ints, n_b: Ints, y_c: Ints, y_b: Ints) -> float | None:
    return _first(_z(n_c, n_b, y_c, y_b) > limit)


@cache
def _pocock(looks: int = 60) -> float:
    """The constant limit that a standardised sum of `looks` equal steps passes with a probability of 5 %."""
    steps = np.random.default_rng(0).standard_normal((40_000, looks)).cumsum(axis=1) / np.sqrt(np.arange(1, looks + 1))
    return float(np.quantile(steps.max(axis=1), 0.95))


OTHERS: dict[str, Callable[[Ints, Ints, Ints, Ints], float | None]] = {
    "threshold 5 %": partial(_threshold, 0.05),
    "threshold 2 %": partial(_threshold, 0.02),
    "z-test each minute": partial(_z_test, 1.6449),
    "Pocock": lambda *counts: _z_test(_pocock(), *counts),
}

RAMP = (0.01, 0.05, 0.25, 0.5)
SAME = [
    Scenario("A 50 rps, 10 %: same"),
    Scenario("B 2 rps: same", per_second=2.0),
    Scenario("C rare, 0.1 %: same", canary=0.001, baseline=0.001),
    Scenario("D both arms 8 % for 5 min", incident=0.08),
    Scenario("D both arms 20 % for 5 min", incident=0.2),
    Scenario("D bursts, CV 1", burst=1.0),
    Scenario("D bursts, CV 2", burst=2.0),
    Scenario("D bursts of a minute, CV 1", burst=1.0, burst_windows=6),
    Scenario("D baseline 6 % already", canary=0.06, baseline=0.06),
    Scenario("D ramp 1/5/25/50 %", shares=RAMP),
    Scenario("L latency measured: same", slower=1.0),
    Scenario("no history: same", past=False),
    Scenario("no history: bursts, CV 1", past=False, burst=1.0),
    Scenario("no history: bursts, CV 2", past=False, burst=2.0),
    Scenario("no history: bursts of a minute, CV 1", past=False, burst=1.0, burst_windows=6),
]
WORSE = [
    Scenario("A canary 20 %", canary=0.2),
    Scenario("A canary 5 %", canary=0.05),
    Scenario("A canary 2 %", canary=0.02),
    Scenario("B 2 rps, canary 20 %", canary=0.2, per_second=2.0),
    Scenario("B 2 rps, canary 5 %", canary=0.05, per_second=2.0),
    Scenario("B 2 rps, canary 2 %", canary=0.02, per_second=2.0),
    Scenario("C rare 0.1 %, canary 0.2 %", canary=0.002, baseline=0.001),
    Scenario("C rare 0.1 %, canary 0.5 %", canary=0.005, baseline=0.001),
    Scenario("C rare 0.1 %, canary 2 %", canary=0.02, baseline=0.001),
    Scenario("D bursts CV 1, canary 2 %", canary=0.02, burst=1.0),
    Scenario("D bursts CV 2, canary 5 %", canary=0.05, burst=2.0),
    Scenario("E ramp, canary 2 %", canary=0.02, shares=RAMP),
    Scenario("L 10 % slower", slower=1.1),
    Scenario("L 25 % slower", slower=1.25),
    Scenario("L 50 % slower", slower=1.5),
    Scenario("L 3 % of requests 4x slower", slower=1.0, tail=0.03),
    Scenario("no history: canary 2 %", canary=0.02, past=False),
]
THREE_WAYS = [
    SAME[0],
    Scenario("A 50 rps, 10 %: same, margin 0.5 pp", margin=0.005),
    next(scenario for scenario in WORSE if scenario.name == "A canary 2 %"),
    Scenario("A canary 1.5 %, margin 0.5 pp", canary=0.015, margin=0.005),
    *(scenario for scenario in SAME if scenario.name.startswith(("B", "D both arms 8", "L"))),
    *(scenario for scenario in WORSE if scenario.name.startswith("C rare 0.1 %, canary 0.5")),
]


@cache
def run(scenario: Scenario, runs: int, processes: int = 1) -> list[Outcome]:
    """So many rollouts of one scenario."""
    if processes == 1:
        return [simulate(scenario, seed) for seed in range(runs)]
    with multiprocessing.Pool(processes) as pool:
        return pool.map(partial(simulate, scenario), range(runs), chunksize=max(1, runs // (8 * processes)))


def rolled_back(outcomes: Sequence[Outcome], method: str = "judge") -> tuple[float, float | None]:
    """Share of the rollouts that a method rolls back within the hour, and the median minutes until then."""
    times = [outcome.rolled_back if method == "judge" else outcome.others[method] for outcome in outcomes]
    found = [minutes for minutes in times if minutes is not None]
    return len(found) / len(times), statistics.median(found) if found else None


def _cell(share: float, minutes: float | None, *, requests: float | None = None) -> str:
    when = "" if minutes is None else f" · {minutes * 60:.0f} s" if minutes < 2 else f" · {minutes:.1f} min"
    return f"{share:.1%}{when}" + (f" · {requests:.0f} req" if requests is not None else "")


def rollback_table(title: str, scenarios: Sequence[Scenario], runs: int, processes: int) -> Iterator[str]:
    """Lines of a table: who rolls back what, and when."""
    yield f"| {title} | judge | " + " | ".join(OTHERS) + " |"
    yield "|---" * (2 + len(OTHERS)) + "|"
    for scenario in scenarios:
        outcomes = run(scenario, runs, processes)
        found = [outcome for outcome in outcomes if outcome.rolled_back is not None]
        requests = statistics.median(outcome.requests for outcome in found) if found else None
        cells = [_cell(*rolled_back(outcomes), requests=requests)]
        blind = scenario.slower is not None  # the others look at failures only
        cells += ["" if blind else _cell(*rolled_back(outcomes, method)) for method in OTHERS]
        yield f"| {scenario.name} | " + " | ".join(cells) + " |"


def three_way_table(scenarios: Sequence[Scenario], runs: int, processes: int) -> Iterator[str]:
    """Lines of a table: which verdict came first."""
    yield "| first verdict (margin 1 pp where none is named) | promoted | rolled back | undecided | median to promote |"
    yield "|---|---|---|---|---|"
    for scenario in scenarios:
        outcomes = run(scenario, runs, processes)
        first = [outcome.first for outcome in outcomes]
        times = [o.promoted for o in outcomes if o.first == "promote" and o.promoted is not None]
        shares = [first.count(verdict) / len(first) for verdict in ("promote", "roll_back", "continue")]
        when = f"{statistics.median(times):.1f} min" if times else ""
        yield f"| {scenario.name} | " + " | ".join(f"{share:.1%}" for share in shares) + f" | {when} |"


def speed(observes: int = 110_000) -> Iterator[str]:
    """How long one window takes with eight metrics, early and late, and how large the state becomes."""
    rng = np.random.default_rng(1)

    def arm(requests: int) -> Arm:
        numbers = tuple(rng.standard_normal(min(requests, 50)).tolist())
        quality = Quality(requests, requests - int(rng.binomial(requests, 0.1)), 40, 39, numbers)
        latency = _latency(rng, Scenario("", slower=1.0), requests, canary=False)
        cost = Moments.from_values(rng.gamma(4.0, 0.25, requests).tolist())
        return Arm(requests, int(rng.binomial(requests, 0.01)), latency, quality, cost)

    metrics = (Failures(), Latency(), Accuracy(), Agreement(), Drift(), Cost())
    metrics += (Failures(name="strict", margin=0.005), Accuracy(name="strict accuracy", margin=0.005))
    judge = Judge(JudgeSettings(metrics=metrics, history=[arm(500) for _ in range(PAST)]))
    pairs = [(arm(60), arm(440)) for _ in range(300)]
    times, largest = [], 0
    for number in range(observes):
        window = Window(f"{number}", *pairs[number % len(pairs)], 1.0)
        before = time.thread_time()  # what else the machine does is not counted
        judge.observe(window)
        times.append((time.thread_time() - before) * 1e3)
        if number % 100 == 0:
            largest = max(largest, len(json.dumps(judge.state())))
    many = min(10_000, (observes - 100) // 2)
    for start in (100, observes - many):
        some = sorted(times[start : start + many])
        fastest, median, p99 = (some[many * percent // 100] for percent in (10, 50, 99))
        shown = f"p10 {fastest:.2f} ms, median {median:.2f} ms, p99 {p99:.2f} ms"
        yield f"eight metrics, {many} windows from the {start}th on: {shown}"
    yield f"state: at most {largest} characters of JSON"


def plot(path: Path, runs: int, processes: int) -> None:
    """Draw what evidence looks like, and what looking often does to a test that was made for one look."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "verdicts", "font.size": 9})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    for rate, colour in ((0.01, "#4477aa"), (0.02, "#ccaa33"), (0.05, "#cc3311")):
        for seed in range(6):
            evidence = _trace(Scenario("plot", canary=rate), seed)
            minutes = np.arange(len(evidence)) / 6.0
            left.plot(minutes, evidence, color=colour, lw=0.9, label=f"canary {rate:.0%}" if seed == 0 else None)
    left.axhline(math.log(20.0), color="black", lw=0.8, ls="--")
    left.text(14.8, math.log(20.0) + 0.15, "20 to 1: roll back", ha="right", va="bottom")
    left.set(xlabel="minutes", ylabel="evidence of harm (odds)", xlim=(0, 15), ylim=(-3.2, 7))
    left.set_yticks([math.log(odds) for odds in (0.1, 1, 10, 100, 1000)], ["1:10", "1:1", "10:1", "100:1", "1000:1"])
    left.set_title("Six rollouts each, baseline 1 %", loc="left")
    left.legend(frameon=False, loc="upper right")
    outcomes = run(SAME[0], runs, processes)
    for method, colour in (("z-test each minute", "#cc3311"), ("Pocock", "#ccaa33"), ("judge", "#4477aa")):
        times = [o.rolled_back if method == "judge" else o.others[method] for o in outcomes]
        shares = [100.0 * sum(t is not None and t <= m for t in times) / len(times) for m in range(61)]
        right.plot(range(61), shares, color=colour, label=method)
    right.axhline(5.0, color="black", lw=0.8, ls="--")
    right.set(xlabel="minutes of looking", ylabel="good releases rolled back, %", xlim=(0, 60), ylim=(0, None))
    right.set_title("A release that is just as good", loc="left")
    right.legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Date": None})


def _trace(scenario: Scenario, seed: int) -> list[float]:
    rng = np.random.default_rng([seed, _stable_hash(f"{scenario.canary}")])
    n_c, n_b, y_c, y_b = _counts(rng, scenario)
    judge, evidence = Judge(JudgeSettings(history=_history(rng, scenario))), [0.0]
    for number in range(90):
        arms = (Arm(int(n[number]), int(y[number])) for n, y in ((n_c, y_c), (n_b, y_b)))
        evidence.append(judge.observe(Window(f"{number}", *arms, SECONDS)).harm_total)
    return evidence


def main() -> None:
    """Print the tables, and draw the plot if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500, help="rollouts a cell")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="only scenarios whose name contains this, and nothing else")
    parser.add_argument("--plot", type=Path, help="draw the plot into this SVG file")
    options = parser.parse_args()
    started = time.monotonic()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{options.runs} rollouts a cell; {machine}\n")
    same, worse, three_ways = ([s for s in some if options.only in s.name] for some in (SAME, WORSE, THREE_WAYS))
    for title, scenarios in (("rolled back: the release is no worse", same), ("rolled back: it is worse", worse)):
        for line in rollback_table(title, scenarios, options.runs, options.processes):
            print(line, flush=True)
        print()
    for line in three_way_table(three_ways, options.runs, options.processes):
        print(line, flush=True)
    print()
    for line in () if options.only else speed():
        print(line, flush=True)
    if options.plot:
        plot(options.plot, options.runs, options.processes)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
