"""The Deployment Spec, checked before it is sent: every bound of the vendor's schema, and the field in the message."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_modeldeploy.deployments import Autoscaling, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.gradient.config import (
    changed,
    env_of,
    holds,
    new_config,
    scaled,
    serving,
    set_env,
    started,
    stopped,
)
from prefect_modeldeploy.providers.gradient.spec import Config, check
from tests.providers.gradient_kit import a_spec, graph_spec

V1: Config = {
    "apiVersion": "v1",
    "name": "fraud",
    "image": "nginx",
    "enabled": True,
    "command": ["serve", "--port", "80"],
    "containerRegistry": "mine",
    "env": [{"name": "A", "value": "secret:B"}],
    "region": "ny2",
    "basicAuthKey": "secret:my_secret",
    "integrations": [
        {"type": "model", "id": "mo1", "name": "m", "path": "/opt/models"},
        {"type": "s3", "name": "s", "url": "s3://bucket/x", "accessKeyId": "id", "secretAccessKey": "secret:KEY"},
        {"type": "spaces", "name": "p", "endpoint": "https://space.nyc3.digitaloceanspaces.com"},
        {"type": "volume", "name": "v"},
        {"type": "git-lfs", "name": "g", "url": "https://example.com/repo.git"},
    ],
    "healthChecks": {
        "liveness": {"path": "/live", "port": 80, "headers": [{"name": "H", "value": "v"}], "timeoutSeconds": 1000},
        "readiness": {"exec": {"command": ["true"]}, "initialDelaySeconds": 0, "failureThreshold": 1},
        "startup": {"path": "/", "periodSeconds": 1},
    },
    "resources": {
        "machineType": "A100-80G",
        "ports": [1, 65535],
        "replicas": 0,
        "autoscaling": {
            "enabled": True,
            "maxReplicas": 25,
            "metrics": [
                {"metric": "cpu", "summary": "average", "value": 100},
                {"metric": "memory", "summary": "average", "value": 1},
                {"metric": "requestDuration", "summary": "average", "value": 0.02},
            ],
        },
    },
}
V0: Config = {
    "apiVersion": "v0alpha0",
    "name": "fraud",
    "image": "tensorflow/serving",
    "port": 8501,
    "models": [{"id": "mo1", "path": "/opt/models"}],
    "repositories": {
        "dataset": "d", "mountPath": "/opt", "repositories": [{"url": "https://x", "name": "x", "ref": "main"}],
    },
    "resources": {"instanceType": "A100", "replicas": 1},
}  # fmt: skip


def put(config: Config, path: str, value: Any) -> Config:
    config = deepcopy(config)
    *way, last = path.split(".")
    at: Any = config
    for part in way:
        at = at[int(part)] if part.isdigit() else at[part]
    if value is ...:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return config


def test_a_spec_with_every_field_is_taken() -> None:
    check(V1, "rest")
    check(V0, "rest")
    check({k: v for k, v in {**V0, "protocol": "http2"}.items() if k != "apiVersion"}, "graphql")
    for version in ("v0alpha1", "latest"):
        check({**V1, "apiVersion": version}, "rest")
    check({**{k: v for k, v in V1.items() if k != "healthChecks"}, "healthchecks": V1["healthChecks"]}, "rest")


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("image", ..., "image"),
        ("image", "", "image"),
        ("name", ..., "name"),
        ("resources", ..., "resources"),
        ("apiVersion", "v2", "apiVersion"),
        ("imagee", "x", "imagee"),
        ("port", 80, "port"),
        ("models", [], "models"),
        ("enabled", "yes", "enabled"),
        ("command", "serve", "command"),
        ("env.0.value", "", "env.0.value"),
        ("env.0.extra", 1, "env.0.extra"),
        ("resources.machineType", ..., "resources.machineType"),
        ("resources.instanceType", "C4", "resources.instanceType"),
        ("resources.ports", ..., "resources.ports"),
        ("resources.ports.0", 0, "resources.ports.0"),
        ("resources.ports.1", 65536, "resources.ports.1"),
        ("resources.ports.1", "80", "resources.ports.1"),
        ("resources.replicas", -1, "resources.replicas"),
        ("resources.replicas", 1.5, "resources.replicas"),
        ("resources.autoscaling.maxReplicas", 0, "resources.autoscaling.maxReplicas"),
        ("resources.autoscaling.maxReplicas", 26, "resources.autoscaling.maxReplicas"),
        ("resources.autoscaling.metrics", ..., "resources.autoscaling.metrics"),
        ("resources.autoscaling.metrics.0.metric", "gpu", "resources.autoscaling.metrics.0.metric"),
        ("resources.autoscaling.metrics.0.summary", "max", "resources.autoscaling.metrics.0.summary"),
        ("resources.autoscaling.metrics.0.value", 101, "resources.autoscaling.metrics.0.value"),
        ("resources.autoscaling.metrics.0.value", 12.5, "resources.autoscaling.metrics.0.value"),
        ("resources.autoscaling.metrics.2.value", 0.01, "resources.autoscaling.metrics.2.value"),
        ("resources.autoscaling.scaleCooldown", 5, "resources.autoscaling.scaleCooldown"),
        ("healthChecks.liveness.path", ..., "healthChecks.liveness.path"),
        ("healthChecks.liveness.exec", {"command": []}, "healthChecks.liveness.path"),
        ("healthChecks.liveness.port", 0, "healthChecks.liveness.port"),
        ("healthChecks.liveness.timeoutSeconds", 1001, "healthChecks.liveness.timeoutSeconds"),
        ("healthChecks.readiness.initialDelaySeconds", -1, "healthChecks.readiness.initialDelaySeconds"),
        ("healthChecks.startup.periodSeconds", 0, "healthChecks.startup.periodSeconds"),
        ("integrations.0.id", ..., "integrations.0.id"),
        ("integrations.1.url", "https://bucket/x", "integrations.1.url"),
        ("integrations.1.secretAccessKey", "clear", "integrations.1.secretAccessKey"),
        ("integrations.2.endpoint", "https://example.com", "integrations.2.endpoint"),
        ("integrations.3.url", "x", "integrations.3.url"),
        ("integrations.4.type", "do-spaces", "integrations.4.type"),
    ],
)
def test_a_bad_field_of_v1_is_named(path: str, value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(put(V1, path, value), "rest")
    assert caught.value.field == f"spec.{field}"


def test_more_than_five_integrations_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"spec\.integrations"):
        check({**V1, "integrations": [{"type": "volume", "name": "v"}] * 6}, "rest")


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("port", 0, "port"),
        ("models.0.id", ..., "models.0.id"),
        ("repositories.dataset", ..., "repositories.dataset"),
        ("repositories.repositories.0.url", ..., "repositories.repositories.0.url"),
        ("resources.instanceType", ..., "resources.instanceType"),
        ("integrations", [], "integrations"),
        ("basicAuthKey", "secret:X", "basicAuthKey"),
    ],
)
def test_a_bad_field_of_v0_is_named(path: str, value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(put(V0, path, value), "rest")
    assert caught.value.field == f"spec.{field}"


@pytest.mark.parametrize("field", ["region", "healthChecks", "integrations", "basicAuthKey", "apiVersion"])
def test_what_graphql_lacks_is_refused_by_name(field: str) -> None:
    config = {k: v for k, v in V0.items() if k != "apiVersion"}
    with pytest.raises(InvalidInput, match=f"spec.{field}=.*GraphQL has no such field"):
        check({**config, field: V1[field]}, "graphql")


@pytest.mark.parametrize("path", ["env.0.value", "integrations.1.secretAccessKey", "basicAuthKey"])
def test_a_secret_is_never_in_the_message(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(put(V1, path, 12345678), "rest")
    assert "12345678" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"source": None}, "spec.source"),
        ({"resources": None}, "spec.resources.instance_type"),
        ({"options": {}}, "spec.options.resources.ports"),
        ({"resources": Resources(instance_type="C4", gpu_count=1)}, "spec.resources.gpu_count"),
        ({"resources": Resources(cpu_millicores=500)}, "spec.resources.cpu_millicores"),
        ({"options": {"image": "x"}}, "spec.options.image"),
        ({"options": {"name": "x"}}, "spec.options.name"),
        ({"options": {"env": []}}, "spec.options.env"),
        ({"options": {"resources": {"ports": [80]}, "colour": "red"}}, "spec.colour"),
        ({"autoscaling": Autoscaling(min_replicas=0)}, "spec.autoscaling.min_replicas"),
        ({"env": {"A": ""}}, "spec.env.0.value"),
    ],
)
def test_a_spec_of_ours_that_cannot_work_names_our_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        new_config(a_spec(**fields), "rest")
    assert caught.value.field == field


def test_all_of_the_vendors_own_fields_can_be_given_as_options() -> None:
    options = {k: v for k, v in V1.items() if k not in ("name", "image", "env")}
    config = new_config(a_spec(options=options, resources=None, autoscaling=None), "rest")
    assert {k: config[k] for k in options} == options


def test_the_older_dialects_have_their_own_names() -> None:
    older = new_config(a_spec(options={"apiVersion": "v0alpha0", "port": 80}), "rest")
    assert older["resources"] == {"instanceType": "C4", "replicas": 1}
    graphql = new_config(graph_spec(), "graphql")
    assert (graphql["port"], graphql["resources"]["instanceType"], "apiVersion" in graphql) == (8000, "C4", False)


# --- whole-spec upserts must not lose fields --------------------------------------------------------------------------

UNKNOWN = {"future": {"a": [1]}, "resources": {**V1["resources"], "replicas": 2, "spot": True}}


@pytest.mark.parametrize(
    "change",
    [
        stopped,
        started,
        lambda c: scaled(c, Autoscaling(min_replicas=3)),
        lambda c: changed(c, DeploymentUpdate(source="new")),
        lambda c: changed(c, DeploymentUpdate(env={"B": "2"})),
        lambda c: changed(c, DeploymentUpdate(options={"resources": {"ports": [81]}})),
        lambda c: serving(c, {**V1, "image": "new"}),
    ],
)
def test_no_change_loses_a_field_that_this_version_does_not_know(change: Any) -> None:
    before = {**deepcopy(V1), **UNKNOWN}
    kept = deepcopy(before)
    after = change(before)
    assert before == kept, "the argument is not touched"
    assert after["future"] == {"a": [1]}
    assert after["resources"]["spot"] is True
    assert set(before) <= set(after)
    check(after, "rest", known=before)


def test_an_unknown_field_that_the_vendor_does_not_have_is_still_refused() -> None:
    with pytest.raises(InvalidInput, match=r"resources\.typo"):
        check({**V1, "resources": {**V1["resources"], "typo": 1}}, "rest", known=V1)


@given(
    st.dictionaries(st.sampled_from("ABCD"), st.sampled_from("123"), max_size=4),
    st.dictionaries(st.sampled_from("ABCD"), st.sampled_from("123") | st.none()),
)
def test_setting_variables_sets_them_and_no_others(before: dict[str, str], change: dict[str, str | None]) -> None:
    config: Config = {"env": [{"name": k, "value": v} for k, v in before.items()]}
    set_env(config, change)
    expected = {k: v for k, v in {**before, **change}.items() if v is not None}
    assert env_of(config) == expected


def test_defaults_that_the_vendor_adds_are_no_difference() -> None:
    stored = {**V1, "extra": 1, "resources": {**V1["resources"], "more": 2}}
    assert holds(stored, V1)
    assert not holds({**stored, "image": "other"}, V1)
    assert not holds({**stored, "env": []}, V1)
    assert not holds(None, V1)
