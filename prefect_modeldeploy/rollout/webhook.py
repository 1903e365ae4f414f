"""Webhooks as gates: somebody else's program is asked before traffic moves forward."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_modeldeploy.urls import check_base_url


class WebhookGate(BaseModel):
    """A URL that has to say yes.

    It gets a POST with JSON: the rollout, its endpoint and versions, the step, the weights and the evidence. Any 2xx is
    a yes, unless its JSON says `{"allow": false, "reason": "..."}`; that and any 4xx is a no. 5xx, 408, 429 and silence
    are no answer: the gate stays closed and is asked again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="https, or http on this machine. It is kept in the record: no secrets in it.")
    before: tuple[Literal["step", "promotion"], ...] = Field(
        ("step", "promotion"), description="When it is asked: before each step, before the promotion."
    )
    token_secret: str | None = Field(
        None, description="Name of a saved Secret block, whose value is sent as a bearer token."
    )
    timeout_seconds: float = Field(10.0, gt=0, le=300, description="Seconds until no answer counts as none.")
    on_no: Literal["hold", "roll_back"] = Field(
        "hold",
        description="What a no means: the weights stay and it is asked again, or all traffic goes back to stable.",
    )
    again_seconds: float = Field(30.0, gt=0, description="Seconds until it is asked again.")
    hold_seconds: float = Field(
        3600.0, gt=0, description="Seconds to wait for a yes; then all traffic goes back to stable."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        check_base_url("url", url)
        return url
