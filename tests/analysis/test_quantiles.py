import math

import numpy as np
import pytest

from prefect_modeldeploy.analysis.quantiles import (
    band,
    calibrate,
    log_alpha,
    log_beta_tail,
    log_excess,
    log_p_of_gap,
    log_slower,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Histogram
from tests.analysis.simulation import latencies


def test_the_band_has_the_published_constants():
    assert math.exp(log_alpha(8.123 + 0.4)) <= 0.05 <= math.exp(log_alpha(8.123 - 0.5))
    assert math.exp(log_alpha(8.623 + 0.4)) <= 0.025 <= math.exp(log_alpha(8.623 - 0.5))


def test_the_band_shrinks_with_the_sample_and_starts_wide():
    assert band(10, 0.05) == 1.0
    assert band(100, 0.05) > band(1000, 0.05) > band(100_000, 0.05) > 0.0
    assert band(1000, 0.01) > band(1000, 0.05)


def test_a_gap_as_wide_as_the_bands_has_that_p_value():
    """Half of alpha for each band, so the p-value is twice that of one band with the same constant."""
    c = 17.25
    gap = sum(0.85 * math.sqrt((math.log1p(math.log(n / 50)) + c) / n) for n in (1000, 9000))
    assert log_p_of_gap(gap, 1000, 9000) == math.log(2.0) + log_alpha(c)
    assert log_p_of_gap(gap / 3, 1000, 9000) == 0.0
    assert log_p_of_gap(0.9, 10, 9000) == 0.0


def test_the_calibrator_integrates_to_one():
    """An e-value made from a p-value must have mean 1 when p is uniform."""
    strengths = np.linspace(0.0, 400.0, 400_001)
    mean = np.trapezoid([math.exp(calibrate(-s) - s) for s in strengths], strengths)
    assert mean == pytest.approx(1.0, abs=0.01)
    assert mean <= 1.0


@pytest.mark.parametrize(
    ("a", "b", "x"), [(247.5, 2.5, 0.99), (7.5, 747.5, 0.01), (30.0, 70.0, 0.5), (1e6, 1e8, 0.0101), (0.5, 0.5, 0.1)]
)
def test_the_tail_of_the_beta_distribution(a, b, x):
    beta = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn in the test extra").beta
    assert log_beta_tail(a, b, x) == pytest.approx(float(beta.logsf(x, a, b)), rel=1e-6)


def test_a_tail_too_small_for_a_float_is_no_evidence():
    """The trap: with a floor such as 1e-300 under this tail, seeing far too *few* slow requests proved slowness."""
    assert log_beta_tail(135.0, 10_115.0, 0.5) < -4000.0
    evidence = [log_excess(10, n, 0.5) for n in (100, 1_000, 10_000, 1_000_000)]
    assert all(math.isfinite(e) and e < 0.0 for e in evidence)
    assert sorted(evidence, reverse=True) == evidence


def test_evidence_about_a_probability_is_a_fair_bet():
    n, p = 40, 0.3
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    assert math.fsum(c * math.exp(log_excess(k, n, p)) for k, c in enumerate(chance)) == pytest.approx(1.0, abs=1e-9)


class TestOneQuantile:
    def test_a_slower_p90_is_found_and_the_same_one_is_not(self):
        rng = np.random.default_rng(1)
        baseline = latencies(rng, 20_000)
        assert log_slower(latencies(rng, 4_000, 1.5), baseline, 0.9) > math.log(20.0)
        assert log_slower(latencies(rng, 4_000), baseline, 0.9) < math.log(20.0)
        assert log_slower(latencies(rng, 4_000, 0.7), baseline, 0.9) < 0.0

    def test_within_a_bucket_nothing_is_known(self):
        """All of both arms are in one bucket; which is slower nobody can say, however many there are of one."""
        assert log_slower(Histogram({500: 10_000}), Histogram({500: 10}), 0.5) < 0.0
        assert log_slower(Histogram({500: 10}), Histogram({500: 10_000}), 0.5) < 0.0

    def test_without_data_there_is_no_evidence(self):
        assert log_slower(Histogram(), Histogram({1: 5}), 0.5) == 0.0
        with pytest.raises(InvalidInput, match="quantile"):
            log_slower(Histogram(), Histogram(), 99.0)
