"""The bets are fair: the expectation of a payoff is at most 1, exactly, whatever the true rates are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_modeldeploy.analysis.comparison import HARM_BETS
from prefect_modeldeploy.analysis.evalue import (
    Rates,
    Tally,
    log_harm,
    log_safety,
    project,
    relative_entropy,
    shift_odds,
)
from prefect_modeldeploy.analysis.portfolio import Portfolio

RATES = st.floats(1e-12, 1.0 - 1e-6)  # the range of the judge's bets
COUNTS = st.sampled_from([1, 2, 9, 50, 450, 10**4, 10**7])


def log_expectation(n_c, n_b, bet, null, truth):
    """log E[payoff] of a block: requests are independent, so it is a product over them, without any sampling."""
    per_canary = truth.canary * bet.canary / null.canary + (1 - truth.canary) * (1 - bet.canary) / (1 - null.canary)
    per_baseline = truth.baseline * bet.baseline / null.baseline
    per_baseline += (1 - truth.baseline) * (1 - bet.baseline) / (1 - null.baseline)
    return n_c * math.log(per_canary) + n_b * math.log(per_baseline)


def true_rates(tolerated, worse):
    """A grid of pairs of rates that satisfy the hypothesis, its border included."""
    grid = [1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
    for p_b in grid:
        border = p_b + tolerated
        for p_c in (border, *grid):
            if 0 < p_c < 1 and ((p_c >= border) if worse else (p_c <= border)):
                yield Rates(p_c, p_b)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(n_c=COUNTS, n_b=COUNTS, q_c=RATES, q_b=RATES, tolerated=st.sampled_from([0.0, 1e-4, 0.001, 0.01, 0.1, 0.5]))
def test_no_true_rates_make_harm_a_winning_bet_unless_there_is_harm(n_c, n_b, q_c, q_b, tolerated):
    bet = Rates(q_c, q_b)
    if q_c <= q_b + tolerated:
        assert log_harm(Tally(n_c, n_c), Tally(n_b, 0), bet, tolerated) == 0.0
        return
    null = project(n_c, n_b, bet, tolerated)
    worst = max(log_expectation(n_c, n_b, bet, null, truth) for truth in true_rates(tolerated, worse=False))
    assert worst <= 1e-8 * max(1.0, (n_c + n_b) / 1e6)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(n_c=COUNTS, n_b=COUNTS, q_c=RATES, q_b=RATES, margin=st.sampled_from([1e-3, 0.005, 0.01, 0.1, 0.5]))
def test_no_true_rates_make_safety_a_winning_bet_unless_it_is_safe(n_c, n_b, q_c, q_b, margin):
    bet = Rates(q_c, q_b)
    if q_c >= q_b + margin:
        assert log_safety(Tally(n_c, 0), Tally(n_b, n_b), bet, margin) == 0.0
        return
    null = project(n_c, n_b, bet, margin)
    worst = max(log_expectation(n_c, n_b, bet, null, truth) for truth in true_rates(margin, worse=True))
    assert worst <= 1e-8 * max(1.0, (n_c + n_b) / 1e6)


@pytest.mark.parametrize("tolerated", [0.0, 0.02])
def test_the_same_by_adding_up_every_outcome_of_a_small_block(tolerated):
    """No formula at all: the payoff of each possible outcome times its probability."""
    n_c, n_b = 6, 9
    for bet in (Rates(0.3, 0.1), Rates(0.08, 0.05), Rates(0.9, 0.2)):
        for truth in (Rates(0.1 + tolerated, 0.1), Rates(0.4, 0.45), Rates(0.01, 0.3)):
            total = math.fsum(
                binomial(n_c, y_c, truth.canary)
                * binomial(n_b, y_b, truth.baseline)
                * math.exp(log_harm(Tally(n_c, y_c), Tally(n_b, y_b), bet, tolerated))
                for y_c in range(n_c + 1)
                for y_b in range(n_b + 1)
            )
            assert total <= 1.0 + 1e-12


def binomial(n, k, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def test_the_projection_is_the_nearest_point():
    bet, margin = Rates(0.01, 0.01), 0.01
    found = project(300, 2700, bet, margin)

    def distance(p):
        return 300 * relative_entropy(bet.canary, p + margin) + 2700 * relative_entropy(bet.baseline, p)

    nearest = min(np.linspace(1e-6, 0.05, 100_000), key=distance)
    assert found.baseline == pytest.approx(nearest, abs=1e-6)
    assert found.canary - found.baseline == pytest.approx(margin)


def test_bets_are_odds_so_that_no_rate_exceeds_one():
    assert shift_odds(0.001, 2.0) == pytest.approx(0.002, rel=0.01)
    assert all(0.5 < shift_odds(0.5, ratio) < 1.0 for ratio, _ in HARM_BETS)


def test_a_portfolio_is_fair_too():
    """The mean wealth over all outcomes of two windows: mixing with cash and spreading anew neither make nor lose.

    At the nearest point itself a bet is exactly fair, so the mean is 1.
    """
    n_c, n_b, bet = 3, 4, Rates(0.5, 0.1)
    p = project(n_c, n_b, bet, 0.0).canary
    outcomes = [(y_c, y_b) for y_c in range(n_c + 1) for y_b in range(n_b + 1)]
    chance = {(y_c, y_b): binomial(n_c, y_c, p) * binomial(n_b, y_b, p) for y_c, y_b in outcomes}
    total = 0.0
    for first in outcomes:
        for second in outcomes:
            portfolio = Portfolio([0.7, 0.3])
            for y_c, y_b in (first, second):
                portfolio.settle([log_harm(Tally(n_c, y_c), Tally(n_b, y_b), bet, 0.0), 0.0], seconds=600.0)
            total += chance[first] * chance[second] * math.exp(portfolio.log_wealth)
    assert 1.0 - 1e-5 < total <= 1.0
