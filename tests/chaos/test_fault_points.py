"""A sample of the fault-point harness; `python -m tests.chaos.fault_points` tries every point."""

from pathlib import Path

import pytest

from tests.chaos.fault_points import points, show, try_points
from tests.chaos.stories import STORIES

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
    ("promotion", "promote:before", "ui cancel"),
    ("way back", "promote:after", "kill"),
    ("asked", "ask:after", "kill"),
    ("evening local", "let go:after", "kill"),
    ("morning scale", "put back:after", "kill"),
    ("native baseten", "promote:after", "kill"),
    ("native way back scale", "hand_over:after", "kill"),
    ("native scale", "hand_over:after", "lost answer"),
    ("native foundry", "hand_over:after", "ui cancel"),
    ("native fiddler", "deploy:after", "kill"),
    ("canary scale", "shift:after", "kill"),
    ("canary foundry", "promote:after", "kill"),
    ("broken canary gradient", "restore:after", "kill"),
    ("baked", "bake:after", "kill"),
    ("canary", "write the end:after", "kill"),
    ("golden set", "observe:after", "kill"),
    ("way back to", "promote:after", "kill"),
    ("way back in flight", "take over:after", "kill"),
    ("native refused scale", "hand_over:after", "kill"),
    ("native called off", "restore:before", "kill"),
    ("rolling", "fill:after", "kill"),
    ("canary", "shift:before", "stop"),
)


BOUNDED = (
    ("canary", "shift:after", "kill"),
    ("native scale", "hand_over:after", "kill"),
    ("evening local", "let go:after", "kill"),
)
"""What every run of CI tries."""


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_process_that_is_killed_leaves_nothing_undone(tmp_path: Path, prefect_server: None) -> None:
    trials = await try_points(tmp_path, BOUNDED)
    assert show(trials)
    assert len(trials) == len(BOUNDED)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_whatever_dies_the_end_is_one_that_the_plan_allows(tmp_path: Path, prefect_server: None) -> None:
    trials = await try_points(tmp_path, SAMPLE)
    assert show(trials)
    assert len(trials) == len(SAMPLE)


def test_the_sample_is_of_points_that_exist() -> None:
    assert {*SAMPLE, *BOUNDED} <= {(story, *point) for story in STORIES for point in points(story)}
