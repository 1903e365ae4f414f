"""Our words and Foundry's runtime configuration; versions and their history. Nothing is sent here."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prefect_modeldeploy.deployments import Autoscaling, Resources
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.foundry import history
from prefect_modeldeploy.providers.foundry.config import (
    Options,
    configured,
    memory_mib,
    read_autoscaling,
    read_resources,
)
from prefect_modeldeploy.providers.foundry.model_api import ModelApi, NewVersion
from prefect_modeldeploy.providers.foundry.types import (
    DirectTarget,
    Duration,
    Gpu,
    ModelVersion,
    RuntimeConfiguration,
    ScalingConfiguration,
    VersionSource,
    checked,
)

BARE = {"minReplicas": 1, "maxReplicas": 1, "sources": [], "environmentVariables": {}}


def test_what_is_not_said_is_one_replica() -> None:
    assert configured({}) == BARE


@pytest.mark.parametrize(
    ("autoscaling", "expected"),
    [
        (Autoscaling(min_replicas=3), {"minReplicas": 3, "maxReplicas": 3}),
        (Autoscaling(min_replicas=0), {"minReplicas": 0, "maxReplicas": 1}),
        (Autoscaling(max_replicas=4), {"minReplicas": 1, "maxReplicas": 4}),
    ],
)
def test_replicas(autoscaling: Autoscaling, expected: dict[str, Any]) -> None:
    assert configured({}, autoscaling=autoscaling) == {**BARE, **expected}


def test_the_autoscalers_aim_is_a_share_of_the_threads() -> None:
    config = configured({}, autoscaling=Autoscaling(target_concurrency=8), options=Options(thread_count=16))
    assert config["scalingConfiguration"] == {
        "scaleUpLoadThreshold": 0.5,
        "scaleUpDelay": {"value": 1, "unit": "MINUTES"},
        "scaleDownDelay": {"value": 30, "unit": "MINUTES"},
    }


def test_delays_keep_milliseconds_and_their_order() -> None:
    wanted = Autoscaling(scale_down_delay_seconds=90, window_seconds=0.25)
    scaling = configured({}, autoscaling=wanted)["scalingConfiguration"]
    assert scaling["scaleDownDelay"] == {"value": 90, "unit": "SECONDS"}
    assert scaling["scaleUpDelay"] == {"value": 250, "unit": "MILLISECONDS"}
    short = configured({}, autoscaling=Autoscaling(scale_down_delay_seconds=20))["scalingConfiguration"]
    assert short["scaleUpDelay"] == {"value": 20, "unit": "SECONDS"}, "our default gives way"
    with pytest.raises(InvalidInput, match="scale_down_delay_seconds"):
        configured({}, autoscaling=Autoscaling(scale_down_delay_seconds=20, window_seconds=30))
    with pytest.raises(InvalidInput, match="scale-up delay of 60 s"):
        configured({"scalingConfiguration": scaling | {"scaleUpDelay": {"value": 1, "unit": "MINUTES"}}},
                   autoscaling=Autoscaling(scale_down_delay_seconds=20))  # fmt: skip


@pytest.mark.parametrize(
    ("current", "autoscaling", "field"),
    [
        ({"minReplicas": 1, "maxReplicas": 2}, Autoscaling(min_replicas=3), "autoscaling.min_replicas"),
        ({"minReplicas": 3, "maxReplicas": 4}, Autoscaling(max_replicas=2), "autoscaling.max_replicas"),
        ({"threadCount": 4}, Autoscaling(target_concurrency=5), "autoscaling.target_concurrency"),
    ],
)
def test_a_change_that_does_not_fit_what_is_there_names_the_field(
    current: dict[str, Any], autoscaling: Autoscaling, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        configured(current, autoscaling=autoscaling)
    assert caught.value.field == field


def test_a_gpu_can_be_given_and_taken_away() -> None:
    config = configured({}, resources=Resources(gpu_type="L4", gpu_count=2))
    assert config["gpu"] == {"count": 2, "type": "L4"}
    assert configured(config, resources=Resources(gpu_count=3))["gpu"] == {"count": 3, "type": "L4"}
    assert "gpu" not in configured(config, resources=Resources(gpu_count=0))


@given(
    least=st.integers(0, 5),
    more=st.integers(1, 5),
    target=st.none() | st.integers(1, 32),
    down=st.none() | st.integers(60, 10**6),
    cpu=st.none() | st.integers(1, 64_000),
    memory=st.none() | st.integers(1, 10**6),
    gpus=st.none() | st.integers(1, 8),
)
def test_what_was_written_is_read_again(
    least: int, more: int, target: int | None, down: int | None, cpu: int | None, memory: int | None, gpus: int | None
) -> None:
    autoscaling = Autoscaling(
        min_replicas=least, max_replicas=least + more, target_concurrency=target, scale_down_delay_seconds=down
    )
    resources = Resources(cpu_millicores=cpu, memory_mib=memory, gpu_count=gpus)
    config = configured({}, autoscaling=autoscaling, resources=resources)
    checked(RuntimeConfiguration, "", config)
    assert read_resources(config) == resources
    read = read_autoscaling(config)
    assert read is not None
    for field, value in autoscaling.model_dump(exclude_none=True).items():
        assert getattr(read, field) == value


FIELDS = ["minReplicas", "maxReplicas", "cpu", "memory", "gpu", "threadCount", "scalingConfiguration"]
ODD = [{"count": -1, "type": 7}, {"scaleUpLoadThreshold": "x", "scaleDownDelay": {"value": -1, "unit": "AEONS"}}]
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
@example({"minReplicas": float("nan"), "cpu": float("inf"), "threadCount": 10**400})
def test_nothing_that_a_vendor_may_answer_breaks_the_reading(config: dict[str, Any]) -> None:
    read_autoscaling(config)
    read_resources(config)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("256MiB", 256), ("1GiB", 1024), ("1.5GiB", 1536), ("2Gi", 2048), ("512 MB", 488), ("1TiB", 1048576),
     ("1048576", 1), ("10B", None), ("much", None), (None, None), (5, None), ("\u0661GiB", None)],
)  # fmt: skip
def test_memory(text: object, mib: int | None) -> None:
    assert memory_mib(text) == mib


@pytest.mark.parametrize(
    ("model", "values", "field"),
    [
        (RuntimeConfiguration, {"min_replicas": -1, "max_replicas": 1}, "minReplicas"),
        (RuntimeConfiguration, {"min_replicas": 0, "max_replicas": 0}, "maxReplicas"),
        (RuntimeConfiguration, {"min_replicas": 2, "max_replicas": 1}, ""),
        (RuntimeConfiguration, {"min_replicas": 1}, "maxReplicas"),
        (RuntimeConfiguration, {"min_replicas": 1, "max_replicas": 1, "memory": "much"}, "memory"),
        (RuntimeConfiguration, {"min_replicas": 1, "max_replicas": 1, "cpu": 0}, "cpu"),
        (RuntimeConfiguration, {"min_replicas": 1, "max_replicas": 1, "thread_count": 0}, "threadCount"),
        (RuntimeConfiguration, {"min_replicas": 1, "max_replicas": 1, "sources": ["x"]}, "sources.0"),
        (RuntimeConfiguration, {"min_replicas": 1, "max_replicas": 1, "typo": 1}, "typo"),
        (Gpu, {"count": 0}, "count"),
        (Gpu, {"count": 1, "type": "T5"}, "type"),
        (ScalingConfiguration, {"scale_up_load_threshold": 1.1}, "scaleUpLoadThreshold"),
        (
            ScalingConfiguration,
            {"scale_up_delay": {"value": 2, "unit": "HOURS"}, "scale_down_delay": {"value": 1, "unit": "HOURS"}},
            "",
        ),
        (Duration, {"value": -1, "unit": "SECONDS"}, "value"),
        (Duration, {"value": 1, "unit": "AEONS"}, "unit"),
        (DirectTarget, {"model_rid": "fraud", "branch": "b"}, "modelRid"),
        (DirectTarget, {"model_rid": "ri.a..b.c", "branch": ""}, "branch"),
        (ModelApi, {"inputs": [{"type": "parameter", "name": "x"}]}, "inputs.0.parameter.dataType"),
        (NewVersion, {"model_api": {}}, "modelFiles"),
    ],
)
def test_a_request_that_breaks_a_bound_names_its_field(model: Any, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(model, "", values)
    assert caught.value.field.replace("_", "").lower() == field.replace("_", "").lower()


def test_a_model_api_is_as_the_vendor_writes_it() -> None:
    wire = {
        "inputs": [
            {
                "type": "tabular", "name": "df", "format": "PANDAS",
                "columns": [{"name": "a", "dataType": {"type": "array", "itemType": {"type": "double"}}}],
            },
            {"type": "parameter", "name": "m", "required": False,
             "dataType": {"type": "map", "keyType": {"type": "string"}, "valueType": {"type": "any"}}},
        ],
        "outputs": [],
    }  # fmt: skip
    assert ModelApi.model_validate(wire).wire() == wire


# --- history ------------------------------------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)


def branch(*versions: str) -> list[ModelVersion]:
    """`branch("a", "b", "c<a")`: c is a promoted copy of a. The oldest first."""
    found = []
    for age, text in enumerate(versions):
        rid, _, source = text.partition("<")
        about = VersionSource(type="promoted", previous_model_version_rid=source) if source else None
        found.append(ModelVersion(rid=rid, created_time=START + timedelta(seconds=age), source=about))
    return found


@pytest.mark.parametrize(
    ("versions", "former"),
    [
        ((), None),
        (("a",), None),
        (("a", "b"), "a"),
        (("a", "b<x"), "a"),
        (("a", "b<x", "c<y"), "b"),
        (("a", "b<x", "c<a"), None),
        (("a", "b<x", "c<y", "d<x"), "a"),
        (("a", "b<x", "c<y", "d<b"), "a"),
        (("a", "b<x", "c<a", "d<y"), "a"),
        (("a<b", "b<a"), "a"),
    ],
)
def test_the_version_to_return_to(versions: tuple[str, ...], former: str | None) -> None:
    for order in (1, -1):  # the API promises none
        found = history.former(branch(*versions)[::order])
        assert (found and found.rid) == former


def test_a_copy_of_a_copy_is_the_same_content() -> None:
    versions = branch("a", "b<a", "c<b", "d<x")
    assert [history.origin(rid, versions) for rid in "abcd"] == ["a", "a", "a", "x"]
    assert history.origin("unknown", versions) == "unknown"


def test_versions_without_a_time_are_the_oldest() -> None:
    versions = [*branch("a"), ModelVersion(rid="b"), ModelVersion(rid="c", created_time=datetime(2027, 1, 1))]
    newest = history.newest(versions)
    assert newest is not None
    assert newest.rid == "c"
