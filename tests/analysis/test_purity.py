"""The analysis stays pure and light: it is imported by processes that must start fast."""

import subprocess
import sys


def test_it_brings_neither_prefect_nor_numpy_nor_pydantic():
    program = "import sys, prefect_modeldeploy.analysis; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "prefect_modeldeploy" in loaded
    assert not loaded & {"prefect", "numpy", "scipy", "pydantic", "httpx", "asyncio"}
