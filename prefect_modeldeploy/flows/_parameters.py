"""Types of parameters that several flows take: their forms have titles and bounds, so wrong input is refused early."""

from typing import Annotated

from pydantic import AfterValidator, Field

from prefect_modeldeploy.target import BlockName, DeploymentTarget


def _not_negative(seconds: float) -> float:
    if not seconds >= 0:  # nor not a number
        raise ValueError(f"{seconds:g} cannot be: 0 or more")
    return seconds


Targets = Annotated[list[DeploymentTarget | BlockName], Field(min_length=1)]

Seconds = Annotated[float, AfterValidator(_not_negative), Field(json_schema_extra={"minimum": 0})]
"""A time that is not negative. Unlike `ge=0`, the error of a flow that is called from Python says the value, too."""
