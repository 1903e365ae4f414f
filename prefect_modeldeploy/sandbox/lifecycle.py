"""Life cycles as pure functions of elapsed time, so that reading a state needs no background task."""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a thing goes through: the vendor's words with their durations, and the word at which it stays.

    Args:
        stages: (vendor's word, seconds at speed 1).
        end: The word afterwards; None means that the thing is gone (a deletion).
        failed: The word when a stage fails.
    """

    stages: tuple[tuple[str, float], ...]
    end: str | None
    failed: str = "FAILED"

    def word(self, elapsed: float, fate: "Fate | None" = None) -> str | None:
        """The vendor's word after `elapsed` seconds (infinity: at speed 0)."""
        for name, seconds in self.stages:
            held = fate if fate is not None and fate.stage == name else None
            if held and held.outcome == "stuck":
                return name
            lasts = seconds * held.factor if held and held.outcome == "slow" else seconds
            if elapsed < lasts:
                return name
            elapsed -= lasts
            if held and held.outcome == "fail":
                return self.failed
        return self.end

    def before(self, stage: str) -> float:
        """Seconds from the start until `stage` begins."""
        return sum(seconds for _, seconds in itertools.takewhile(lambda item: item[0] != stage, self.stages))

    @property
    def duration(self) -> float:
        """Seconds until the end, when all goes well."""
        return sum(seconds for _, seconds in self.stages)


class Fate(BaseModel):
    """What shall become of the next life cycles that match: set by the control API, before they begin.

    `late` is eventual consistency: the new thing is not found by the first `reads` requests that look for it.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field("", description="Given by the sandbox.")
    provider: str = Field("*", description="Provider; a glob.")
    timeline: str = Field("*", description="Name of the life cycle, such as create; a glob.")
    match: str = Field("*", description="Id or name of the thing; a glob.")
    outcome: Literal["fail", "stuck", "slow", "late"] = Field(description="What happens.")
    stage: str | None = Field(None, description="The vendor's word of the stage; default: the last one.")
    factor: float = Field(10.0, gt=0, description="slow: how many times as long the stage lasts.")
    reads: int = Field(2, ge=1, description="late: how many requests do not find it.")
    reason: str = Field("the sandbox was told to fail it", description="fail: shown where the vendor shows reasons.")
    times: int | None = Field(1, ge=1, description="How many life cycles it strikes; None: all.")


class Fates:
    """The fates that wait for their life cycles."""

    def __init__(self) -> None:
        self._waiting: dict[str, Fate] = {}
        self._numbers = itertools.count(1)

    def add(self, fate: Fate) -> Fate:
        """Take a fate up and give it an id."""
        fate = fate.model_copy(update={"id": f"fate-{next(self._numbers)}"})
        self._waiting[fate.id] = fate
        return fate

    def remove(self, fate_id: str | None = None) -> None:
        """Forget one, or all."""
        for known in [fate_id] if fate_id else list(self._waiting):
            self._waiting.pop(known, None)

    def all(self) -> list[Fate]:
        """Those that can still strike."""
        return list(self._waiting.values())

    def draw(
        self,
        provider: str,
        timeline: str,
        names: Collection[str],
        stages: Iterable[str] = (),
        *,
        late: bool = False,
    ) -> Fate | None:
        """The fate of a life cycle that begins now, if there is one; it is used up by this.

        Args:
            provider: Whose life cycle.
            timeline: Its name.
            names: Id and name of the thing.
            stages: The vendor's words of the life cycle; the last one is where an unnamed stage fails.
            late: Whether to draw the fate of being seen late, rather than that of the life cycle itself.
        """
        words = list(stages)
        for fate in self._waiting.values():
            fits = fnmatchcase(provider, fate.provider) and fnmatchcase(timeline, fate.timeline)
            if not fits or late is not (fate.outcome == "late"):
                continue
            if fate.stage is not None and fate.stage not in words:
                continue
            if any(fnmatchcase(name, fate.match) for name in names):
                self._use_up(fate)
                return fate.model_copy(update={"stage": fate.stage or (words[-1] if words else None)})
        return None

    def _use_up(self, fate: Fate) -> None:
        if fate.times is None:
            return
        if fate.times == 1:
            del self._waiting[fate.id]
        else:
            self._waiting[fate.id] = fate.model_copy(update={"times": fate.times - 1})


Life = dict[str, Any]
"""In a record under "life": {"timeline": name, "since": sandbox seconds, "fate": a Fate as JSON or None}."""
