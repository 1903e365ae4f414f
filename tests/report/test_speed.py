"""How long a report takes, and how large it is: printed, not asserted."""

import subprocess
import sys
import time

import pytest

from prefect_modeldeploy.report import report_html, report_markdown
from prefect_modeldeploy.report.plots import plots

from .simulated_rollouts import ALL


@pytest.mark.benchmark
def test_time_and_size_of_reports(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time; t = time.perf_counter(); from matplotlib.figure import Figure; print(time.perf_counter() - t)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    with capsys.disabled():
        print(f"\nimport of matplotlib, once a process: {float(loaded):.2f} s")
        for name, make in ALL.items():
            rollout, points = make()
            taken, sizes = [], []
            for render in (report_html, report_markdown):
                started = time.perf_counter()
                sizes.append(len(render(rollout, points)))
                taken.append(time.perf_counter() - started)
            largest = max((len(plot.svg) for plot in plots(rollout, points)), default=0)
            print(
                f"{name:14} {len(points):6} windows: HTML {taken[0]:.2f} s {sizes[0] / 1000:.0f} kB, "
                f"Markdown {taken[1]:.2f} s {sizes[1] / 1000:.0f} kB, largest plot {largest / 1000:.0f} kB"
            )
