"""Windows drawn from known rates. Seeded: a test sees the same windows each time."""

from collections.abc import Iterator

import numpy as np

from prefect_modeldeploy.analysis import Arm, Histogram, Window
from prefect_modeldeploy.measurements import bucket_of


def windows(
    seed: int,
    canary: float,
    baseline: float = 0.01,
    *,
    per_second: float = 50.0,
    share: float = 0.1,
    seconds: float = 10.0,
    count: int = 360,
) -> Iterator[Window]:
    """Windows of independent failures at the given rates."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        n_c, n_b = rng.poisson(per_second * seconds * np.array([share, 1.0 - share]))
        yield Window(
            id=f"w-{number}",
            canary=Arm(int(n_c), int(rng.binomial(n_c, canary))),
            baseline=Arm(int(n_b), int(rng.binomial(n_b, baseline))),
            seconds=seconds,
            share=share,
        )


def history(seed: int, rate: float = 0.01, *, requests: int = 500, count: int = 180) -> list[Arm]:
    """Half an hour of the baseline alone."""
    rng = np.random.default_rng(seed)
    return [Arm(requests, int(failures)) for failures in rng.binomial(requests, rate, count)]


def latencies(rng: np.random.Generator, count: int, slower: float = 1.0) -> Histogram:
    """Lognormal latencies with a median of 200 ms and sigma 0.5, times `slower`."""
    seconds = 0.2 * slower * np.exp(0.5 * rng.standard_normal(count))
    counts: dict[int, int] = {}
    for second in seconds:
        bucket = bucket_of(float(second))
        counts[bucket] = counts.get(bucket, 0) + 1
    return Histogram(counts)
