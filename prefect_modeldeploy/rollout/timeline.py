"""What happened window by window: the series that the report plots."""

from pydantic import BaseModel, ConfigDict, Field


class ArmPoint(BaseModel):
    """What one arm experienced in one window."""

    model_config = ConfigDict(frozen=True)

    requests: int
    failures: int
    p50: float | None = Field(None, description="Seconds; None without requests.")
    p99: float | None = Field(None, description="Seconds; None without requests.")


class Point(BaseModel):
    """One window, and the evidence after it."""

    model_config = ConfigDict(frozen=True)

    at: float = Field(description="Seconds since the rollout started, at the end of the window.")
    seconds: float = Field(description="Length of the window.")
    weight: float = Field(description="Percent of the requests asked for the canary.")
    canary: ArmPoint
    stable: ArmPoint
    harm: dict[str, float] = Field(default_factory=dict, description="ln of the evidence of harm, by metric.")
    safe: dict[str, float] = Field(default_factory=dict, description="ln of the evidence of safety, by metric.")
