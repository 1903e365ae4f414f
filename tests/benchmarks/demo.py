"""How long the demo takes, and what it loses: `python -m tests.benchmarks.demo [N]`.

Runs `modeldeploy demo --json` N times (default 1), each with homes of its own for us and for Prefect: as after the
install, Prefect makes its database first. The load printed is that of the machine before it began.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def measure() -> None:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        for name in ("MODELDEPLOY_HOME", "PREFECT_HOME"):
            environment[name] = str(Path(directory) / name.lower())
        command = [sys.executable, "-m", "prefect_modeldeploy.cli", "demo", "--json"]
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=900)
    facts = json.loads(ended.stdout.splitlines()[-1])
    requests, wake = facts["requests"], facts["wake_seconds"]
    print(
        f"exit code {ended.returncode}: {facts['seconds']:.1f} s (to reach: under 120 on 2 idle cores; load before "
        f"{load:.1f} on {cores}), {requests['sent']} sent, {requests['lost']} lost (0), "
        f"{requests['failed_by_model']} failed by a model, wake {wake} s; "
        + ", ".join(f"version {each['version']} {each['outcome']} in {each['seconds']} s" for each in facts["rollouts"])
    )
    for unmet in facts["unmet"]:
        print(f"  not as expected: {unmet}")


if __name__ == "__main__":
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        measure()
