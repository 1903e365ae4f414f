"""What goes wrong with Fiddler's API, and the guard against each: every test fails without its guard."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import (
    DeploymentFailed,
    InvalidInput,
    ModelDeployError,
    NotFound,
    ProviderError,
    UnsupportedOperation,
    WaitTimeout,
)
from prefect_modeldeploy.providers.fiddler import Api2, Api3, FiddlerClient, Job, JobStatus, ServerInfo
from prefect_modeldeploy.providers.fiddler.api import is_v3
from prefect_modeldeploy.providers.fiddler.conditions import condition
from prefect_modeldeploy.providers.fiddler.notes import Notes, read_notes, user_text, with_notes
from prefect_modeldeploy.transport import RetryPolicy, Transport
from tests.providers.fiddler_kit import PACKAGE, Account, account, artifact, credentials, fiddler_sandbox, spec

__all__ = ["account", "fiddler_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")

DEPLOYMENT = "/v3/models/*/deployment"
GONE = "00000000-0000-0000-0000-0000000003e7"


@pytest.fixture(scope="module")
def offline() -> FiddlerClient:
    """A client of a server that is not there: any request ends in ProviderUnavailable."""
    return FiddlerClient(Api3(Transport("fiddler", "http://127.0.0.1:9", policy=RetryPolicy(attempts=1))), "")


def envelope(data: Any) -> dict[str, Any]:
    return {"api_version": "3.0", "kind": "NORMAL", "data": data}


# --- jobs -------------------------------------------------------------------------------------------------------------


async def test_a_revoked_job_is_a_failure(account: Account) -> None:
    """The official client's `Job.wait` returns as if all were well."""
    await account.control.fate(timeline="update", outcome="fail", reason="REVOKED by an admin")
    seen = await account.client.start(account.seeded)
    assert (seen.status, seen.ready) == (DeploymentStatus.FAILED, False)
    assert "REVOKED" in (seen.reason or "")
    with pytest.raises(DeploymentFailed, match="ended as REVOKED"):
        await account.client.wait_for_job(seen.raw["job"]["id"])
    with pytest.raises(DeploymentFailed, match="REVOKED"):
        async for _ in account.client.wait([seen.id], lambda d: d.ready, model="churn", timeout_seconds=5):
            pass


async def test_a_failed_job_tells_why_until_another_one_succeeds(account: Account) -> None:
    await account.control.fate(timeline="update", outcome="fail", reason="OOMKilled: raise memory")
    failed = await account.client.scale(account.seeded, Autoscaling(min_replicas=5))
    assert failed.status is DeploymentStatus.FAILED
    assert failed.reason == "job Update model deployment ended as FAILURE: ModelServeError: OOMKilled: raise memory"
    more = DeploymentUpdate(resources=Resources(memory_mib=2048))
    assert (await account.client.update(account.seeded, more)).ready


async def test_a_change_whose_answer_names_no_job_is_no_crash(account: Account) -> None:
    """The official client dies of a KeyError here."""
    deployment = (await account.client.get(account.seeded)).raw["deployment"]
    await account.control.fault(
        method="PATCH", path=DEPLOYMENT, kind="status", status=200, body=envelope({**deployment, "active": False})
    )
    assert (await account.client.stop(account.seeded)).ready, "the state is what a look says, not what was asked for"


@pytest.mark.parametrize("body", [{}, {"data": None}, envelope({}), [], {"data": {"job": "x", "active": "maybe"}}])
async def test_an_answer_of_any_form_is_read(account: Account, body: Any) -> None:
    await account.control.fault(method="PATCH", path=DEPLOYMENT, kind="status", status=200, body=body)
    assert (await account.client.start(account.seeded)).ready


async def test_active_is_not_ready_while_the_job_runs_and_every_process_knows_it(account: Account) -> None:
    await account.client.stop(account.seeded)
    await account.control.fate(timeline="update", outcome="stuck", stage="STARTED")
    assert (await account.client.start(account.seeded)).status is DeploymentStatus.STARTING
    async with credentials(account.sandbox).get_client() as another:
        seen = await another.get(account.seeded)
        assert (seen.status, seen.ready, seen.provider_status) == (
            DeploymentStatus.STARTING, False, "ACTIVE, job STARTED",
        )  # fmt: skip
        with pytest.raises(WaitTimeout):
            async for _ in another.wait([seen.id], lambda d: d.ready, model="churn", timeout_seconds=0.2):
                pass
        await account.control.release()
        assert (await another.get(account.seeded)).ready


