"""How long must a step last (F11)? Asked before the start, so that nobody waits for proof that cannot come."""

import math
from dataclasses import dataclass

from prefect_modeldeploy.analysis.comparison import Limits, growth
from prefect_modeldeploy.analysis.dispersion import temper
from prefect_modeldeploy.analysis.evalue import Rates
from prefect_modeldeploy.errors import InvalidInput

_BETS = math.log(6.0)
"""What it costs not to know the regression: the share of the portfolio on the right bet is about one sixth."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a step can show, for a canary at the given share.

    Args:
        seconds_to_roll_back: About the median time to roll back a canary with the regression.
        seconds_to_promote: About the median time to promote a canary that is as good as the baseline.
        canary_requests_to_roll_back: Requests that the bad canary answers until then.
        canary_requests_to_promote: Requests that the good canary answers until then.
    """

    seconds_to_roll_back: float
    seconds_to_promote: float
    canary_requests_to_roll_back: int
    canary_requests_to_promote: int

    def enough(self, seconds: float) -> bool:
        """True if a step of so many seconds is long enough to see the regression."""
        return seconds >= self.seconds_to_roll_back


def plan_step(
    *,
    requests_per_second: float,
    canary_share: float,
    baseline_rate: float,
    regression: float = 2.0,
    alpha: float = 0.05,
    beta: float = 0.05,
    margin: float = 0.01,
    weight: float = 1.0,
    excess_dispersion: float = 0.0,
) -> StepPlan:
    """How long a step must last to see a regression, and to prove that there is none.

    Args:
        requests_per_second: Traffic of both arms together.
        canary_share: The canary's share of it, between 0 and 1.
        baseline_rate: The baseline's failure rate (or rate of any other event), between 0 and 1.
        regression: The canary's rate over the baseline's that shall be seen.
        alpha: As in `JudgeSettings`.
        beta: As in `JudgeSettings`.
        margin: As in `JudgeSettings`; capped for rare events in the same way.
        weight: The metric's share of the weights of all metrics (0.75 for failures among the default metrics).
        excess_dispersion: How bursty failures are, as `excess_dispersion(history)` gives it; 0 for independent ones.

    Raises:
        InvalidInput: A rate or share is out of range, or the regression makes a rate of 1 or more.
    """
    _check(requests_per_second, canary_share, baseline_rate, regression, weight)
    n_c = requests_per_second * canary_share
    n_b = requests_per_second - n_c
    phi = temper(n_c, n_b, excess_dispersion)
    limits = Limits(margin).capped(baseline_rate)
    harm = growth(n_c, n_b, Rates(baseline_rate * regression, baseline_rate), limits).harm / phi
    safe = growth(n_c, n_b, Rates(baseline_rate, baseline_rate), limits).safe / phi
    roll_back = (_BETS - math.log(alpha) - math.log(weight)) / harm
    promote = (math.log(2.0) - math.log(beta)) / safe
    return StepPlan(roll_back, promote, math.ceil(roll_back * n_c), math.ceil(promote * n_c))


def _check(traffic: float, share: float, rate: float, regression: float, weight: float) -> None:
    if not (math.isfinite(traffic) and traffic > 0):
        raise InvalidInput("requests_per_second", traffic, "must be positive: without traffic nothing can be seen")
    if not 0 < share < 1:
        raise InvalidInput("canary_share", share, "must be between 0 and 1: both arms need traffic")
    if not 0 < rate < 1:
        raise InvalidInput("baseline_rate", rate, "must be between 0 and 1; for 0 give the smallest that matters")
    if not (regression > 1 and rate * regression < 1):
        raise InvalidInput("regression", regression, f"must be above 1, and below 1 / {rate} to be a rate at all")
    if not 0 < weight <= 1:
        raise InvalidInput("weight", weight, "must be above 0 and at most 1")
