import math

import numpy as np
import pytest

from prefect_modeldeploy.analysis import Tally, excess_dispersion
from prefect_modeldeploy.analysis.dispersion import LiveDispersion, temper


def bursty(seed, cv, count=180, requests=500, rate=0.01, length=1):
    rng = np.random.default_rng(seed)
    factors = np.repeat(rng.gamma(cv**-2, cv**2, count // length + 1), length)[:count] if cv else np.ones(count)
    return [Tally(requests, int(y)) for y in rng.binomial(requests, np.minimum(1.0, rate * factors))]


def test_independent_failures_have_hardly_any_excess():
    assert np.median([excess_dispersion(bursty(seed, 0.0)) for seed in range(40)]) < 0.2


def test_bursts_have_the_excess_that_they_were_made_with():
    made = 1.0 * 500 * 0.01 / 0.99  # CV^2 n p / (1 - p)
    assert made * 0.8 < np.median([excess_dispersion(bursty(seed, 1.0)) for seed in range(40)]) < made * 1.8


def test_bursts_longer_than_a_window_are_seen_on_their_own_scale():
    short = np.median([excess_dispersion(bursty(seed, 1.0, count=1800, requests=50)) for seed in range(20)])
    long = np.median([excess_dispersion(bursty(seed, 1.0, count=1800, requests=50, length=10)) for seed in range(20)])
    assert long > 5 * short


@pytest.mark.parametrize(
    "windows", [[], [Tally(0, 0)] * 50, [Tally(100, 0)] * 50, [Tally(100, 100)] * 50, [Tally(9, 1)]]
)
def test_nothing_to_learn_is_no_excess(windows):
    assert excess_dispersion(windows) == 0.0


def test_tempering_is_weakest_for_a_small_share_and_never_makes_evidence():
    assert temper(50, 450, 0.0) == 1.0
    assert temper(50, 450, 5.0) == pytest.approx(1.9)
    assert temper(1, 999, 5.0) < temper(250, 250, 5.0)


def test_without_a_history_the_baseline_teaches_it_on_the_way():
    def learnt(seed):
        live, seen = LiveDispersion(), Tally(0, 0)
        for window in bursty(seed, 1.0):
            live.add(window, 10.0)
            seen = Tally(seen.requests + window.requests, seen.events + window.events)
        return live.excess(seen, seen.requests)

    assert np.median([learnt(seed) for seed in range(20)]) == pytest.approx(5.05, rel=0.3)


def beyond_chance(windows):
    """Pearson's chi-square over its degrees of freedom, less 1: and a standard error more or less."""
    n, y = np.array(windows, dtype=float).T
    rate, error = y.sum() / n.sum(), math.sqrt(2.0 / (len(n) - 1))
    spread = ((y - n * rate) ** 2 / n).sum() / (rate * (1.0 - rate)) / (len(n) - 1)
    return spread * (1.0 + error) - 1.0 if spread > 1.0 + 3.0 * error else spread - 1.0 - error


@pytest.mark.parametrize(("seed", "length", "scale"), [(3, 1, 10), (3, 6, 60)])
def test_what_is_learnt_on_the_way_is_the_excess_of_blocks_or_of_minutes(seed, length, scale):
    windows = [
        t for block in bursty(seed, 1.0, count=82, length=length) for t in (block, Tally(250, block.events // 2))
    ]
    live, seen = LiveDispersion(), Tally(0, 0)
    for window in windows:  # of five seconds
        live.add(window, 5.0)
        seen = Tally(seen.requests + window.requests, seen.events + window.events)
    live.add(Tally(500, 400), 5.0)  # still open: it does not count yet
    seen = Tally(seen.requests + 500, seen.events + 400)
    per_block = scale // 5
    blocks = [np.sum(windows[at : at + per_block], axis=0) for at in range(0, len(windows) - per_block + 1, per_block)]
    assert live.excess(seen, 2 * seen.requests) == pytest.approx(2 * beyond_chance(blocks))


def test_nothing_is_learnt_before_three_blocks():
    live = LiveDispersion()
    for events in (0, 50):
        live.add(Tally(500, events), 10.0)
    assert live.excess(Tally(1000, 50), 1100) == 0.0
    live.add(Tally(500, 0), 10.0)
    assert live.excess(Tally(1500, 50), 1650) > 10.0