@pytest.mark.parametrize(
    ("doing", "status"),
    [("scale", DeploymentStatus.UPDATING), ("stop", DeploymentStatus.STOPPING), ("deploy", DeploymentStatus.BUILDING)],
)
async def test_what_a_running_job_is_for_is_told(
    account: Account, tmp_path: Path, doing: str, status: DeploymentStatus
) -> None:
    await account.control.fate(timeline="*", outcome="stuck", stage="PENDING")
    match doing:
        case "scale":
            seen = await account.client.scale(account.seeded, Autoscaling(min_replicas=2))
        case "stop":
            seen = await account.client.stop(account.seeded)
        case _:
            seen = await account.client.create(spec(artifact(tmp_path)))
    assert seen.status is status


async def test_a_job_that_is_not_found_yet_is_still_to_come(account: Account) -> None:
    await account.control.fate(timeline="update", outcome="late", reads=1)
    assert (await account.client.start(account.seeded)).status is DeploymentStatus.STARTING
    assert (await account.client.get(account.seeded)).ready


async def test_a_job_that_fiddler_has_forgotten_says_nothing(account: Account) -> None:
    model = await account.client.v3.model(account.seeded)
    await account.client.v3.note(model, Notes(job=GONE, doing="start", at="2020-01-01T00:00:00+00:00"))
    assert (await account.client.get(account.seeded)).ready


async def test_waiting_for_a_job_has_a_deadline(account: Account) -> None:
    await account.control.fate(timeline="update", outcome="stuck")
    job = (await account.client.stop(account.seeded)).raw["job"]["id"]
    with pytest.raises(WaitTimeout, match="job_timeout_seconds"):
        await account.client.wait_for_job(job, timeout_seconds=0.2)
    with pytest.raises(NotFound):
        await account.client.wait_for_job(GONE)


async def test_a_deployment_that_is_not_there_yet_is_building(account: Account, tmp_path: Path) -> None:
    await account.control.fault(method="GET", path=DEPLOYMENT, kind="status", status=404, skip=1, times=1)
    made = await account.client.create(spec(artifact(tmp_path)))
    assert (made.status, made.provider_status) == (DeploymentStatus.PENDING, "NOT DEPLOYED, job SUCCESS")
    assert (await account.client.get(made.id)).ready


async def test_waiting_reads_only_what_is_waited_for(account: Account, tmp_path: Path) -> None:
    made = await account.client.create(spec(artifact(tmp_path)))
    await account.control.forget_requests()
    async for _ in account.client.wait([made.id], lambda d: d.ready, model="churn", timeout_seconds=5):
        pass
    assert {one.path for one in await account.sent()} == {
        f"/v3/models/{made.id}", f"/v3/models/{made.id}/deployment", f"/v3/jobs/{made.raw['job']['id']}",
    }  # fmt: skip


async def test_a_delay_that_the_vendor_asks_for_is_waited_for(account: Account) -> None:
    await account.control.fault(method="PATCH", path=DEPLOYMENT, kind="status", status=429, retry_after=0.1, times=2)
    await account.control.fault(method="POST", path="/v3/models", kind="status", status=429, retry_after=0.1)
    assert (await account.client.stop(account.seeded)).status is DeploymentStatus.STOPPED
    assert [one.status for one in await account.sent("PATCH", DEPLOYMENT)] == [429, 429, 200]


def test_an_unknown_word_is_kept() -> None:
    found = condition(True, Job(status="PAUSED"))
    assert (found.status, found.word, found.ready) == (DeploymentStatus.UNKNOWN, "ACTIVE, job PAUSED", False)


@pytest.mark.parametrize("deployment", [{}, {"active": "maybe"}, {"active": None}, {"active": 1}])
async def test_a_deployment_whose_state_cannot_be_read_is_not_ready(account: Account, deployment: Any) -> None:
    await account.control.fault(method="GET", path=DEPLOYMENT, kind="status", status=200, body=envelope(deployment))
    seen = await account.client.get(account.seeded)
    assert (seen.status, seen.ready) == (DeploymentStatus.UNKNOWN, False)


def test_the_table_of_states_is_total() -> None:
    for active, there in ((True, True), (False, True), (None, False)):
        for status in JobStatus:
            for doing in ("deploy", "start", "stop", "change", None):
                found = condition(active, Job(status=status), doing, there=there)  # type: ignore[arg-type]
                assert found.status is not DeploymentStatus.UNKNOWN
                assert found.status is not DeploymentStatus.SCALED_TO_ZERO
                assert found.ready == (active is True and status is JobStatus.SUCCESS)


# --- answers that are lost --------------------------------------------------------------------------------------------

