"""TLS to vendors as the proxy does it: the same authorities, and a look at a certificate before traffic needs it."""

import asyncio
import ssl

from prefect_modeldeploy.errors import GatewayError, InvalidInput
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.haproxy_config import system_authorities

_PROBE_SECONDS = 10.0


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """Trust what the proxy trusts. Raises InvalidInput for a file that holds no certificates."""
    try:
        return ssl.create_default_context(cafile=ca_file or system_authorities())
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput("ca_file", ca_file, f"cannot be read as PEM on this machine: {error}") from error


async def probe(arm: RemoteArm) -> None:
    """Connect to the vendor once, and check its certificate.

    Raises:
        InvalidInput: The certificate is not trusted, or is another host's.
        GatewayError: The vendor cannot be reached.
    """
    host, port = arm.address
    context = await asyncio.to_thread(client_context, arm.ca_file) if arm.tls else None
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        trusted = f"the authorities in {arm.ca_file}" if arm.ca_file else "the authorities that this machine trusts"
        hint = f"{host}:{port} is not to be trusted by {trusted}: {error.verify_message}"
        raise InvalidInput("ca_file", arm.ca_file, hint) from None
    except (OSError, ssl.SSLError, TimeoutError) as error:
        raise GatewayError(f"{arm.id} cannot be reached at {host}:{port}: {error or type(error).__name__}") from None
    writer.close()
