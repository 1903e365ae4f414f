"""The top level: what a user deploys and runs, without a server."""

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import cloudpickle
import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Schedule

import prefect_modeldeploy.flows as flows

ROOT = Path(__file__).parent.parent
FILE = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
[OFF] = [step[name]["deployments"] for step in FILE["build"] for name in step if name.endswith(".schedules_off")]
SCRIPTS = sorted(ROOT.glob("flows/*.py")) + sorted(ROOT.glob("blocks/*.py"))
CREATE = [file for file in SCRIPTS if file.name.startswith("create_")]
TRIGGERS = [trigger["name"] for deployment in DEPLOYMENTS for trigger in deployment.get("triggers", [])]
FLOWS = {name: flow for name, flow in vars(flows).items() if isinstance(flow, Flow)}


def test_there_is_nothing_else_at_the_top() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("LOUD: not a git checkout, so nobody knows what belongs to the project")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    allowed = {"pyproject.toml", "prefect_modeldeploy", "flows", "blocks", "tests", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} == allowed


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda p: p.name)
def test_every_script_imports_without_doing_anything(file: Path) -> None:
    module = imported(file)
    assert module.__doc__, "a script says what the user will see"
    assert not [found for found in vars(module).values() if isinstance(found, Schedule)], "they always say active"
    for one in [found for found in vars(module).values() if isinstance(found, DeploymentScheduleCreate)]:
        assert one.slug
        assert isinstance(one.schedule, CronSchedule)
        assert one.schedule.timezone
        assert "active" not in one.model_fields_set, "what a person switched off stays off"


def variables(script: ModuleType) -> dict[str, str]:
    """The table at the top of a script: names of environment variables, and the rest of the line."""
    return dict(re.findall(r"^\| ([A-Z][A-Z0-9_]+) +\| (.*)$", script.__doc__ or "", re.MULTILINE))


def required(script: ModuleType) -> set[str]:
    return {name for name, rest in variables(script).items() if "(required)" in rest}


@pytest.mark.parametrize("file", [file for file in CREATE if required(imported(file))], ids=lambda p: p.name)
def test_a_missing_variable_is_one_clear_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = imported(file)
    for name in variables(script):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        asyncio.run(script.main())
    said = str(ended.value.code)
    assert said.partition(" is not set: ")[0] in required(script)
    assert "\n" not in said


@pytest.mark.parametrize("file", CREATE, ids=lambda p: p.name)
def test_the_readme_names_the_variables_of_a_block_as_its_script_does(file: Path) -> None:
    script = imported(file)
    [row] = [line for line in (ROOT / "README.md").read_text().splitlines() if f"`blocks/{file.name}` |" in line]
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", row))
    assert named == set(variables(script))


def test_every_flow_is_served_by_a_script() -> None:
    names = {name for file in ROOT.glob("flows/*.py") for name in vars(imported(file))}
    assert names >= set(FLOWS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
class TestDeployments:
    def test_its_entry_point_is_a_flow_whose_parameters_it_names(self, deployment: dict[str, Any]) -> None:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)

    def test_every_schedule_has_a_slug_and_a_time_zone_and_is_off_only_if_it_was(
        self, deployment: dict[str, Any]
    ) -> None:
        flow = load_flow_from_entrypoint(deployment["entrypoint"]).name
        for schedule in deployment.get("schedules", []):
            assert OFF[schedule["slug"]] == f"{flow}/{deployment['name']}"
            assert schedule["timezone"]
            assert schedule["active"] == f"{{{{ schedules.{schedule['slug']} }}}}"
            assert "parameters" not in schedule, "pausing a schedule in the UI erases them"

    def test_it_is_described_and_holds_no_secret_template(self, deployment: dict[str, Any]) -> None:
        assert deployment["description"].endswith(".")
        assert "modeldeploy" in deployment["tags"]
        assert "prefect.blocks" not in yaml.dump(deployment)


def test_scripts_and_prefect_yaml_do_not_take_the_same_names() -> None:
    """Prefect would make one deployment of both, whose runs crash: it is served, and yet it has steps to pull."""
    taken = {deployment["name"] for deployment in DEPLOYMENTS}
    served = {name for file in ROOT.glob("flows/*.py") for name in re.findall(r'name="(.*?)"', file.read_text())}
    assert len(served) > 5
    assert not served & taken


def test_every_flow_is_deployed() -> None:
    deployed = [load_flow_from_entrypoint(deployment["entrypoint"]).name for deployment in DEPLOYMENTS]
    assert sorted(deployed) == sorted(flow.name for flow in FLOWS.values())


