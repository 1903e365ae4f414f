"""What goes wrong with Scale's API, and the guard against each: every test fails without its guard."""

import asyncio

import httpx
import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus
from prefect_modeldeploy.errors import DeploymentFailed, NotFound, ProviderError, ProviderUnavailable, WaitTimeout
from prefect_modeldeploy.providers.scale.wire import items
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.transport import RetryPolicy, Transport
from tests.conftest import serve
from tests.providers.scale_kit import Account, account, account_in, scale_sandbox
from tests.sandbox.kit import running_sandbox

__all__ = ["account", "scale_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")

CREATE = {"method": "POST", "path": "/v4/models/*/deployments"}


async def lost(control: SandboxControl, **fields: object) -> None:
    await control.fault(kind="lost_answer", provider="scale", **fields)


# --- wait_for_ready, and answers that are lost ------------------------------------------------------------------------


async def test_creation_never_blocks_until_ready(account: Account) -> None:
    """The vendor's default does, and its client then posts again after 60 s, up to three times."""
    await account.control.fate(outcome="stuck", provider="scale")
    made = await asyncio.wait_for(account.deploy(), 20)
    assert made.status is DeploymentStatus.UPDATING
    assert [request.body["wait_for_ready"] for request in await account.sent("POST")] == [False]


async def test_a_change_never_blocks_until_ready_either(account: Account) -> None:
    seeded = await account.seeded()
    await account.control.fate(outcome="stuck", provider="scale", timeline="update")
    await asyncio.wait_for(account.client.scale(seeded.id, Autoscaling(max_replicas=5)), 20)
    assert [request.body["wait_for_ready"] for request in await account.sent("PATCH")] == [False]


async def test_a_creation_whose_answer_was_lost_is_found_and_not_sent_again(account: Account) -> None:
    await lost(account.control, **CREATE)
    made = await account.deploy()
    [record] = await account.records("fraud-v2")
    assert made.id.endswith(record["id"])
    assert len(await account.sent("POST")) == 1


async def test_a_creation_that_never_arrived_is_sent_again(account: Account) -> None:
    await account.control.fault(kind="lost_request", times=2, **CREATE)
    await account.deploy()
    assert len(await account.records("fraud-v2")) == 1
    assert len(await account.sent("POST")) == 3


async def test_a_lost_creation_that_is_listed_late_is_not_sent_again(account: Account) -> None:
    await lost(account.control, **CREATE)
    await account.control.fate(outcome="late", reads=2, match="fraud-v2")
    await account.deploy()
    assert len(await account.records("fraud-v2")) == 1


async def test_a_creation_that_arrives_after_it_was_given_up_leaves_one_deployment(account: Account) -> None:
    """A request may sit in a queue: it is not there when we look, and takes effect after we sent another one."""
    client = account.client
    await account.control.fault(kind="status", status=504, body="<html>gateway timeout</html>", **CREATE)
    spec = account.spec()
    late: dict[str, object] = {}

    async def sent_twice() -> None:
        while len(posts := await account.sent("POST", "*/deployments")) < 2:
            await asyncio.sleep(0.01)
        late.update(posts[0].body)
        headers = {"x-api-key": account.credentials.api_key.get_secret_value()}
        async with httpx.AsyncClient(base_url=account.credentials.base_url, headers=headers, trust_env=False) as queue:
            await queue.post(posts[0].path, json=late)

    await account.control.fault(kind="slow_answer", seconds=1.0, skip=0, **CREATE)
    creating, arriving = asyncio.create_task(client.create(spec)), asyncio.create_task(sent_twice())
    await asyncio.gather(creating, arriving)
    assert late
    assert len(await account.records("fraud-v2")) == 1


async def test_two_that_create_the_same_at_the_same_moment_get_the_same_one(account: Account) -> None:
    """Both have looked, and found nothing, before either request takes effect."""
    await account.control.fault(kind="delay", method="POST", path="/v4/models/*/deployments", seconds=0.5, times=2)
    async with account.credentials.get_client() as other:
        first, second = await asyncio.gather(account.client.create(account.spec()), other.create(account.spec()))
    assert len(await account.sent("POST", "/v4/models/*/deployments")) == 2
    [left] = await account.records("fraud-v2")
    assert first.id == second.id == f"{account.model_id}/{left['id']}"


