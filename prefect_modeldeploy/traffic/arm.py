"""A deployment at a provider, as the gateway reaches it: address, TLS, credentials, and what happens to bodies.

The gateway's own wire contract is the local replicas': JSON to `/predict`, JSON back. A vendor that takes and gives
just that is *native*: the proxy changes path and headers only. One that wraps bodies needs an *adapter*, an `Envelope`
that the hop in `adapter.py` puts around the payload and takes off the answer. The proxy tells the hop with each request
which envelope and which vendor: what holds for an arm changes there at once, with everything else about it.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator

from prefect_modeldeploy.deployments import Name
from prefect_modeldeploy.traffic.endpoint import Server, Upstream, check_headers
from prefect_modeldeploy.traffic.envelope import Envelope

Wire = Literal["native", "adapter"]
"""How a deployment fits the gateway's wire contract. One that does not fit at all has no arm."""

ENVELOPE_BYTES = 8000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Grant(_Model):
    """OAuth2 client credentials: the node gets a token with them, sends it as a bearer, and renews it in time."""

    token_url: str = Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", description="Where tokens are given.")
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scopes: tuple[str, ...] = ()


class RemoteArm(_Model):
    """One deployment at a provider, ready to be put behind an endpoint. Its repr and its JSON hide every secret."""

    id: str = Field(min_length=1, max_length=500, pattern=r"^\S+$", description="The deployment's id at its provider.")
    provider: Name
    url: str = Field(
        pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&()*+,;=:@%/-]*)?(\?[A-Za-z0-9._~=&%-]*)?$",
        description="Where predictions are sent. Nothing else of the vendor can be reached through the gateway.",
    )
    replicas: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")], ...] = Field(
        (), description="Further addresses (host:port) that answer as `url` does: the proxy spreads the requests."
    )
    health_path: str | None = Field(
        None,
        pattern=r"^/[A-Za-z0-9._~/-]*$",
        description="Checked at every address in the background; None: no checks.",
    )
    headers: Mapping[str, SecretStr] = Field(default_factory=dict, description="What lets requests in at the vendor.")
    grant: Grant | None = Field(None, description="Or: how to get the token that does.")
    ca_file: str | None = Field(
        None,
        pattern=r"^/[^\x00-\x1f']+$",
        description="PEM file with the authorities to trust, on the gateway's machine. None: those of that machine.",
    )
    adapter: Envelope | None = Field(None, description="How the vendor wraps bodies. None: it does not.")

    _plain = field_validator("headers")(check_headers)

    @field_validator("adapter")
    @classmethod
    def _short(cls, adapter: Envelope | None) -> Envelope | None:
        if adapter and len(adapter.to_header()) > ENVELOPE_BYTES:
            raise ValueError(f"an envelope is at most {ENVELOPE_BYTES} bytes as JSON: it travels with every request")
        return adapter

    @property
    def wire(self) -> Wire:
        """How the deployment fits the gateway's wire contract."""
        return "adapter" if self.adapter else "native"

    @property
    def upstream(self) -> str:
        """Its name in the proxy: ids of vendors have characters and lengths that are none there."""
        return f"{self.provider[:40]}-{hashlib.sha256(self.id.encode()).hexdigest()[:16]}"

    @property
    def vendor(self) -> str:
        """Name in the proxy of the vendor behind the adapter; the same as `upstream` where there is none."""
        return f"{self.upstream}.v" if self.adapter else self.upstream

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the vendor."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        """Whether the vendor is reached over TLS. Its certificate is always verified."""
        return self.url.startswith("https://")

    def upstreams(self, token: SecretStr | None, hop: tuple[str, int]) -> tuple[Upstream, ...]:
        """The arm in the proxy's terms: the vendor, and before it the adapter's hop if it needs one."""
        parts, addresses = urlsplit(self.url), ("{}:{}".format(*self.address), *self.replicas)
        bearer = {"Authorization": SecretStr(f"Bearer {token.get_secret_value()}")} if token else {}
        vendor = Upstream(
            name=self.vendor,
            servers=tuple(_server(host, int(port)) for host, _, port in (one.rpartition(":") for one in addresses)),
            health_path=self.health_path,
            tls=self.tls,
            ca_file=self.ca_file,
            host_header=parts.netloc,
            predict_path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            headers={**self.headers, **bearer},
        )
        if self.adapter is None:
            return (vendor,)
        told = {"X-Modeldeploy-Upstream": self.vendor, "X-Modeldeploy-Envelope": self.adapter.to_header()}
        headers = {name: SecretStr(value) for name, value in told.items()}  # no secrets, but clients cannot choose them
        server = Server(name="adapter", host=hop[0], port=hop[1])
        return vendor, Upstream(name=self.upstream, servers=(server,), headers=headers)

    def revealed(self) -> dict[str, Any]:
        """As JSON with the secrets in clear, for the node's API and its file. Goes nowhere else."""
        shown = self.model_dump(mode="json")
        shown["headers"] = {name: value.get_secret_value() for name, value in self.headers.items()}
        if self.grant is not None:
            shown["grant"]["client_secret"] = self.grant.client_secret.get_secret_value()
        return shown


def _server(host: str, port: int) -> Server:
    """Named by its address: when a replica moves, the former address is drained as any other server that goes."""
    address = hashlib.sha256(f"{host}:{port}".encode()).hexdigest()
    return Server(name=f"vendor-{address[:8]}", host=host, port=port)
