"""The sandbox itself, shown with the smallest emulator: life cycles, faults, the journal, the clock, the state file."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.sandbox import registry
from prefect_modeldeploy.sandbox.house import House
from prefect_modeldeploy.sandbox.server import SandboxServer
from tests.conftest import eventually
from tests.sandbox.kit import RunningSandbox, running_sandbox
from tests.sandbox.toy import ToyEmulator


def client_of(sandbox: RunningSandbox) -> httpx.AsyncClient:
    toy = sandbox["toy"]
    return httpx.AsyncClient(base_url=toy["base_url"], headers={"x-api-key": toy["api_key"]}, trust_env=False)


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(ToyEmulator) as running:
        yield running


@pytest_asyncio.fixture
async def http(sandbox: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(sandbox) as client:
        yield client


async def make(http: httpx.AsyncClient, name: str = "one") -> dict[str, Any]:
    answer = await http.post("/things", json={"name": name})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def status_of(http: httpx.AsyncClient, thing: dict[str, Any]) -> str:
    answer = await http.get(f"/things/{thing['id']}")
    return str(answer.json().get("status", answer.status_code))


# --- life cycles ------------------------------------------------------------------------------------------------------


async def test_at_speed_0_a_life_cycle_is_over_at_once(http: httpx.AsyncClient) -> None:
    assert await status_of(http, await make(http)) == "READY"


async def test_a_state_follows_from_the_time_that_has_passed() -> None:
    async with running_sandbox(ToyEmulator, speed=0.001) as sandbox, client_of(sandbox) as http:
        thing = await make(http)
        assert await status_of(http, thing) == "QUEUED"
        await sandbox.control.advance(6)
        assert await status_of(http, thing) == "BUILDING"
        await sandbox.control.advance(20)
        assert await status_of(http, thing) == "READY"
        await http.delete(f"/things/{thing['id']}")
        assert await status_of(http, thing) == "GOING"
        await sandbox.control.advance(6)
        assert await status_of(http, thing) == "404"


async def test_a_build_fails_when_it_was_told_to_and_only_that_one(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    await sandbox.control.fate(timeline="create", match="bad-*", outcome="fail")
    good, bad, next_bad = await make(http, "good"), await make(http, "bad-1"), await make(http, "bad-2")
    assert [await status_of(http, thing) for thing in (good, bad, next_bad)] == ["READY", "BROKEN", "READY"]


async def test_a_stuck_life_cycle_goes_on_when_it_is_released(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    await sandbox.control.fate(outcome="stuck", stage="QUEUED")
    thing = await make(http)
    assert await status_of(http, thing) == "QUEUED"
    assert await sandbox.control.release(thing["id"]) == 1
    assert await status_of(http, thing) == "READY"


async def test_a_new_thing_is_found_late(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    await sandbox.control.fate(outcome="late", reads=2)
    thing = await make(http)
    assert [await status_of(http, thing) for _ in range(3)] == ["404", "404", "READY"]


# --- replicas ---------------------------------------------------------------------------------------------------------


async def test_replicas_wake_at_a_request_and_sleep_when_idle() -> None:
    async with running_sandbox(ToyEmulator, speed=1000) as sandbox, client_of(sandbox) as http:
        thing = await make(http)
        await sandbox.control.advance(30)

        async def running() -> int:
            return int((await http.get(f"/things/{thing['id']}")).json()["replicas"]["running"])

        assert await running() == 0
        answer = await http.post(f"/things/{thing['id']}/predict", json=[1, 2, {"x": 3.5}])
        assert answer.json()["sum"] == 6.5
        assert await running() == 1
        await sandbox.control.advance(75)
        assert await running() == 0


async def test_replicas_follow_the_load(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    thing = await make(http)
    await sandbox.control.behave(match="one", latency_seconds=0.3)
    url = f"/things/{thing['id']}"
    load = [asyncio.create_task(http.post(f"{url}/predict", json=number)) for number in range(8)]

    async def all_there() -> bool:
        return bool((await http.get(url)).json()["replicas"]["ready"] == 3)

    await eventually(all_there)
    assert [task.json()["sum"] for task in await asyncio.gather(*load)] == list(range(8))


async def test_a_behaviour_is_a_real_callable_with_errors_on_demand(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    thing, other = await make(http, "special"), await make(http, "other")
    await sandbox.control.behave(match="special", callable="math:sqrt", error_rate=0.5, seed=3)
    answers = [await http.post(f"/things/{thing['id']}/predict", json=9) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200, 500}
    assert {answer.text for answer in answers if answer.is_success} == {"3.0"}
    assert (await http.post(f"/things/{other['id']}/predict", json=9)).json()["echo"] == 9
    broken = await http.post(f"/things/{thing['id']}/predict", json="no number")
    assert broken.status_code == 500
    assert "oops" in broken.json()


# --- faults and the journal -------------------------------------------------------------------------------------------


async def test_a_status_fault_answers_in_the_vendors_envelope(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    await sandbox.control.fault(method="POST", path="/things", kind="status", status=429, retry_after=1.5, times=2)
    answers = [await http.post("/things", json={"name": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 201]
    assert answers[0].headers["retry-after"] == "1.5"
    assert "oops" in answers[0].json()


@pytest.mark.parametrize(("kind", "made"), [("lost_answer", 1), ("lost_request", 0), ("reset", 0)])
async def test_the_connection_is_cut_before_or_after_the_effect(
    sandbox: RunningSandbox, http: httpx.AsyncClient, kind: str, made: int
) -> None:
    before = len(await sandbox.control.table("toy", "things"))
    await sandbox.control.fault(method="POST", kind=kind)
    with pytest.raises(httpx.TransportError):
        await http.post("/things", json={"name": "x"})
    assert len(await sandbox.control.table("toy", "things")) == before + made
    assert (await http.get("/things")).status_code == 200


async def test_an_answer_comes_late_and_the_effect_does_not(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    await sandbox.control.fault(method="POST", kind="slow_answer", seconds=30)
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/things", json={"name": "slow"}, timeout=0.3)
    names = [thing["name"] for thing in (await sandbox.control.table("toy", "things")).values()]
    assert names == ["seeded", "slow"]


async def test_chances_are_the_same_with_the_same_seed(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    async def series() -> list[int]:
        await sandbox.control.clear_faults()
        await sandbox.control.fault(kind="status", status=503, probability=0.3, seed=7, times=None)
        return [(await http.get("/things")).status_code for _ in range(40)]

    first = await series()
    assert 5 <= first.count(503) <= 20
    assert await series() == first


async def test_every_path_is_not_found_at_first(sandbox: RunningSandbox, http: httpx.AsyncClient) -> None:
    await sandbox.control.fault(method="GET", path="/things/*", kind="status", status=404, per_path=True)
    one, two = await make(http), await make(http)
    assert [await status_of(http, thing) for thing in (one, one, two, two)] == ["404", "READY"] * 2


async def test_the_journal_tells_what_was_sent_and_keeps_no_credentials(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    key = sandbox["toy"]["api_key"]
    await http.post("/things?a=1&b=", json={"name": key})
    [request] = await sandbox.control.requests(provider="toy", method="POST", path="/thing*")
    assert (request.method, request.path, request.query, request.status) == (
        "POST", "/things", [("a", "1"), ("b", "")], 201,
    )  # fmt: skip
    assert key not in request.model_dump_json()
    assert await sandbox.control.requests(after=request.number) == []


# --- saying no --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 422), (b"{", 422), (b"\xff\xfe", 422), (b"[]", 422), (b'{"name": 1}', 422), (b'{"name": "x", "y": 1}', 422)],
)
async def test_a_bad_body_is_refused_in_the_vendors_envelope(
    http: httpx.AsyncClient, content: bytes, status: int
) -> None:
    answer = await http.post("/things", content=content)
    assert answer.status_code == status
    assert list(answer.json()) == ["oops"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/things", 405), ("GET", "/things/%00%2f", 404)]
)
async def test_a_bad_request_line_is_refused_too(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["oops"]


async def test_a_bug_of_an_emulator_shows_no_traceback_and_is_told_to_the_test() -> None:
    async with running_sandbox(ToyEmulator, may_crash=True) as sandbox, client_of(sandbox) as http:
        answer = await http.get("/bug")
        assert (answer.status_code, answer.json()) == (500, {"oops": "Internal Server Error"})
        [crash] = await sandbox.control.crashes()
        assert "a bug of the emulator" in crash


async def test_without_credentials_nothing_comes_in(sandbox: RunningSandbox) -> None:
    async with httpx.AsyncClient(base_url=sandbox["toy"]["base_url"], trust_env=False) as stranger:
        assert [(await stranger.get(path)).status_code for path in ("/things", "/nowhere")] == [401, 401]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "unknown"}, "kind"),
        ({"kind": "reset", "probability": 2}, "probability"),
        ({"kind": "reset", "typo": 1}, "typo"),
    ],
)
async def test_the_control_api_names_the_field(sandbox: RunningSandbox, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        await sandbox.control.fault(**fields)


async def test_a_callable_that_cannot_be_imported_is_refused(sandbox: RunningSandbox) -> None:
    with pytest.raises(InvalidInput, match="callable"):
        await sandbox.control.behave(callable="no.such.module:name")


async def test_a_page_in_a_browser_cannot_use_the_control_api(sandbox: RunningSandbox) -> None:
    body = '{"callable": "os:getcwd"}'
    async with httpx.AsyncClient(base_url=sandbox.ready["control_url"], trust_env=False) as browser:
        simple = await browser.post("/v1/behaviours", content=body, headers={"content-type": "text/plain"})
        rebound = await browser.post(
            "/v1/behaviours", content=body, headers={"content-type": "application/json", "host": "evil.example"}
        )
    assert (simple.status_code, rebound.status_code) == (400, 400)


# --- the world --------------------------------------------------------------------------------------------------------


async def test_a_world_outlives_its_sandbox(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with running_sandbox(ToyEmulator, state=state) as sandbox, client_of(sandbox) as http:
        thing, key = await make(http, "kept"), sandbox["toy"]["api_key"]
        await sandbox.control.advance(3600)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    async with running_sandbox(ToyEmulator, state=state) as again, client_of(again) as http:
        assert again["toy"]["api_key"] == key
        assert await status_of(http, thing) == "READY"
        assert (await make(http, "new"))["id"] != thing["id"]


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text("{}")
    with pytest.raises(InvalidInput, match="state"):
        House([ToyEmulator], state=state)


async def test_reset_brings_the_first_world_back_with_the_same_credentials(
    sandbox: RunningSandbox, http: httpx.AsyncClient
) -> None:
    thing = await make(http)
    await sandbox.control.fault(kind="reset", times=None)
    await sandbox.control.reset()
    assert await status_of(http, thing) == "404"
    assert [thing["name"] for thing in (await http.get("/things")).json()] == ["seeded"]


def test_an_unknown_provider_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"providers='sagemaker': there is no such emulator; there are "):
        House(["sagemaker"])


@pytest.mark.parametrize("name", registry.available())
def test_every_emulator_is_found_by_its_name(name: str) -> None:
    assert registry.find(name).name == name


async def test_a_taken_port_is_said_by_name(sandbox: RunningSandbox) -> None:
    port = int(sandbox.ready["control_url"].rpartition(":")[2])
    with pytest.raises(InvalidInput, match=f"port={port}"):
        SandboxServer(House([ToyEmulator]), port)
