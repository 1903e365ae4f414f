"""`python -m prefect_modeldeploy.sandbox`: see `modeldeploy sandbox start --help`."""

import argparse
import sys
from pathlib import Path

from prefect_modeldeploy.sandbox.server import run


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m prefect_modeldeploy.sandbox", description="Emulators of the hosted serving APIs, on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="of the control API, the vendors follow; 0: free ports")
    parser.add_argument("--providers", default="", help="names with commas between; default: all")
    parser.add_argument("--ready-file", type=Path, help="gets one JSON object when all are ready")
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds per second; 0: instant")
    parser.add_argument("--state", type=Path, help="file that keeps the state over restarts")
    given = parser.parse_args()
    providers = [name for name in given.providers.split(",") if name] or None
    sys.exit(run(given.port, providers, given.ready_file, given.speed, given.state))


if __name__ == "__main__":
    main()
