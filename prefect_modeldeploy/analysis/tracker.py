"""What the judge asks of every metric's evidence. See `metrics.py` for the metrics."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import Growth
from prefect_modeldeploy.measurements import Window


class Reading(NamedTuple):
    """The value of a metric on each arm so far, in its own unit, as a report shows it."""

    canary: float
    baseline: float


class Tracker(ABC):
    """The evidence about one metric: fed window by window, saved and restored between them."""

    @abstractmethod
    def observe(self, window: Window) -> None:
        """Count one window. A window without data for this metric changes nothing."""

    @property
    @abstractmethod
    def log_harm(self) -> float:
        """Log of an e-process against "the canary is no worse"."""

    @property
    @abstractmethod
    def log_safe(self) -> float:
        """Log of an e-process against "the canary is worse by the margin, or more"."""

    @property
    @abstractmethod
    def reading(self) -> Reading | None:
        """What was seen so far on both arms; None without data."""

    @property
    def what(self) -> str:
        """What exactly `reading` counts, where the metric's name does not say it."""
        return ""

    @abstractmethod
    def growth(self, canary: float, baseline: float) -> Growth:
        """Growth of the evidence in nats a second, at so many requests a second on each arm."""

    @abstractmethod
    def write(self, writer: Writer) -> None:
        """Save everything that changes."""

    @abstractmethod
    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