async def test_a_model_whose_creation_was_lost_is_made_once(account: Account) -> None:
    from prefect_modeldeploy.providers.scale.schemas import NewModel

    await lost(account.control, method="POST", path="/v4/models")
    made = await account.client.models.create(NewModel(name="m", model_type="GENERIC", model_vendor="LAUNCH"))
    assert [one.id for one in await account.client.models.find() if one.name == "m"] == [made.id]


async def test_429_is_waited_for_as_long_as_the_vendor_asks(account: Account) -> None:
    await account.control.fault(kind="status", status=429, retry_after=0.2, times=2, **CREATE)
    await account.deploy()
    assert [request.status for request in await account.sent("POST")] == [429, 429, 200]
    assert len(await account.records("fraud-v2")) == 1


async def test_a_change_is_sent_again_since_it_says_final_values(account: Account) -> None:
    seeded = await account.seeded()
    await lost(account.control, method="PATCH")
    scaled = await account.client.scale(seeded.id, Autoscaling(max_replicas=5))
    assert scaled.autoscaling is not None
    assert scaled.autoscaling.max_replicas == 5
    bodies = [request.body for request in await account.sent("PATCH")]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


async def test_a_change_sends_the_whole_configuration(account: Account) -> None:
    """Whether the vendor merges or replaces is unknown; the emulator replaces."""
    seeded = await account.seeded()
    await account.client.scale(seeded.id, Autoscaling(target_concurrency=3))
    [patch] = await account.sent("PATCH")
    assert patch.body["vendor_configuration"] == {
        "vendor": "LAUNCH", "min_workers": 1, "max_workers": 2, "per_worker": 3,
    }  # fmt: skip


# --- pages that go on for ever ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["no current_page", "page is ignored", "no total", "empty", "no items", "a list"])
async def test_every_list_ends(shape: str) -> None:
    """The vendor's own client asks for page 2 without end when `current_page` is missing."""
    asked = 0

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += 1
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        assert asked < 10, "the list never ends"
        page = int(Request(scope).query_params.get("page", "1"))
        everything = [{"id": str(number)} for number in range(150)]
        part = everything[(page - 1) * 100 : page * 100]
        body = {
            "no current_page": {"items": part, "total_item_count": 150},
            "page is ignored": {"items": everything[:100], "current_page": 1},
            "no total": {"items": part, "current_page": page},
            "empty": {"items": [], "current_page": 1, "total_item_count": 0},
            "no items": {"current_page": 1},
            "a list": [],
        }[shape]
        await JSONResponse(body)(scope, receive, send)

    async with serve(app) as url, Transport("scale", url, policy=RetryPolicy(attempts=1)) as transport:
        found = [one async for one in items(transport, "/list")]
    expected = {"no current_page": 150, "no total": 150, "page is ignored": 100}.get(shape, 0)
    assert len({one["id"] for one in found}) == len(found) == expected
    assert asked <= 3


async def test_all_pages_are_read(account: Account) -> None:
    body = {"wait_for_ready": False}
    path = f"/v4/models/{account.model_id}/deployments"
    for number in range(120):
        await account.client._transport.call("POST", path, json={**body, "name": f"d-{number}"})
    await account.control.forget_requests()
    assert len(await account.client.find(model=account.model_id)) == 121
    assert [dict(request.query).get("page") for request in await account.sent("GET", path)] == [None, "2"]
    assert len(await account.client.find()) == 121


# --- READY is not ready -----------------------------------------------------------------------------------------------


async def test_ready_counts_when_the_deployment_has_answered(account: Account) -> None:
    made = await account.deploy(autoscaling=Autoscaling(min_replicas=1))
    await account.control.fault(kind="status", status=504, times=3, method="POST", path="*/execute")
    seen = [found[0] async for found in account.client.wait([made.id], lambda d: d.ready)]
    assert [one.provider_status for one in seen] == ["READY"] * 4
    assert [one.ready for one in seen] == [False, False, False, True]
    assert "does not answer" in str(seen[0].reason)


