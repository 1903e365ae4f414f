"""Failures come in bursts (F5): how much more they vary than independent ones would, and what that costs the evidence.

One bad replica or one bad minute makes failures cluster, and a test that takes each for an independent proof cries
wolf: with bursts as large as the rate itself, an untempered test rolls back one good release in six. The repair is to
raise every payoff to the power 1/phi, where phi is the factor by which bursts inflate the variance of the comparison.
It is measured on the baseline *before* the rollout, because bursts bite in its first minute; phi >= 1 never makes
evidence (Jensen).

For one arm with a share s of the requests, phi = 1 + s D, where D is the *excess dispersion* of all the traffic: the
variance of its failures over that of independent ones, minus 1. The comparison of two arms is dominated by the smaller
one, hence phi = (1-s)(1 + sD) + s(1 + (1-s)D) = 1 + 2 s (1-s) D.
"""

import math
from collections.abc import Sequence

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.evalue import Tally

_FEWEST_BLOCKS = 8
_FEWEST_LIVE_BLOCKS = 3
BLOCK_SECONDS = 10.0
"""Without a history the baseline's live windows are gathered into blocks of this length, and groups of six blocks."""
_GROUP = 6


def excess_dispersion(windows: Sequence[Tally]) -> float:
    """How much more than independent failures those of successive windows vary: 0 for independent ones.

    Bursts may be longer than a window, so that windows are also looked at in groups of 2, 4, 8 ... and the worst scale
    counts. Where bursts are evident, one standard error is added, for few blocks know them badly; where they are not,
    one is taken off, so that chance is not taken for bursts.
    """
    blocks, worst = [t for t in windows if t.requests], 0.0
    while len(blocks) >= _FEWEST_BLOCKS:
        spread = _pearson(
            sum(t.events * t.events / t.requests for t in blocks),
            sum(t.events for t in blocks),
            sum(t.requests for t in blocks),
            len(blocks),
        )
        worst = max(worst, _beyond_chance(spread, len(blocks)))
        blocks = [
            Tally(a.requests + b.requests, a.events + b.events) for a, b in zip(blocks[::2], blocks[1::2], strict=False)
        ]
    return worst


def _pearson(sum_of_squares: float, events: int, requests: int, blocks: int) -> float:
    """Pearson's chi-square over its degrees of freedom: 1 for independent events."""
    if not 0 < events < requests or blocks < 2:
        return 1.0
    rate = events / requests
    return (sum_of_squares - events * rate) / (rate * (1.0 - rate)) / (blocks - 1)


def _beyond_chance(spread: float, blocks: int) -> float:
    error = math.sqrt(2.0 / (blocks - 1))
    evident = spread > 1.0 + 3.0 * error
    return spread * (1.0 + error) - 1.0 if evident else spread - 1.0 - error


def temper(canary: float, baseline: float, excess: float) -> float:
    """phi: what to divide the log payoff of a window with so many requests by."""
    share = canary / (canary + baseline)
    return 1.0 + 2.0 * share * (1.0 - share) * excess


class LiveDispersion:
    """The excess dispersion seen on the baseline arm so far, for rollouts that start without a history.

    It starts at 0, so the first blocks are taken as independent; a history is better.
    """

    __slots__ = ("_blocks", "_group", "_group_squares", "_open", "_open_seconds", "_squares")

    def __init__(self) -> None:
        self._blocks = 0
        self._squares = self._group_squares = self._open_seconds = 0.0
        self._open = self._group = Tally(0, 0)

    def excess(self, baseline: Tally, total: int) -> float:
        """Excess dispersion of all the traffic, by what the baseline arm showed in closed blocks.

        Args:
            baseline: Everything that was added so far.
            total: Requests of both arms in the same windows.
        """
        if self._blocks < _FEWEST_LIVE_BLOCKS:
            return 0.0
        blocks = _less(baseline, self._open)
        worst = _beyond_chance(_pearson(self._squares, blocks.events, blocks.requests, self._blocks), self._blocks)
        if (groups := self._blocks // _GROUP) >= _FEWEST_LIVE_BLOCKS:
            grouped = _less(blocks, self._group)
            spread = _pearson(self._group_squares, grouped.events, grouped.requests, groups)
            worst = max(worst, _beyond_chance(spread, groups))
        return max(0.0, worst) * total / baseline.requests

    def add(self, window: Tally, seconds: float) -> None:
        """Count one window of the baseline."""
        self._open = Tally(self._open.requests + window.requests, self._open.events + window.events)
        self._open_seconds += seconds
        if self._open_seconds < BLOCK_SECONDS or not self._open.requests:
            return
        self._squares += self._open.events**2 / self._open.requests
        self._blocks += 1
        self._group = Tally(self._group.requests + self._open.requests, self._group.events + self._open.events)
        self._open, self._open_seconds = Tally(0, 0), 0.0
        if self._blocks % _GROUP == 0:
            self._group_squares += self._group.events**2 / self._group.requests
            self._group = Tally(0, 0)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.counts((self._blocks, *self._open, *self._group))
        for value in (self._squares, self._group_squares, self._open_seconds):
            writer.double(value)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._blocks, *counts = reader.counts(5)
        self._open, self._group = Tally(*counts[:2]), Tally(*counts[2:])
        self._squares, self._group_squares, self._open_seconds = (reader.double() for _ in range(3))


def _less(whole: Tally, part: Tally) -> Tally:
    return Tally(whole.requests - part.requests, whole.events - part.events)
