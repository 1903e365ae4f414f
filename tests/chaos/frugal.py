"""What spares the trials work that no look depends on: an environment for lanes and all that they start."""

from pathlib import Path

import certifi

_IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "TRIGGERS", "TASK_RUN_RECORDER")
"""No story has a schedule, a work pool or an automation, and a flow asks for none of its task runs."""


def environment(directory: Path) -> dict[str, str]:
    """Variables that Prefect's server and its clients read when they are imported.

    Args:
        directory: Where a file goes.
    """
    return {
        **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _IDLE_SERVICES},
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        # Each client of Prefect reads the authorities anew, all 150: that costs more than what it asks for over HTTP.
        "SSL_CERT_FILE": str(_one_authority(directory)),
    }


def _one_authority(directory: Path) -> Path:
    end = "-----END CERTIFICATE-----\n"
    path = directory / "authority.pem"
    path.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    return path
