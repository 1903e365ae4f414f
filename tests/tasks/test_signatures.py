"""What people's code relies on: the order, the names and the defaults of the parameters of flows and tasks."""

from inspect import Parameter, signature

import pytest
from prefect import Flow, Task

from prefect_modeldeploy import flows, tasks
from prefect_modeldeploy.target import DeploymentTarget

FLOWS = {
    "canary_rollout": "target, candidate, plan=, approval=None, note=''",
    "promote_to_production": "target, candidate, mode='swap', approval=None, bake_seconds=, note=''",
    "roll_back": "target, to=None, note=''",
    "scale_to_zero": "targets, only_if_idle_seconds=, on_no_wake='refuse', dry_run=False",
    "wake_up": "targets, wait_until_ready=True",
}
TASKS = {
    "create_deployment": "target, spec",
    "get_deployment": "target, deployment_id",
    "list_deployments": "target",
    "update_deployment": "target, deployment_id, update",
    "scale_deployment": "target, deployment_id, autoscaling",
    "stop_deployment": "target, deployment_id",
    "start_deployment": "target, deployment_id",
    "wake_deployment": "target, deployment_id",
    "delete_deployment": "target, deployment_id",
    "wait_until_ready": "target, deployment_id",
    "predict": "target, deployment_id, payload",
    "get_logs": "target, deployment_id",
    "set_traffic": "target, weights",
    "get_traffic": "target",
}
TARGET = "model, endpoint, environment='production', credentials, gateway=None, price_per_replica_hour=None"


def written(parameter: Parameter, form: str) -> str:
    """A parameter as the form writes it: `name`, `name='value'`, or `name=` where the default is left open."""
    if parameter.default is Parameter.empty:
        return parameter.name
    return f"{parameter.name}=" if form.endswith("=") else f"{parameter.name}={parameter.default!r}"


def assert_begins(parameters: list[Parameter], forms: list[str]) -> None:
    """These come first, in this order; whatever else there is has a default and comes later."""
    assert [written(each, form) for each, form in zip(parameters, forms, strict=False)] == forms
    assert all(each.default is not Parameter.empty for each in parameters[len(forms) :])


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_takes_what_it_always_took(name: str) -> None:
    flow = getattr(flows, name)
    assert isinstance(flow, Flow)
    assert_begins(list(signature(flow.fn).parameters.values()), FLOWS[name].split(", "))


@pytest.mark.parametrize("prefix", ["", "a"], ids=["blocking", "awaitable"])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_what_it_always_took(name: str, prefix: str) -> None:
    task = getattr(tasks, prefix + name)
    assert isinstance(task, Task)
    assert_begins(list(signature(task.fn).parameters.values()), TASKS[name].split(", "))


def test_a_target_has_the_fields_that_it_always_had() -> None:
    fields = {name: field for name, field in DeploymentTarget.model_fields.items() if name in TARGET}
    said = [name if field.is_required() else f"{name}={field.default!r}" for name, field in fields.items()]
    assert said == TARGET.split(", ")