def test_what_must_not_run_twice_at_once_is_cancelled_the_second_time() -> None:
    limited = {one["name"]: one["concurrency_limit"] for one in DEPLOYMENTS if "concurrency_limit" in one}
    assert set(limited) == {"clean-up-orphans"}, "a run that waits for a person loses its slot, and is cancelled for it"
    assert all(limit == {"limit": 1, "collision_strategy": "CANCEL_NEW"} for limit in limited.values())


def test_a_person_is_asked_before_production_changes() -> None:
    [promote] = [one for one in DEPLOYMENTS if one["name"] == "promote-to-production"]
    assert promote["parameters"] == {"approval": {"timeout_seconds": 3600, "on_timeout": "roll_back"}}


def test_a_trigger_is_on_or_off_as_its_automation_was() -> None:
    triggers = [trigger for deployment in DEPLOYMENTS for trigger in deployment.get("triggers", [])]
    assert [trigger["enabled"] for trigger in triggers] == [f"{{{{ automations.{name} }}}}" for name in TRIGGERS]


@pytest.mark.slow
def test_every_flow_survives_being_sent_to_another_process() -> None:
    """`.serve()` pickles flows into a spawned process, where a string annotation would not be resolved."""
    code = (
        "import sys, cloudpickle\n"
        "for flow, parameters in cloudpickle.load(sys.stdin.buffer):\n"
        "    flow.validate_parameters(parameters)\n"
        "    print(flow.name)"
    )
    sent = cloudpickle.dumps([(flow, _some(name)) for name, flow in FLOWS.items()])
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [flow.name for flow in FLOWS.values()]


def _some(name: str) -> dict[str, Any]:
    if "targets" in FLOWS[name].parameters.properties:
        return {"targets": ["production"]}
    return {"target": "production"} | ({} if name == "roll_back" else {"candidate": "fraud-2"})


def test_a_form_has_few_fields_and_describes_each() -> None:
    for name, flow in FLOWS.items():
        fields = flow.parameters.properties
        assert len(fields) <= 8, name
        assert all(field.get("description") for field in fields.values()), name


def test_a_schema_refuses_bad_values_before_a_run_exists() -> None:
    with pytest.raises(Exception, match="steps"):
        FLOWS["canary_rollout"].validate_parameters({"target": "t", "candidate": "c", "plan": {"steps": [50, 10]}})


@pytest.mark.parametrize("options", [[], ["--docker"]])
def test_the_command_line_prints_the_path_of_the_deployments(options: list[str]) -> None:
    """Those for a Docker work pool are the same but for the pool, and for the image that is built first."""
    command = [sys.executable, "-m", "prefect_modeldeploy.cli", "deployments-path", *options]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    file = yaml.safe_load(path.read_text())
    pools = [deployment.pop("work_pool") for deployment in file["deployments"]]
    assert file["deployments"] == [{k: v for k, v in one.items() if k != "work_pool"} for one in DEPLOYMENTS]
    assert file["pull"] == []
    *image, automations, schedules = file["build"]
    looks_up = {"id": "automations", "names": TRIGGERS}
    assert automations == {"prefect_modeldeploy.deploying.automations_enabled": looks_up}
    assert schedules == {"prefect_modeldeploy.deploying.schedules_off": {"id": "schedules", "deployments": OFF}}
    if options:
        [step] = image
        [build] = step.values()
        assert build["id"] == "build-image"
        assert (path.parent / build["dockerfile"]).read_text().startswith("#")
        assert {pool["job_variables"]["image"] for pool in pools} == {"{{ build-image.image }}"}


@pytest.mark.slow
def test_the_wheel_has_the_deployments_where_the_command_line_looks_for_them(tmp_path: Path) -> None:
    """Built as for an index, and unpacked as `pip install` does."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if "satisfies the requirement hatchling" in built.stderr:
        pytest.skip("LOUD: pip cannot reach hatchling, so nobody knows what the wheel holds")
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with ZipFile(wheel) as content:
        content.extractall(site)
    package = site / "prefect_modeldeploy"
    for options, source in (([], "prefect.yaml"), (["--docker"], "docker/prefect.yaml")):
        command = [sys.executable, "-m", "prefect_modeldeploy.cli", "deployments-path", *options]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout
        assert Path(said.strip()) == package / source
        assert (package / source).read_text() == (ROOT / "flows" / source).read_text()
    assert (package / "docker" / "Dockerfile").exists()
    pages = {page.relative_to(package) for page in package.glob("docs/**/*.md")}
    assert pages == {
        page.relative_to(ROOT / "prefect_modeldeploy") for page in ROOT.glob("prefect_modeldeploy/docs/**/*.md")
    }