CREATING = ("/v3/models", "*/deploy-artifact", "/v3/files/upload", DEPLOYMENT, "/v3/models/*")


@pytest.mark.parametrize("kind", ["lost_answer", "lost_request", "reset"])
@pytest.mark.parametrize("path", CREATING)
async def test_nothing_is_created_twice(account: Account, tmp_path: Path, path: str, kind: str) -> None:
    method = "PATCH" if path in CREATING[3:] else "POST"
    await account.control.fault(method=method, path=path, kind=kind, times=2)
    made = await account.client.create(spec(artifact(tmp_path)))
    assert made.ready
    assert await account.versions() == ["v1", "v2"]
    assert len(await account.control.table("fiddler", "deployments")) == 2
    assert read_notes(made.raw["model"]["description"]).job == made.raw["job"]["id"], "the job is known"


async def test_a_version_that_is_shown_late_is_not_created_again(account: Account, tmp_path: Path) -> None:
    await account.control.fate(timeline="appear", match="v2", outcome="late", reads=4, times=1)
    await account.control.fault(method="POST", path="/v3/models", kind="lost_answer")
    assert (await account.client.create(spec(artifact(tmp_path)))).ready
    assert await account.versions() == ["v1", "v2"]


async def test_a_version_that_is_not_found_just_after_it_was_made_is_waited_for(
    account: Account, tmp_path: Path
) -> None:
    await account.control.fate(timeline="appear", match="v2", outcome="late", reads=4)
    assert (await account.client.create(spec(artifact(tmp_path)))).ready


async def test_a_version_that_is_listed_but_not_found_yet_is_waited_for(account: Account, tmp_path: Path) -> None:
    former = 1  # the newest version so far is read first, to copy its fields
    await account.control.fault(
        method="GET", path="/v3/models/????????-*", kind="status", status=404, skip=former, times=2
    )
    assert (await account.client.create(spec(artifact(tmp_path)))).ready
    assert await account.versions() == ["v1", "v2"]


async def test_a_deployment_that_is_shown_late_is_not_taken_for_missing(account: Account, tmp_path: Path) -> None:
    await account.control.fault(method="POST", path="*/deploy-artifact", kind="lost_answer")
    await account.control.fault(method="GET", path=DEPLOYMENT, kind="status", status=404, skip=1, times=1)
    made = await account.client.create(spec(artifact(tmp_path)))
    assert made.ready
    assert [(one.method, one.status) for one in await account.sent(path="*/deploy-artifact")] == [
        ("POST", 202), ("POST", 400), ("PUT", 202),
    ]  # fmt: skip


async def test_the_same_create_twice_at_once_makes_one(account: Account, tmp_path: Path) -> None:
    wanted = spec(artifact(tmp_path))
    made = await asyncio.gather(*(account.client.create(wanted) for _ in range(4)))
    assert len({one.id for one in made}) == 1
    assert await account.versions() == ["v1", "v2"]
    assert len(await account.control.table("fiddler", "deployments")) == 2


async def test_a_process_that_died_between_deploying_and_noting_leaves_a_job_to_wait_for(
    account: Account, tmp_path: Path
) -> None:
    wanted = spec(artifact(tmp_path))
    made = await account.client.create(wanted)
    model = await account.client.v3.model(made.id)
    killed = read_notes(model.description).model_copy(update={"job": None, "doing": None, "at": None})
    await account.client.v3.note(model, killed)
    await account.control.fate(timeline="deploy", outcome="stuck")
    again = await account.client.create(wanted)
    assert (again.id, again.status) == (made.id, DeploymentStatus.BUILDING)
    assert len(await account.sent("PUT", "*/deploy-artifact")) == 1


async def test_a_deployment_that_is_refused_leaves_no_version_behind(account: Account, tmp_path: Path) -> None:
    await account.control.fault(method="POST", path="*/deploy-artifact", kind="status", status=422)
    with pytest.raises(ProviderError):
        await account.client.create(spec(artifact(tmp_path)))
    assert [model.version for model in await account.client.v3.models("churn")] == ["v1"]


async def test_a_deletion_whose_answer_was_lost_is_done(account: Account, tmp_path: Path) -> None:
    made = await account.client.create(spec(artifact(tmp_path)))
    await account.control.fault(method="DELETE", kind="lost_answer", times=2)
    await account.client.delete(made.id)
    with pytest.raises(NotFound):
        await account.client.get(made.id)


