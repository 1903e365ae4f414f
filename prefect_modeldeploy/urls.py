"""Which addresses may get a secret."""

import ipaddress
from urllib.parse import urlsplit

from prefect_modeldeploy.errors import InvalidInput


def check_base_url(field: str, url: str, *, allow_http: bool = False) -> str:
    """Return `url` without a trailing slash.

    Raises:
        InvalidInput: It is no http(s) URL, or it is plain http to another machine and that was not allowed.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(field, url, "must be an URL such as https://api.example.com")
    if parts.username or parts.password:
        raise InvalidInput(field, f"{parts.scheme}://***@{parts.hostname}", "must not hold a user name or a password")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise InvalidInput(field, url, "plain http would send secrets in clear; use https, or allow it on the block")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