async def test_a_deployment_that_never_answers_is_never_ready(account: Account) -> None:
    made = await account.deploy()
    await account.control.fault(kind="status", status=502, times=None, method="POST", path="*/execute")
    with pytest.raises(WaitTimeout):
        async for _ in account.client.wait([made.id], lambda d: d.ready, timeout_seconds=1):
            pass


async def test_a_deployment_that_hangs_does_not_hold_a_wait(account: Account) -> None:
    made = await account.deploy()
    await account.control.fault(kind="delay", seconds=40, times=None, method="POST", path="*/execute")

    async def waiting() -> None:
        async for _ in account.client.wait([made.id], lambda d: d.ready, timeout_seconds=1):
            pass

    with pytest.raises(WaitTimeout):
        await asyncio.wait_for(waiting(), 20)


async def test_any_answer_of_the_model_shows_that_it_is_up(account: Account) -> None:
    made = await account.deploy()
    await account.control.fault(kind="status", status=422, body={"detail": "no prompt"}, path="*/execute")
    [seen] = [found[0] async for found in account.client.wait([made.id], lambda d: d.ready)]
    assert seen.ready


async def test_the_probe_is_the_users_and_can_be_left_out(account: Account, scale_sandbox) -> None:  # type: ignore[no-untyped-def]
    made = await account.deploy()
    async with account_in(scale_sandbox, probe={"prompts": ["hi"]}) as asking:
        assert [found async for found in asking.client.wait([made.id], lambda d: d.ready)]
        assert [request.body for request in await account.sent("POST", "*/execute")] == [{"prompts": ["hi"]}]
    await account.control.forget_requests()
    async with account_in(scale_sandbox, probe=None) as trusting:
        assert [found async for found in trusting.client.wait([made.id], lambda d: d.ready)]
        assert await account.sent("POST", "*/execute") == []


async def test_workers_that_start_after_ready_are_waited_for() -> None:
    async with running_sandbox("scale", speed=40) as sandbox, account_in(sandbox) as account:
        made = await account.deploy(autoscaling=Autoscaling(min_replicas=1))
        words = [found[0].provider_status async for found in account.client.wait([made.id], lambda d: d.ready)]
        assert list(dict.fromkeys(words)) == ["UPDATE_PENDING", "UPDATE_IN_PROGRESS", "READY"]
        [record] = await account.records(made.name)
        status = await sandbox.control.status()
        assert status["now"] - record["pool"]["started"][0] >= 30


async def test_a_wait_needs_one_list_call_a_look_however_many_it_waits_for(account: Account) -> None:
    made = [await account.deploy(f"d-{number}") for number in range(5)]
    await account.control.forget_requests()
    ids = [one.id for one in made]
    [seen] = [found async for found in account.client.wait(ids, lambda d: d.ready, model="not needed")]
    assert [one.id for one in seen] == ids
    assert len(await account.sent("GET")) == 1


# --- there, but not yet -----------------------------------------------------------------------------------------------


async def test_a_new_deployment_is_found_before_creation_returns(account: Account) -> None:
    await account.control.fate(outcome="late", reads=2, match="fraud-v2")
    made = await account.deploy()
    assert (await account.client.get(made.id)).ready


async def test_a_wait_is_patient_with_what_is_listed_late(account: Account) -> None:
    made = await account.deploy()
    path = f"/v4/models/{account.model_id}/deployments"
    await account.control.fault(
        kind="status", status=200, method="GET", path=path, times=2,
        body={"items": [], "current_page": 1, "total_item_count": 0},
    )  # fmt: skip
    seen = [found[0].status async for found in account.client.wait([made.id], lambda d: d.ready)]
    assert seen == [DeploymentStatus.PENDING, DeploymentStatus.PENDING, DeploymentStatus.READY]


