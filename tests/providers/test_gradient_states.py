"""The normative table: the vendor's signs, and what they mean. Each row is a test."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.providers.gradient.answers import (
    Activity,
    Run,
    SpecVersion,
    Stored,
    read_samples,
    without_secrets,
)
from prefect_modeldeploy.providers.gradient.states import state_of
from prefect_modeldeploy.providers.gradient.views import deployment_of, endpoint_url

NOW = (datetime.now(UTC) + timedelta(hours=1)).isoformat()  # lately, however long the session has been running
LONG_AGO = (datetime.now(UTC) - timedelta(minutes=6)).isoformat()
ON = {"enabled": True, "resources": {"replicas": 2}}
OFF = {"enabled": False, "resources": {"replicas": 2}}
ZERO = {"resources": {"replicas": 0}}


def run(ready: int, wanted: int = 2, state: str = "healthy") -> dict[str, Any]:
    instances = [{"id": str(n), "state": state, "stateMessage": "no such image"} for n in range(wanted)]
    return {"id": "r", "replicas": wanted, "readyReplicas": ready, "instances": instances}


@pytest.mark.parametrize(
    ("version", "runs", "status", "word", "ready"),
    [
        (None, None, "UNKNOWN", "invalid", False),
        ({"data": None}, None, "UNKNOWN", "invalid", False),
        ({"data": ON, "error": "no such machine"}, [], "FAILED", "error", False),
        ({"data": OFF}, None, "STOPPING", "disabling", False),
        ({"data": OFF, "externalApplied": NOW}, [run(2)], "STOPPING", "disabling", False),
        ({"data": OFF, "externalApplied": NOW}, [], "STOPPED", "disabled", False),
        ({"data": OFF, "externalApplied": NOW}, None, "STOPPED", "disabled", False),
        ({"data": ZERO, "externalApplied": NOW}, [], "STOPPED", "disabled", False),
        ({"data": ON, "externalApplied": NOW, "dtHealthy": NOW}, None, "READY", "healthy", True),
        ({"data": ON, "externalApplied": NOW, "dtHealthy": NOW}, [run(2)], "READY", "healthy", True),
        ({"data": ON, "externalApplied": NOW, "dtHealthy": NOW}, [run(1)], "DEGRADED", "healthy", True),
        ({"data": ON, "externalApplied": NOW, "dtHealthy": NOW}, [run(0)], "DEGRADED", "healthy", False),
        ({"data": ON, "externalApplied": LONG_AGO}, [run(0, state="errored")], "FAILED", "errored", False),
        ({"data": ON, "externalApplied": LONG_AGO}, [run(0, state="failed")], "FAILED", "failed", False),
        ({"data": ON, "externalApplied": NOW}, [run(0, state="errored")], "STARTING", "applied", False),
        ({"data": ON, "externalApplied": LONG_AGO}, [run(0, state="retrying")], "STARTING", "applied", False),
        ({"data": ON, "externalApplied": NOW}, [run(0, state="pending"), run(2)], "UPDATING", "updating", False),
        ({"data": ON, "externalApplied": NOW}, None, "STARTING", "applied", False),
        ({"data": ON}, None, "PENDING", "submitted", False),
        ({"data": ON}, [run(0, state="a new word")], "PENDING", "submitted", False),
    ],
)
def test_the_table(version: Any, runs: Any, status: str, word: str, ready: bool) -> None:
    read = SpecVersion.model_validate({"id": "s", **version}) if version is not None else None
    state = state_of(read, [Run.model_validate(one) for one in runs] if runs is not None else None)
    assert (state.status, state.word, state.ready) == (DeploymentStatus(status), word, ready)
    assert state.reason or status not in ("FAILED", "UNKNOWN", "DEGRADED")


@pytest.mark.parametrize(
    ("runs", "status"),
    [([run(2)], "READY"), ([run(1)], "STARTING"), ([], "STARTING"), ([run(0, state="errored")], "FAILED")],
)
def test_graphql_has_no_dt_healthy_but_the_runs_of_each_version(runs: Any, status: str) -> None:
    version = SpecVersion.model_validate({"id": "s", "data": ON, "externalApplied": LONG_AGO, "runs": runs})
    assert state_of(version, None).status is DeploymentStatus(status)


# --- tolerant reading -------------------------------------------------------------------------------------------------


def test_an_answer_of_odd_types_is_read_and_kept_whole() -> None:
    odd = {
        "id": "not-hexadecimal", "name": 7, "dtCreated": "yesterday", "teamId": ["x"], "surprise": {"a": 1},
        "latestSpec": {"id": "s", "data": {"resources": "none", "env": {"A": 1}, "image": 5}, "dtHealthy": "soon"},
    }  # fmt: skip
    deployment = deployment_of(Stored.model_validate({**odd, "raw": odd}), None)
    assert deployment.id == "not-hexadecimal"
    assert deployment.created_at is None
    assert deployment.raw == odd
    assert deployment.status is DeploymentStatus.PENDING


def test_passwords_are_not_in_raw_and_references_are() -> None:
    data = {
        "basicAuthKey": "clear", "repositories": {"repositories": [{"password": "clear", "url": "x"}]},
        "integrations": [{"secretAccessKey": "secret:KEY"}], "password": None,
    }  # fmt: skip
    told = without_secrets({"basicAuthKey": "secret:NAME", "latestSpec": {"data": data}})
    assert "clear" not in repr(told)
    assert told["basicAuthKey"] == "secret:NAME"
    assert told["latestSpec"]["data"]["integrations"] == [{"secretAccessKey": "secret:KEY"}]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("d1.cl1.paperspacegradient.com", "https://d1.cl1.paperspacegradient.com"),
        ("https://model-endpoint.example.com", "https://model-endpoint.example.com"),
        ("127.0.0.1:80/endpoints/x", "http://127.0.0.1:80/endpoints/x"),
        ("localhost.example.com", "https://localhost.example.com"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
        (None, None),
        ("", None),
    ],
)
def test_an_endpoint_is_a_host_without_a_scheme(endpoint: str | None, url: str | None) -> None:
    assert endpoint_url(endpoint) == url


@pytest.mark.parametrize(
    ("image", "version"),
    [("repo/fraud:3", "3"), ("host:5000/fraud", None), ("fraud", None), ("host:5000/fraud:v2", "v2")],
)
def test_a_deployment_that_somebody_else_made_is_known_by_name_and_tag(image: str, version: str | None) -> None:
    stored = Stored.model_validate({"id": "d", "name": "theirs", "latestSpec": {"id": "s", "data": {"image": image}}})
    deployment = deployment_of(stored, None)
    assert (deployment.model_id, deployment.version, deployment.environment) == ("theirs", version, None)


def test_the_three_shapes_of_metrics() -> None:
    one = {"timestamp": NOW, "value": "1.5"}
    assert [s.value for s in read_samples(one)] == [1.5]
    assert [s.instance_id for s in read_samples([{**one, "instanceId": "i", "gpu": "0"}, one])] == ["i", None]
    nested = [{"instanceId": "a", "values": [one, one]}, {"instanceId": "b", "values": []}]
    assert [s.instance_id for s in read_samples(nested)] == ["a", "a"]
    assert [s.value for s in read_samples([{**one, "value": "NaN?"}])] == [0.0]
    assert read_samples("what?") == []


def test_an_unknown_action_is_kept() -> None:
    item = Activity.model_validate({"id": "a", "action": "deployment.exploded", "more": 1})
    assert item.action == "deployment.exploded"
    assert item.model_extra == {"more": 1}
