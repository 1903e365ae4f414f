"""What goes wrong with Foundry, each with a test that fails without its guard."""

import asyncio
import logging
import traceback
from typing import Any

import httpx
import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    DeploymentFailed,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
    WaitTimeout,
)
from prefect_modeldeploy.providers.foundry import FoundryApi, FoundryClient
from prefect_modeldeploy.providers.foundry.types import LiveDeployment
from prefect_modeldeploy.providers.foundry.words import status_of, translated
from prefect_modeldeploy.transport import Transport
from tests.providers.foundry_kit import Foundry, foundry, new_version, shared_foundry, stack

__all__ = ["shared_foundry", "stack"]

LIVE = "/api/v2/models/liveDeployments"


def answering(*answers: httpx.Response) -> FoundryApi:
    """The API of a stack that gives these answers, one after the other."""
    left = list(answers)
    http = httpx.MockTransport(lambda _: left.pop(0))
    return FoundryApi(Transport("foundry", "https://stack.example/api", http=http))


# --- ready means ready --------------------------------------------------------------------------------------------


async def test_active_with_the_former_version_is_not_ready(stack: Foundry) -> None:
    """ACTIVE and isReady all the time: only the version's RID tells that the promotion is not live yet."""
    before, version = await stack.production(), await stack.new_version()
    await stack.control.fate(timeline="upgrade", outcome="stuck")
    promoted = await stack.client.promote_version(stack.model, version, "master")
    seen = await stack.client.get(before.id)
    assert (seen.provider_status, seen.raw["status"]["isReady"]) == ("ACTIVE", True)
    assert (seen.status, seen.ready, seen.version) == (DeploymentStatus.UPDATING, False, before.version)
    with pytest.raises(WaitTimeout):
        async for _ in stack.client.wait([before.id], lambda d: d.ready, model=stack.model, timeout_seconds=0.3):
            pass
    with pytest.raises(WaitTimeout, match=promoted.rid):
        await stack.client.wait_for_version(before.id, promoted.rid, timeout_seconds=0.2)
    await stack.control.release()
    live = await stack.client.wait_for_version(before.id, promoted.rid)
    assert (live.status, live.version) == (DeploymentStatus.READY, promoted.rid)


async def test_another_process_finds_out_too(stack: Foundry) -> None:
    """A client that has not promoted anything itself compares with the branch's newest version."""
    before, version = await stack.production(), await stack.new_version()
    await stack.control.fate(timeline="upgrade", outcome="stuck")
    await stack.client.api.promote_version(stack.model, version, "master")
    async with stack.block().get_client() as other:
        assert (await other.get(before.id)).status is DeploymentStatus.UPDATING


async def test_a_promoted_version_has_a_rid_of_its_own(stack: Foundry) -> None:
    version = await stack.new_version()
    promoted = await stack.client.promote_version(stack.model, version, "master")
    assert promoted.rid != version
    assert promoted.promoted_from == version


async def test_looking_often_asks_for_versions_rarely(stack: Foundry) -> None:
    found = await stack.production()
    await stack.control.forget_requests()
    for _ in range(20):
        assert (await stack.client.get(found.id)).ready
    assert len(await stack.sent("GET", f"{LIVE}/*")) == 20
    assert len(await stack.sent("GET", "*/versions")) <= 1


async def test_waiting_ends_when_the_deployment_fails_or_is_switched_off(stack: Foundry) -> None:
    await stack.control.fate(timeline="create", match="broken", outcome="fail")
    broken = await stack.client.create(stack.spec("broken"))
    assert (broken.status, broken.ready) == (DeploymentStatus.FAILED, False)
    with pytest.raises(DeploymentFailed, match="no healthy replica"):
        async for _ in stack.client.wait([broken.id], lambda d: d.ready):
            pass
    with pytest.raises(DeploymentFailed, match="FAILED"):
        await stack.client.wait_for_version(broken.id, stack.version)
    off = await stack.client.stop((await stack.production()).id)
    with pytest.raises(DeploymentFailed, match="DISABLED"):
        await stack.client.wait_for_version(off.id, stack.version)


async def test_degraded_serves_and_is_not_ready(stack: Foundry) -> None:
    await stack.control.fate(timeline="create", match="weak", stage="DEGRADED", outcome="stuck")
    weak = await stack.client.create(stack.spec("weak"))
    assert (weak.status, weak.ready, weak.answers_at_once) == (DeploymentStatus.DEGRADED, False, True)
    assert (await stack.client.predict(weak.id, {"x": 2}))["sum"] == 2


