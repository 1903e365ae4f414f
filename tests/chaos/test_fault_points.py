"""A sample of the fault-point harness; `python -m tests.chaos.fault_points` tries every point."""

from pathlib import Path

import pytest

from prefect_modeldeploy.local.autostart import stop_node
from tests.chaos.fault_points import EFFECTS, points, show, try_points

SAMPLE = (
    ("canary", "claim:after", "kill"),
    ("canary", "deploy:after", "kill"),
    ("canary", "attach:before", "sigterm"),
    ("canary", "shift:after", "kill"),
    ("canary", "shift:after", "lost answer"),
    ("canary", "observe:after", "exception"),
    ("canary", "promote:after", "kill"),
    ("canary", "retire_former:after", "lost answer"),
    ("broken canary", "restore:after", "kill"),
    ("broken canary", "retire_canary:before", "kill"),
    ("promotion", "fill:after", "sigterm"),
    ("native baseten", "promote:after", "kill"),
    ("native scale", "promote:after", "lost answer"),
    ("native fiddler", "deploy:after", "kill"),
)


@pytest.mark.chaos
async def test_whatever_dies_the_end_is_one_that_the_plan_allows(tmp_path: Path, prefect_server: None) -> None:
    try:
        trials = await try_points(tmp_path, SAMPLE)
    finally:
        await stop_node(tmp_path)
    assert show(trials)
    assert len(trials) == len(SAMPLE)


def test_the_sample_is_of_points_that_exist() -> None:
    assert set(SAMPLE) <= {(story, *point) for story in EFFECTS for point in points(story)}
