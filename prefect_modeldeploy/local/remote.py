"""The control API for other machines: the same routes and token, over TLS, at an address that the user names."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from prefect_modeldeploy.errors import NodeError
from prefect_modeldeploy.local.store import Store

_ADDRESS, _CERTIFICATE = "remote_address", "remote_certificate"
NOWHERE = "none"
"""The address that makes a node forget the one it had."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Where other machines reach a node."""

    host: str
    port: int
    certificate: Path

    @classmethod
    def of(cls, store: Store, address: str | None, certificate: str | None) -> Self | None:
        """What is asked for, else what the last node had; None for a node that only this machine reaches.

        Raises:
            NodeError: The address is none, or the certificate is missing or cannot be read.
        """
        if address == NOWHERE:
            store.put(_ADDRESS, "")
            return None
        address, certificate = address or store.get(_ADDRESS), certificate or store.get(_CERTIFICATE)
        if not address:
            return None
        host, port = _parsed(address)
        return cls(host, port, Path(_checked(address, certificate)))

    @property
    def url(self) -> str:
        """What others call."""
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def listen(self, store: Store) -> socket.socket:
        """A listening socket; what works is remembered. Raises NodeError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            hint = 'name another with --remote, or "none"'
            raise NodeError(f"remote={self.url}: cannot listen there ({error}); {hint}") from error
        store.put(_ADDRESS, self.url.removeprefix("https://"))
        store.put(_CERTIFICATE, str(self.certificate))
        return listener


def _parsed(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise NodeError(f"remote={address!r}: must be an address and a port of this machine, such as 10.0.0.5:8443")
    return host, port


def _checked(address: str, certificate: str | None) -> str:
    if not certificate:
        raise NodeError(
            f"remote={address!r}: the token must not go over the network in clear; give a --certificate as well, "
            "a PEM file with certificate and private key"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise NodeError(
            f"certificate={certificate}: cannot be read as PEM with certificate and private key ({error})"
        ) from error
    return certificate