@pytest.mark.parametrize(
    ("state", "ready", "least", "newest", "status", "traffic"),
    [
        ("STARTING", False, 1, "v", "STARTING", False),
        ("STARTING", False, 1, "w", "STARTING", False),
        ("ACTIVE", True, 1, "v", "READY", True),
        ("ACTIVE", True, 1, None, "READY", True),
        ("ACTIVE", False, 0, "v", "SCALED_TO_ZERO", True),
        ("ACTIVE", False, 1, "v", "WAKING", False),
        ("ACTIVE", True, 1, "w", "UPDATING", True),
        ("ACTIVE", False, 0, "w", "UPDATING", True),
        ("ACTIVE", False, 1, "w", "UPDATING", False),
        ("DEGRADED", True, 1, "v", "DEGRADED", True),
        ("DEGRADED", False, 1, "v", "DEGRADED", True),
        ("DEGRADED", True, 1, "w", "UPDATING", True),
        ("FAILED", False, 1, "v", "FAILED", False),
        ("DISABLED", False, 1, "v", "STOPPED", False),
        ("PAUSED", True, 1, "v", "UNKNOWN", False),
        ("", False, 1, "v", "UNKNOWN", False),
    ],
)
def test_the_normative_table(
    state: str, ready: bool, least: int, newest: str | None, status: str, traffic: bool
) -> None:
    live = LiveDeployment.model_validate(
        {
            "rid": "ri.a..b.c",
            "modelVersion": {"modelRid": "m", "modelVersionRid": "v"},
            "runtimeConfiguration": {"minReplicas": least},
            "status": {"state": state, "isReady": ready},
        }
    )
    found = translated(live, newest, environment=None, api_url="https://stack.example/api")
    assert (found.status, found.may_receive_traffic) == (DeploymentStatus(status), traffic)


# --- never two ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lost_answer", "lost_request", "reset"])
async def test_a_lost_create_never_makes_two(stack: Foundry, kind: str) -> None:
    await stack.control.fault(method="POST", path=LIVE, kind=kind)
    made = await stack.client.create(stack.spec("staging"))
    assert [one["id"] for one in await stack.lives() if one["branch"] == "staging"] == [made.id]


async def test_ten_who_create_the_same_at_once_get_one(stack: Foundry) -> None:
    found = await asyncio.gather(*(stack.client.create(stack.spec("staging")) for _ in range(10)))
    assert len({made.id for made in found}) == 1
    assert len(await stack.lives()) == 2
    assert len(await stack.versions_on("staging")) == 1


async def test_a_lost_create_that_the_list_shows_late_never_makes_two(stack: Foundry) -> None:
    await stack.control.fault(method="POST", path=LIVE, kind="lost_answer")
    await stack.control.fate(timeline="create", match="staging", outcome="late", reads=3)
    made = await stack.client.create(stack.spec("staging"))
    assert [one["id"] for one in await stack.lives() if one["branch"] == "staging"] == [made.id]


async def test_a_lost_create_in_a_place_that_another_one_took_is_a_conflict(stack: Foundry) -> None:
    """Somebody else's deployment is never taken for ours."""
    await stack.client.promote_version(stack.model, stack.version, "qa")

    class Raced(FoundryApi):
        async def create_live_deployment(self, *args: Any, **options: Any) -> LiveDeployment:
            await stack.client.create(stack.spec("others", environment="qa"))
            raise ProviderUnavailable("foundry", "POST", Problem("gone"), effect_unknown=True)

    client = FoundryClient(Raced(stack.client.api._transport), api_url="http://x/api", settle_seconds=0.1)
    with pytest.raises(Conflict, match="branch qa"):
        await client.create(stack.spec("mine", environment="qa"))
    assert len([one for one in await stack.lives() if one["branch"] == "qa"]) == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_lost_promotion_makes_one_copy(stack: Foundry, late: bool) -> None:
    version = await stack.new_version()
    await stack.control.fault(method="POST", path="*/promoteVersion", kind="lost_answer")
    if late:
        await stack.control.fate(timeline="version", outcome="late", reads=2)
    promoted = await stack.client.promote_version(stack.model, version, "master")
    assert (await stack.client.promote_version(stack.model, version, "master")).rid == promoted.rid
    assert len(await stack.versions_on("master")) == 2


