"""The desired state of the data plane: endpoints, their arms, and the upstreams behind them."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from prefect_modeldeploy.deployments import Name

_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")

WHOLE = 10_000
"""All the requests of an endpoint, in the steps of 0.01 % that weights are made of."""


def check_headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    """Return the headers. Raises ValueError, without their values, for any that HTTP cannot carry."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError(f"the value of {name} must be 1 or more printable ASCII characters")
    return headers


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Model):
    """One address that answers requests: a replica, or a vendor's host."""

    name: Name
    host: str = Field("127.0.0.1", pattern=r"^[A-Za-z0-9._:-]+$", description="IP address or host name.")
    port: int = Field(ge=1, le=65535)


class Upstream(_Model):
    """One deployment as the proxy sees it.

    With `wakes`, requests that find no server go to the activator, which holds them while the deployment wakes.
    """

    name: Name = Field(description="The deployment's id.")
    servers: tuple[Server, ...] = ()
    wakes: bool = False
    tls: bool = False
    tls_verify: bool = True
    ca_file: str | None = Field(None, pattern=r"^[^\x00-\x1f']+$", description="PEM; None: the system's authorities.")
    host_header: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._:-]+$", description="Host and SNI that the upstream expects."
    )
    path_prefix: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~!$&()*+,;=:@%/-]*[^/])?$", description="Prepended to the path of every request."
    )
    predict_path: str | None = Field(
        None,
        pattern=r"^/[A-Za-z0-9._~!$&()*+,;=:@%/-]*(\?[A-Za-z0-9._~=&%-]*)?$",
        description="Path (and query) of a vendor that stands for /predict. With it all other paths are refused: the "
        "headers below would let clients into the vendor's whole API. None: every path is passed on.",
    )
    health_path: str | None = Field(
        None,
        pattern=r"^/[A-Za-z0-9._~!$&()*+,;=:@%/?-]*$",
        description="Checked in the background; None: no checks.",
    )
    retry_sent: bool = Field(
        True,
        description="Send a request again to another server when one dies before it answered. Switch it off for models "
        "whose requests have side effects; a request that never reached a server is retried in any case.",
    )
    headers: Mapping[str, SecretStr] = Field(
        default_factory=dict, description="Added at the proxy, never visible to clients."
    )

    @field_validator("headers")
    @classmethod
    def _plain(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        return check_headers(headers)


class EndpointArm(_Model):
    """One deployment behind an endpoint, and its share of the requests."""

    name: Name = Field(description="`stable` or `canary`.")
    upstream: str = Field(pattern=r"^[^\s|=]{1,500}$", description="Id of the deployment, as its provider says it.")
    weight: float = Field(ge=0, le=100, description="Percent of the requests, in steps of 0.01.")

    @field_validator("weight")
    @classmethod
    def _steps(cls, weight: float) -> float:
        return _check_step(weight)


class Shadow(_Model):
    """A sampled share of the requests goes to another arm too; the answers are compared, and its own never returned."""

    arm: Name = Field("canary", description="The arm that gets copies; the first other one answers.")
    share: float = Field(gt=0, le=100, description="Percent of the endpoint's requests, in steps of 0.01.")
    tolerance: float = Field(1e-6, ge=0, lt=1, description="Relative difference of numbers that agree all the same.")
    ignore: tuple[str, ...] = Field((), description="Keys of JSON objects that are not compared, such as a request id.")

    @field_validator("share")
    @classmethod
    def _steps(cls, share: float) -> float:
        return _check_step(share)


class Endpoint(_Model):
    """The stable address that clients call, and who answers there."""

    name: Name
    arms: tuple[EndpointArm, ...] = Field(min_length=1)
    epoch: int = Field(
        0, ge=0, description="Raised by every rollout that takes the endpoint over; older ones are refused."
    )
    sticky_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Requests with the same value of this header go to the same arm (while the weights stay).",
    )

    shadow: Shadow | None = Field(None, description="Off by default.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms={names}: every arm needs a name of its own")
        check_weights({arm.name: arm.weight for arm in self.arms})
        if self.shadow and (self.shadow.arm not in names or len(names) < 2):
            raise ValueError(f"shadow.arm={self.shadow.arm!r}: must be one of two arms or more, there are {names}")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Percent of the requests by arm; they sum to 100."""
        return {arm.name: arm.weight for arm in self.arms}

    def with_weights(self, weights: Mapping[str, float]) -> "Endpoint":
        """The same endpoint with other weights; arms that are not named get 0."""
        unknown = set(weights) - {arm.name for arm in self.arms}
        if unknown:
            raise ValueError(
                f"weights={dict(weights)}: {self.name} has no arm {sorted(unknown)}, only {list(self.weights)}"
            )
        arms = tuple(EndpointArm(name=a.name, upstream=a.upstream, weight=weights.get(a.name, 0.0)) for a in self.arms)
        return Endpoint(**{**dict(self), "arms": arms})


def _check_step(weight: float) -> float:
    if Decimal(str(weight)) * 100 % 1:
        raise ValueError(f"weight={weight}: weights go in steps of 0.01 percent")
    return weight


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise ValueError unless the weights are steps of 0.01 that sum to exactly 100 percent."""
    total = sum((Decimal(str(_check_step(weight))) for weight in weights.values()), Decimal(0))
    if total != 100:
        raise ValueError(f"weights={dict(weights)}: they sum to {total}, and must sum to 100")
