"""A golden set: what is read, what is sent, what is counted."""

from pathlib import Path

import pytest

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Quality, Window
from prefect_modeldeploy.providers.baseten import BasetenClient
from prefect_modeldeploy.sources.golden import GoldenSet
from prefect_modeldeploy.traffic.answers import Example
from prefect_modeldeploy.transport import RetryPolicy
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of

EXAMPLES = tuple(Example(input={"x": [number, 1]}, expected={"sum": number + 1}) for number in range(70))


def test_a_file_holds_an_example_a_line(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text("".join(f"{example.model_dump_json()}\n\n" for example in EXAMPLES))
    assert GoldenSet.read(file).examples == EXAMPLES
    assert GoldenSet.read(file).digest == GoldenSet.read(EXAMPLES).digest != GoldenSet.read(EXAMPLES[1:]).digest


@pytest.mark.parametrize("line", ["{", '{"input": "secret"}', '{"input": 1, "expected": 2, "label": "secret"}'])
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(f"{EXAMPLES[0].model_dump_json()}\n{line}\n")
    with pytest.raises(InvalidInput, match="line 2") as caught:
        GoldenSet.read(file)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be read"):
        GoldenSet.read(tmp_path / "nowhere.jsonl")


async def _ask(client: BasetenClient, stable: str, canary: str) -> list[Window]:
    return [window async for window in GoldenSet(EXAMPLES).ask(client, stable, canary, 1e-6)]


async def test_every_example_is_counted_once_on_both_arms(tmp_path: Path) -> None:
    async with baseten() as (sandbox, client):
        canary = await client.create(spec_of(make_truss(tmp_path)))
        windows = await _ask(client, seeded(sandbox), canary.id)
    assert [window.canary.requests for window in windows] == [50, 20]
    for arm in (sum((w.canary for w in windows[1:]), windows[0].canary), windows[0].baseline + windows[1].baseline):
        assert (arm.requests, arm.failures) == (70, 0)
        assert arm.quality is not None
        assert (arm.quality.labelled, arm.quality.correct) == (70, 70)
        assert arm.latency is not None
        assert arm.latency.count == 70
    assert windows[0].canary.quality == Quality(50, 50, 50, 50)


async def test_what_fails_is_a_failure_and_no_answer(tmp_path: Path) -> None:
    policy = RetryPolicy(attempts=1)
    async with baseten(policy=policy) as (sandbox, client):
        canary = await client.create(spec_of(make_truss(tmp_path)))
        await sandbox.control.behave(provider="baseten", match="v2", error_rate=1.0)
        windows = await _ask(client, seeded(sandbox), canary.id)
    assert [window.canary.failures for window in windows] == [50, 20]
    assert [window.canary.quality for window in windows] == [Quality(), Quality()]
    assert [window.baseline.failures for window in windows] == [0, 0]


async def test_wrong_credentials_are_no_evidence(tmp_path: Path) -> None:
    async with baseten() as (sandbox, client):
        stable, canary = seeded(sandbox), (await client.create(spec_of(make_truss(tmp_path)))).id
        await sandbox.control.fault(provider="baseten", path="*predict*", kind="status", status=401, times=None)
        windows = await _ask(client, stable, canary)
    assert sum(window.canary.requests + window.baseline.requests for window in windows) == 0