async def test_a_lost_roll_back_goes_back_once(stack: Foundry) -> None:
    found = await stack.production()
    for note in ("b", "c"):
        await stack.client.promote_version(stack.model, await stack.new_version(note), "master")
    b = (await stack.versions_on("master"))[1]["source"]["previousModelVersionRid"]
    await stack.control.fault(method="POST", path="*/promoteVersion", kind="lost_answer")
    await stack.client.roll_back(found.id, environment="production")
    newest = max(await stack.versions_on("master"), key=lambda one: one["number"])
    assert newest["source"]["previousModelVersionRid"] == b
    assert len(await stack.versions_on("master")) == 4


async def test_a_roll_back_that_may_have_happened_says_so(stack: Foundry) -> None:
    """Otherwise a task would roll back once more, to the version before."""
    found = await stack.production()
    await stack.client.promote_version(stack.model, await stack.new_version(), "master")
    await stack.control.fault(method="POST", path="*/promoteVersion", kind="lost_answer")
    await stack.control.fault(method="GET", path="*/versions", kind="status", status=500, skip=1)
    with pytest.raises(ProviderUnavailable) as caught:
        await stack.client.roll_back(found.id, environment="production")
    assert caught.value.effect_unknown


async def test_a_former_version_whose_original_is_gone_is_promoted_from_its_copy(stack: Foundry) -> None:
    found = await stack.production()
    for note in ("b", "c"):
        await stack.client.promote_version(stack.model, await stack.new_version(note), "master")
    copy = (await stack.versions_on("master"))[1]["rid"]
    gone = {"errorCode": "NOT_FOUND", "errorName": "ModelVersionNotFound", "parameters": {}}
    await stack.control.fault(method="POST", path="*/promoteVersion", kind="status", status=404, body=gone)
    await stack.client.roll_back(found.id, environment="production")
    newest = max(await stack.versions_on("master"), key=lambda one: one["number"])
    assert newest["source"]["previousModelVersionRid"] == copy
    await stack.control.fault(method="POST", path="*/promoteVersion", kind="status", status=403)
    with pytest.raises(AuthenticationFailed):  # the seeded version is no copy: there is nothing else to promote
        await stack.client.roll_back(found.id, environment="production")


async def test_a_lost_publication_makes_one_version(stack: Foundry) -> None:
    model = await stack.client.api.create_model("workshop", "ri.compass.main.folder.models")
    await stack.control.fault(method="POST", path="*/versions", kind="lost_answer")
    published = await stack.client.publish_version(model, new_version("b"))
    versions = (await stack.control.table("foundry", "versions")).values()
    assert [one["rid"] for one in versions if one["model"] == model] == [published.rid]


@pytest.mark.usefixtures("without_waits")
async def test_a_deployment_is_created_when_the_first_try_had_no_effect(stack: Foundry) -> None:
    await stack.control.fault(method="POST", path=LIVE, kind="status", status=503)
    await stack.control.fault(method="POST", path=LIVE, kind="status", status=429, retry_after=0.01)
    await stack.client.create(stack.spec("staging"))
    assert len([one for one in await stack.lives() if one["branch"] == "staging"]) == 1


# --- replace takes the whole --------------------------------------------------------------------------------------


async def test_sources_and_environment_variables_are_always_sent(stack: Foundry) -> None:
    made = await stack.client.create(stack.spec("staging"))
    await stack.client.scale(made.id, Autoscaling(min_replicas=2, max_replicas=2))
    bodies = [request.body for request in await stack.sent("P*", f"{LIVE}*") if request.method in ("POST", "PUT")]
    assert len(bodies) == 2
    for body in bodies:
        assert {"sources", "environmentVariables", "minReplicas", "maxReplicas"} <= set(body["runtimeConfiguration"])


async def test_a_change_keeps_every_other_field(stack: Foundry) -> None:
    made = await stack.client.create(
        stack.spec(
            "staging",
            env={"A": "1"},
            autoscaling=Autoscaling(min_replicas=1, max_replicas=4, target_concurrency=8, window_seconds=10),
            options={"thread_count": 16, "sources": ["ri.magritte..source.one"]},
        )
    )
    before = made.raw["runtimeConfiguration"]
    changed = await stack.client.scale(made.id, Autoscaling(max_replicas=6))
    assert changed.raw["runtimeConfiguration"] == {**before, "maxReplicas": 6}
    changed = await stack.client.update(made.id, DeploymentUpdate(env={"B": "2"}))
    assert changed.raw["runtimeConfiguration"]["environmentVariables"].keys() == {
        "B", "MODELDEPLOY_NAME", "MODELDEPLOY_SPEC", "MODELDEPLOY_CALL",
    }  # fmt: skip
    again = await stack.client.create(stack.spec("other"))
    assert again.id != made.id