async def test_what_was_listed_and_is_gone_ends_a_wait(account: Account) -> None:
    await account.control.fate(outcome="stuck", timeline="create")
    made = await account.deploy()

    async def waiting() -> None:
        async for _ in account.client.wait([made.id], lambda d: d.ready, timeout_seconds=10):
            await account.client.delete(made.id)

    with pytest.raises(DeploymentFailed, match="no such deployment"):
        await waiting()


async def test_a_failed_deployment_ends_a_wait(account: Account) -> None:
    await account.control.fate(outcome="fail", timeline="create")
    made = await account.deploy()
    with pytest.raises(DeploymentFailed, match="UPDATE_FAILED"):
        async for _ in account.client.wait([made.id], lambda d: d.ready):
            pass


async def test_an_update_that_fails_is_told(account: Account) -> None:
    seeded = await account.seeded()
    await account.control.fate(outcome="fail", timeline="update")
    assert (await account.client.scale(seeded.id, Autoscaling(max_replicas=3))).status is DeploymentStatus.FAILED


# --- servers: an effect that must happen once -------------------------------------------------------------------------


async def two_promoted(account: Account) -> tuple[str, str]:
    first, second = await account.seeded(), await account.deploy()
    for one in (first, second):
        await account.client.promote(one.id, environment="production")
    return first.id, second.id


async def backend(account: Account) -> str:
    [server] = (await account.control.table("scale", "servers")).values()
    return str(server["model_deployment_id"])


async def test_a_swap_whose_answer_was_lost_is_not_sent_again(account: Account) -> None:
    """Sent twice, the new deployment would be its own predecessor, and the way back would be gone."""
    await lost(account.control, method="PUT", path="*/backend")
    first, second = await two_promoted(account)
    assert second.endswith(await backend(account))
    assert len(await account.sent("PUT")) == 1
    restored = await account.client.roll_back(second, environment="production")
    assert restored.id == first


async def test_promoting_twice_keeps_the_way_back(account: Account) -> None:
    first, second = await two_promoted(account)
    await account.client.promote(second, environment="production")
    assert (await account.client.roll_back(second, environment="production")).id == first


async def test_a_rollback_whose_answer_was_lost_is_not_sent_again(account: Account) -> None:
    """Sent twice, it would lead forward to the bad deployment again."""
    first, second = await two_promoted(account)
    await lost(account.control, method="POST", path="*/rollback")
    assert (await account.client.roll_back(second, environment="production")).id == first
    assert first.endswith(await backend(account))
    assert (await account.client.roll_back(second, environment="production")).id == first
    assert len(await account.sent("POST", "*/rollback")) == 1


async def test_a_server_whose_creation_was_lost_is_made_once(account: Account) -> None:
    await lost(account.control, method="POST", path="/v4/serving")
    await account.client.promote((await account.seeded()).id, environment="production")
    assert len(await account.control.table("scale", "servers")) == 1


async def test_a_rollback_without_a_former_deployment_says_so(account: Account) -> None:
    seeded = await account.seeded()
    with pytest.raises(NotFound, match="no model server"):
        await account.client.roll_back(seeded.id, environment="production")
    await account.client.promote(seeded.id, environment="production")
    with pytest.raises(ProviderError, match="no previous deployment"):
        await account.client.roll_back(seeded.id, environment="production")


async def test_a_rollback_that_would_change_nothing_is_an_error(account: Account) -> None:
    first, second = await two_promoted(account)
    [server] = await account.client.servers.find()
    own = second.partition("/")[2]
    await account.client._transport.call(
        "PUT", f"/v4/serving/{server.model_server_id}/backend", json={"new_model_deployment_id": own}
    )
    with pytest.raises(ProviderError, match="swap its backend instead"):
        await account.client.roll_back(second, environment="production")
    assert first != second


async def test_a_prediction_is_not_sent_twice_behind_the_users_back(account: Account) -> None:
    seeded = await account.seeded()
    await lost(account.control, method="POST", path="*/execute")
    with pytest.raises(ProviderUnavailable) as caught:
        await account.client.predict(seeded.id, {"x": 1})
    assert caught.value.effect_unknown
    assert len(await account.sent("POST", "*/execute")) == 1
