"""A portfolio of bets against one hypothesis (F2): nobody knows how bad the canary is, so bet a little on every answer.

The wealth of the portfolio is an e-process: a mixture of e-processes is one, and so is a mixture whose shares are moved
around between windows, as long as that is done without looking ahead. Two such moves make it fit for rollouts:

- one share is *cash* (a bet that always pays 1), so that an hour of good behaviour cannot lose everything;
- a little of the wealth is spread anew all the time (Herbster and Warmuth's fixed share), so that a canary which
  turns bad after an hour is found nearly as fast as one that was bad from the start.
"""

import math
import struct
from collections.abc import Sequence

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.evalue import log_sum

MEMORY_SECONDS = 3600.0
"""The time in which a share 1 - 1/e of the wealth is spread anew."""

_ROUND = 1.2e-7


def round_down(logs: Sequence[float]) -> list[float]:
    """Round to 32-bit floats, never upwards.

    A judge is saved after every window, in little space. It therefore keeps nothing that is finer than what it saves:
    with or without a restart in between, the same windows give the same bits. Rounding down never makes evidence.
    """
    layout = f"<{len(logs)}f"
    return list(struct.unpack(layout, struct.pack(layout, *[x - abs(x) * _ROUND for x in logs])))


class Portfolio:
    """The wealth on each bet, as logarithms; they start at the log of their shares, which sum to 1."""

    __slots__ = ("_shares", "_wealth", "log_wealth")

    def __init__(self, shares: Sequence[float]) -> None:
        total = math.fsum(shares)
        self._shares = [share / total for share in shares]
        self._wealth = round_down([math.log(share) for share in self._shares])
        self.log_wealth = log_sum(self._wealth)
        """Log evidence now."""

    def settle(self, payoffs: Sequence[float], seconds: float) -> None:
        """Pay one window's log payoffs (one for each bet), then spread a little of the wealth anew."""
        wealth = [have + payoff for have, payoff in zip(self._wealth, payoffs, strict=True)]
        if seconds > 0.0:
            top = max(wealth)
            linear = [math.exp(have - top) for have in wealth]
            moved = -math.expm1(-seconds / MEMORY_SECONDS)
            pool = moved * sum(linear)
            wealth = [
                top + math.log((1.0 - moved) * have + pool * share)
                for have, share in zip(linear, self._shares, strict=True)
            ]
        self._wealth = round_down(wealth)
        self.log_wealth = log_sum(self._wealth)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.singles(self._wealth)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._wealth = reader.singles(len(self._shares))
        self.log_wealth = log_sum(self._wealth)