async def test_a_field_that_we_do_not_know_survives_a_change() -> None:
    sent = []
    live = {"rid": "ri.a..b.c", "runtimeConfiguration": {"minReplicas": 1, "maxReplicas": 2, "novelty": {"x": 1}}}

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=live)

    api = FoundryApi(Transport("foundry", "https://stack.example/api", http=httpx.MockTransport(answer)))
    await FoundryClient(api, api_url="https://stack.example/api").scale("ri.a..b.c", Autoscaling(max_replicas=3))
    assert sent[-1].read() == (
        b'{"runtimeConfiguration":{"minReplicas":1,"maxReplicas":3,"novelty":{"x":1},"sources":[],'
        b'"environmentVariables":{}}}'
    )


async def test_a_change_that_changes_nothing_sends_nothing(stack: Foundry) -> None:
    found = await stack.production()
    await stack.client.scale(found.id, Autoscaling(min_replicas=1))
    await stack.client.wake(found.id)
    assert await stack.sent("PUT") == []


async def test_sources_change_only_while_stopped(stack: Foundry) -> None:
    found, update = await stack.production(), DeploymentUpdate(options={"sources": ["ri.magritte..source.one"]})
    with pytest.raises(Conflict, match="Disable it first") as caught:
        await stack.client.update(found.id, update)
    assert caught.value.problem.code == "LiveDeploymentSourcesCannotBeUpdatedWhileRunning"
    await stack.client.stop(found.id)
    changed = await stack.client.update(found.id, update)
    assert changed.raw["runtimeConfiguration"]["sources"] == ["ri.magritte..source.one"]
    assert (await stack.client.start(found.id)).status is DeploymentStatus.READY


async def test_a_disabled_deployment_is_started_and_not_woken(stack: Foundry) -> None:
    found = await stack.client.stop((await stack.production()).id)
    assert (await stack.client.scale_to_zero(found.id)).status is DeploymentStatus.STOPPED
    assert await stack.sent("PUT") == [], "nobody knows whether a change would start it"
    with pytest.raises(Conflict, match="start it"):
        await stack.client.wake(found.id)


# --- preview, envelopes, tolerance --------------------------------------------------------------------------------


async def test_every_request_is_a_preview(stack: Foundry) -> None:
    found = await stack.production()
    await stack.client.stop(found.id)
    await stack.client.start(found.id)
    await stack.client.predict(found.id, {"x": 1})
    await stack.client.promote_version(stack.model, await stack.new_version(), "master")
    sent = await stack.sent(path="/api/*")
    assert len(sent) > 8
    assert all(("preview", "true") in request.query for request in sent)


async def test_what_was_just_created_is_found_by_the_next_one_who_looks(stack: Foundry) -> None:
    """404 just after creation: the client waits until the list shows the deployment before it gives its id away."""
    await stack.control.fate(timeline="create", match="staging", outcome="late", reads=2)
    made = await stack.client.create(stack.spec("staging"))
    async with stack.block().get_client() as other:
        assert (await other.get(made.id)).ready


async def test_a_version_that_the_list_shows_late_is_waited_for(stack: Foundry) -> None:
    """Otherwise the former version would be the newest one of the branch, live, and ready."""
    before, version = await stack.production(), await stack.new_version()
    await stack.control.fate(timeline="upgrade", outcome="stuck")
    await stack.control.fate(timeline="version", outcome="late", reads=2)
    await stack.client.promote_version(stack.model, version, "master")
    async with stack.block().get_client() as other:
        assert (await other.get(before.id)).status is DeploymentStatus.UPDATING


async def test_a_vendors_veto_on_retries_is_heeded(stack: Foundry) -> None:
    await stack.control.fault(
        method="GET", kind="status", status=429, headers={"QoS-Retry-Hint": "do-not-retry"}, times=None
    )
    with pytest.raises(ProviderError):
        await stack.client.get("ri.a..b.c")
    assert len(await stack.sent()) == 1
    await stack.control.clear_faults()