async def test_a_large_artifact_is_sent_in_parts_and_again_when_the_end_was_lost(
    account: Account, tmp_path: Path
) -> None:
    big = tmp_path / "files.tar.gz"
    big.write_bytes(bytes(range(256)) * 1000)
    await account.control.fault(path="/v3/files/multipart-complete", kind="lost_answer")
    await account.control.fault(path="/v3/files/multipart-upload", kind="lost_answer", times=2)
    file = await account.client.v3.upload_file(big, part_bytes=100_000)
    files = await account.control.table("fiddler", "files")
    assert (file.status, files[str(file.id)]["bytes"]) == ("SUCCESSFUL", 256_000)


# --- saying no --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"autoscaling": Autoscaling(min_replicas=0)}, "autoscaling.min_replicas"),
        ({"autoscaling": Autoscaling(min_replicas=11)}, "autoscaling.min_replicas"),
        ({"autoscaling": Autoscaling(min_replicas=1, max_replicas=3)}, "autoscaling.max_replicas"),
        ({"autoscaling": Autoscaling(target_concurrency=3)}, "autoscaling.target_concurrency"),
        ({"autoscaling": Autoscaling(scale_down_delay_seconds=3)}, "autoscaling.scale_down_delay_seconds"),
        ({"resources": Resources(cpu_millicores=9)}, "resources.cpu_millicores"),
        ({"resources": Resources(cpu_millicores=4001)}, "resources.cpu_millicores"),
        ({"resources": Resources(memory_mib=149)}, "resources.memory_mib"),
        ({"resources": Resources(memory_mib=16385)}, "resources.memory_mib"),
        ({"resources": Resources(gpu_count=1)}, "resources.gpu_count"),
        ({"resources": Resources(instance_type="x")}, "resources.instance_type"),
        ({"env": {"A": "b"}}, "env"),
        ({"version": "v" * 65}, "version"),
        ({"options": {"typo": 1}}, "options.typo"),
        ({"options": {"deployment_type": "DOCKER"}}, "options.deployment_type"),
        ({"options": {"image_uri": ""}}, "options.image_uri"),
        ({"options": {"dataset": "both"}}, "source"),
        ({"source": None}, "source"),
        ({"source": "/nowhere/at/all"}, "source"),
    ],
)
async def test_a_spec_that_cannot_work_is_refused_by_name_before_any_request(
    offline: FiddlerClient, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    wanted = spec(artifact(tmp_path)).model_copy(update=fields)
    with pytest.raises(InvalidInput) as refused:
        await offline.create(wanted)
    assert refused.value.field == named


@pytest.mark.parametrize(
    ("update", "named"),
    [
        (DeploymentUpdate(), "update"),
        (DeploymentUpdate(version="v9"), "version"),
        (DeploymentUpdate(env={"A": "b"}), "env"),
        (DeploymentUpdate(environment="production"), "environment"),
        (DeploymentUpdate(options={"image_uri": "x"}), "options.image_uri"),
        (DeploymentUpdate(source="/nowhere"), "source"),
    ],
)
async def test_an_update_that_cannot_work_is_refused_by_name_before_any_request(
    offline: FiddlerClient, update: DeploymentUpdate, named: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await offline.update(GONE, update)
    assert refused.value.field == named


async def test_a_directory_without_package_py_is_refused(offline: FiddlerClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"package\.py"):
        await offline.create(spec(tmp_path))


async def test_the_vendors_error_is_kept_whole(account: Account) -> None:
    with pytest.raises(ProviderError) as refused:
        await account.client.v3._transport.call("PATCH", f"/v3/models/{account.seeded}/deployment", json={"cpu": 1})
    problem = refused.value.problem
    assert (problem.status_code, problem.code) == (400, "BadRequest")
    assert problem.message.startswith("body.cpu: ")
    assert problem.parameters is not None
    assert problem.parameters["errors"][0]["reason"] == "BadRequest"


@pytest.mark.parametrize(
    "body", ["<html>no</html>", "", {"error": "no"}, {"error": {"errors": [None]}}, [1], {"error": []}]
)
async def test_an_error_of_any_form_is_read(account: Account, body: Any) -> None:
    await account.control.fault(kind="status", status=400, body=body)
    with pytest.raises(ProviderError) as refused:
        await account.client.get(account.seeded)
    assert refused.value.problem.status_code == 400


async def test_5xx_is_repeated_on_changes_as_the_official_client_does_but_501_is_not(account: Account) -> None:
    await account.control.fault(method="PATCH", path=DEPLOYMENT, kind="status", status=500, times=3)
    assert (await account.client.stop(account.seeded)).status is DeploymentStatus.STOPPED
    assert [one.status for one in await account.sent("PATCH", DEPLOYMENT)] == [500, 500, 500, 200]
    await account.control.fault(method="PATCH", path=DEPLOYMENT, kind="status", status=501, times=None)
    await account.control.forget_requests()
    with pytest.raises(ProviderError):
        await account.client.start(account.seeded)
    assert len(await account.sent("PATCH", DEPLOYMENT)) == 1


async def test_lists_are_read_to_their_end_and_not_beyond(account: Account) -> None:
    for number in range(120):
        await account.client.v3.create_project(f"p{number}")
    assert len({project.id for project in await account.client.v3.projects()}) == 121
    assert [dict(one.query)["offset"] for one in await account.sent("GET", "/v3/projects")] == ["0", "50", "100"]


async def test_a_list_that_repeats_itself_ends(account: Account) -> None:
    endless = envelope({"page_index": 1, "page_count": 9, "items": [{"id": "x", "name": "p"}]})
    await account.control.fault(path="/v3/projects", kind="status", status=200, body=endless, times=None)
    assert len(await account.client.v3.projects()) == 1


async def test_no_secret_is_shown_even_when_the_server_repeats_it(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    block = credentials(account.sandbox)
    token = block.token.get_secret_value()
    caplog.set_level(logging.DEBUG)
    details = [{"reason": token, "message": f"token {token}", "help": token}]
    body = {"error": {"code": 400, "message": f"no: Bearer {token}", "errors": details}}
    await account.control.fault(kind="status", status=400, body=body)
    with pytest.raises(ModelDeployError) as refused:
        await account.client.get(account.seeded)
    await account.control.fault(kind="status", status=503, body=body, times=2)
    await account.client.get(account.seeded)
    for shown in (str(refused.value), repr(refused.value), repr(vars(refused.value)), repr(block), caplog.text):
        assert token not in shown
    assert "no: Bearer" in str(refused.value)


# --- generations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "v3"),
    [("23.1.0", False), ("24.3.9", False), ("24.4.0", True), ("24.4.0-dev.1", True), ("25.10.0", True), ("?", True)],
)
def test_servers_from_24_4_on_have_v3(version: str, v3: bool) -> None:
    assert is_v3(ServerInfo(server_version=version)) is v3


async def test_the_server_is_asked_which_generation_it_is(account: Account) -> None:
    old = {"path": "/v3/server-info", "kind": "status"}
    assert isinstance(account.client.api, Api3)
    await account.control.fault(**old, status=200, body=envelope({"server_version": "23.4.0"}))
    async with credentials(account.sandbox).get_client() as client:
        assert isinstance(client.api, Api2)
    await account.control.fault(**old, status=404)
    async with credentials(account.sandbox).get_client() as client:
        assert isinstance(client.api, Api2)
    await account.control.fault(**old, status=404)
    with pytest.raises(InvalidInput, match="organization"):
        async with credentials(account.sandbox, organization=None).get_client():
            pass


async def test_what_v2_lacks_is_refused_by_name(account: Account, tmp_path: Path) -> None:
    async with credentials(account.sandbox, api="v2").get_client() as old:
        with pytest.raises(UnsupportedOperation, match="v2 API"):
            await old.promote("bank_churn:churn", environment="production")
        with pytest.raises(UnsupportedOperation, match="v2 API"):
            await old.roll_back("bank_churn:churn", environment="production")
        with pytest.raises(InvalidInput, match="version"):
            await old.create(spec(artifact(tmp_path), version="v2"))
        with pytest.raises(InvalidInput, match="project:model"):
            await old.get(account.seeded)


# --- notes ------------------------------------------------------------------------------------------------------------


def test_notes_leave_the_users_words_alone() -> None:
    words = "A model.\n\nOf [mine]."
    kept = with_notes(words, Notes(job="j", doing="stop"))
    assert user_text(kept) == words
    assert read_notes(kept) == Notes(job="j", doing="stop")
    assert with_notes(kept, Notes()) == words
    assert user_text(with_notes(None, Notes(job="j"))) == ""


@pytest.mark.parametrize(
    "text", [None, "", "words", "[modeldeploy: {]", '[modeldeploy: {"job": 5}]', "[modeldeploy: {}"]
)
def test_broken_notes_are_no_notes(text: str | None) -> None:
    assert read_notes(text) == Notes()


async def test_a_package_that_fiddler_cannot_import_fails_the_job(account: Account, tmp_path: Path) -> None:
    directory = artifact(tmp_path, PACKAGE)
    await account.control.fate(timeline="deploy", outcome="fail", reason="No module named sklearn")
    made = await account.client.create(spec(directory))
    assert made.status is DeploymentStatus.FAILED
    assert "No module named sklearn" in (made.reason or "")