async def test_a_delay_that_the_vendor_asks_for_is_waited_for(stack: Foundry, caplog: pytest.LogCaptureFixture) -> None:
    await stack.control.fault(method="GET", path=LIVE, kind="status", status=429, retry_after=0.2)
    with caplog.at_level(logging.WARNING):
        await stack.production()
    assert "trying again in 0.2 s" in caplog.text


async def test_an_empty_404_says_that_the_api_may_not_be_there(stack: Foundry) -> None:
    await stack.control.fault(method="GET", kind="status", status=404, body="")
    with pytest.raises(NotFound, match="may not have the API at all"):
        await stack.client.get("ri.a..b.c")


async def test_a_list_that_repeats_its_token_ends() -> None:
    page = {"data": [{"rid": "ri.a..b.c"}], "nextPageToken": "again"}
    api = answering(*(httpx.Response(200, json=page) for _ in range(3)))
    assert len(await api.versions("ri.a..b.m")) == 2


async def test_an_unknown_state_and_missing_fields_are_tolerated() -> None:
    api = answering(
        httpx.Response(200, json={"rid": "ri.a..b.c", "status": {"state": "PAUSED", "isReady": True}, "new": [1]}),
        httpx.Response(200, json={"rid": "ri.a..b.c"}),
    )
    odd, bare = await api.live_deployment("ri.a..b.c"), await api.live_deployment("ri.a..b.c")
    assert status_of(odd, None) is DeploymentStatus.UNKNOWN
    assert odd.raw == {"rid": "ri.a..b.c", "status": {"state": "PAUSED", "isReady": True}, "new": [1]}
    assert bare.branch is None


@pytest.mark.parametrize("body", ["[]", "null", '{"rid": 1}', '"text"'])
async def test_an_answer_that_makes_no_sense_is_a_providers_error(body: str) -> None:
    with pytest.raises(ProviderError, match="cannot be understood"):
        await answering(httpx.Response(200, content=body)).live_deployment("ri.a..b.c")


async def test_versions_that_the_api_cannot_show_do_not_hide_the_deployment(stack: Foundry) -> None:
    found = await stack.production()
    refusal = {"errorCode": "INVALID_ARGUMENT", "errorName": "UnsupportedModelSource", "parameters": {}}
    await stack.control.fault(method="GET", path="*/versions", kind="status", status=400, body=refusal)
    async with stack.block().get_client() as fresh:
        assert (await fresh.get(found.id)).ready


async def test_environment_variables_are_in_no_error(stack: Foundry) -> None:
    await stack.control.fault(
        method="GET", path=f"{LIVE}/*", kind="status", status=200,
        body={"rid": 7, "runtimeConfiguration": {"environmentVariables": {"PASSWORD": "planted"}}},
    )  # fmt: skip
    with pytest.raises(ProviderError) as caught:
        await stack.client.get("ri.a..b.c")
    assert "planted" not in "".join(traceback.format_exception(caught.value))


async def test_an_error_that_echoes_the_token_does_not_show_it(
    stack: Foundry, caplog: pytest.LogCaptureFixture
) -> None:
    token = stack.sandbox["foundry"]["token"]
    body = {"errorCode": "X", "errorName": "Y", "errorDescription": token, "parameters": {"t": [token], token: 1}}
    with caplog.at_level(logging.DEBUG, logger="prefect_modeldeploy"):
        for status in (400, 503):
            await stack.control.fault(method="GET", kind="status", status=status, body=body, times=1)
            try:
                await stack.client.get("ri.a..b.c")
            except ProviderError as error:
                shown = "".join(traceback.format_exception(error)) + repr(error.problem) + repr(vars(error))
                assert token not in shown
    assert token not in caplog.text


async def test_a_realistic_promotion_is_seen_to_its_end() -> None:
    async with foundry(speed=300) as own:
        before, version = await own.production(), await own.new_version()
        candidate = await own.client.create(own.spec("staging", version=version))
        async for _ in own.client.wait([candidate.id], lambda d: d.ready, timeout_seconds=20):
            pass
        promoted = await own.client.promote(candidate.id, environment="production")
        assert (promoted.id, promoted.status) == (before.id, DeploymentStatus.UPDATING)
        seen = [d async for [d] in own.client.wait([before.id], lambda d: d.ready, timeout_seconds=20)]
        assert seen[0].version == before.version
        assert {d.provider_status for d in seen} == {"ACTIVE"}, "its state never told"
        assert seen[-1].version != before.version
