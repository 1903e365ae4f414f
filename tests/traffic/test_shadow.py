"""Shadow: some requests go to both arms; stable answers, and how alike the answers are is counted."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.measurements import Quality
from prefect_modeldeploy.traffic.comparer import COPIED_BYTES, Comparer
from prefect_modeldeploy.traffic.endpoint import Shadow
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.conftest import eventually, serve
from tests.traffic.conftest import Models, StartGateway, endpoint, upstream
from tests.traffic.load import load
from tests.traffic.model_server import answer, body

Model = Callable[[Any], Any]


@asynccontextmanager
async def serving(predict: Model) -> AsyncIterator[tuple[int, list[Any]]]:
    """A model; yields its port, and what it was asked."""
    asked: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(json.loads(b"".join([part async for part in body(receive)])))
        found = predict(asked[-1])
        await answer(send, found, found if isinstance(found, int) else 200)

    async with serve(app) as url:
        yield int(urlsplit(url).port or 0), asked


@asynccontextmanager
async def hanging() -> AsyncIterator[tuple[int, list[Any]]]:
    """Takes requests and never answers; yields its port, and the connections."""
    taken: list[Any] = []
    server = await asyncio.start_server(lambda *streams: taken.append(streams), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], taken
        for _, writer in taken:
            writer.close()


class Site:
    """A gateway whose endpoint is shadowed."""

    def __init__(self, gateway: Gateway, comparer: Comparer, client: httpx.AsyncClient) -> None:
        self.gateway, self.comparer, self._client = gateway, comparer, client

    async def ask(self, content: Any = 1, path: str = "/x", **options: Any) -> httpx.Response:
        return await self._client.post(f"{self.gateway.url}/prod{path}", json=content, **options)

    def counted(self) -> dict[str, int]:
        """What came of the copies so far."""
        counts, total = self.comparer.take(), Counter[str]()
        self.comparer.give_back(counts)
        for one in counts.values():
            total.update(one.excluded)
        return dict(total)


@asynccontextmanager
async def shadowed(
    start_gateway: StartGateway,
    ports: tuple[int, int],
    directory: Path,
    *,
    shadow: Shadow = Shadow(share=100),  # noqa: B008 it is immutable
    canary_weight: float = 0.0,
    **options: Any,
) -> AsyncIterator[Site]:
    """Stable and canary on these ports."""
    comparer = Comparer(directory / "gateway", lambda name: shadow if name == "prod" else None, **options)
    wanted = endpoint({"stable": 100 - canary_weight, "canary": canary_weight}, shadow=shadow)
    state = DataPlane((wanted,), (upstream("stable", ports[0]), upstream("canary", ports[1])))
    gateway = await start_gateway(state, comparer=await comparer.start())
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        try:
            yield Site(gateway, comparer, client)
        finally:
            await comparer.stop()


async def test_both_arms_are_asked_the_same_and_stable_answers(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with (
        serving(lambda x: {"y": x, "by": "stable"}) as (stable, asked),
        serving(lambda x: {"y": x, "by": "canary"}) as (canary, copies),
        shadowed(start_gateway, (stable, canary), tmp_path, shadow=Shadow(share=100, ignore=("by",))) as site,
    ):
        answers = [await site.ask({"number": number}) for number in range(20)]
        assert {given.json()["by"] for given in answers} == {"stable"}
        assert {given.headers["x-modeldeploy-arm"] for given in answers} == {"stable"}
        await eventually(lambda: site.counted() == {"shadow_equal": 20})
    assert asked == [{"number": number} for number in range(20)]
    assert sorted(copies, key=lambda one: one["number"]) == asked


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        (lambda x: [1.0], lambda x: [1.0 + 1e-9], "shadow_close"),
        (lambda x: [1.0], lambda x: [1.1], "shadow_different"),
        (lambda x: x, lambda x: 500, "shadow_failed"),
        (lambda x: x, lambda x: 422, "shadow_different"),
        (lambda x: 422, lambda x: 422, "shadow_equal"),
        (lambda x: x, lambda x: 429, "shadow_refused"),
    ],
)
async def test_what_a_copy_comes_to(
    start_gateway: StartGateway, tmp_path: Path, ours: Model, theirs: Model, outcome: str
) -> None:
    async with (
        serving(ours) as (stable, _),
        serving(theirs) as (canary, _),
        shadowed(start_gateway, (stable, canary), tmp_path) as site,
    ):
        assert (await site.ask([5])).json() == ours([5])
        await eventually(lambda: site.counted() == {outcome: 1})


async def test_stables_own_failure_says_nothing_about_the_canary(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with (
        serving(lambda x: 500) as (stable, asked),
        serving(lambda x: x) as (canary, copies),
        shadowed(start_gateway, (stable, canary), tmp_path) as site,
    ):
        assert (await site.ask()).status_code == 500
        await eventually(lambda: copies)
        assert (len(asked), site.counted()) == (1, {})


async def test_a_canary_that_hangs_costs_the_client_nothing(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with (
        serving(lambda x: x) as (stable, _),
        hanging() as (canary, copies),
        shadowed(start_gateway, (stable, canary), tmp_path, copies=4, copy_seconds=0.5) as site,
    ):
        slowest = 0.0
        for number in range(30):
            began = time.monotonic()
            assert (await site.ask([number])).json() == [number]
            slowest = max(slowest, time.monotonic() - began)
        print(f"slowest answer {1000 * slowest:.0f} ms")
        await eventually(lambda: sum(site.counted().values()) == 30)
        counted = site.counted()
        # Four at a time are copied and fail at their own deadline; the others are not copied, and that is counted.
        assert counted["shadow_failed"] + counted["shadow_skipped"] == 30
        assert counted["shadow_failed"] >= 4
        assert len(copies) == counted["shadow_failed"]


async def test_a_dead_canary_costs_the_client_nothing(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with serving(lambda x: x) as (stable, _):
        async with serving(lambda x: x) as (canary, _):
            pass
        async with shadowed(start_gateway, (stable, canary), tmp_path) as site:
            assert [(await site.ask([number])).json() for number in range(5)] == [[number] for number in range(5)]
            await eventually(lambda: site.counted() == {"shadow_failed": 5})


async def test_without_the_comparer_stable_answers_all_the_same(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with (
        serving(lambda x: x) as (stable, asked),
        serving(lambda x: x) as (canary, copies),
        shadowed(start_gateway, (stable, canary), tmp_path) as site,
    ):
        await site.comparer.stop()
        answers = [await site.ask([number]) for number in range(10)]
        assert [given.json() for given in answers] == [[number] for number in range(10)]
        assert {given.headers["x-modeldeploy-arm"] for given in answers} == {"stable"}
    assert (len(asked), copies) == (10, [])


async def test_what_cannot_be_copied_goes_to_stable_alone(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path) as site:
        large = b"x" * (COPIED_BYTES + 1)
        url = f"{site.gateway.url}/prod/digest"

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"y" * 1000

        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(url, content=large)).json()["bytes"] == len(large)
            assert (await client.post(url, content=pieces())).json()["bytes"] == 3000
        assert site.counted() == {"shadow_skipped": 2}
        stream = await site.ask(path="/stream/5/0.01")
        assert stream.text == "".join(f"data: {number}\n\n" for number in range(5))


async def test_only_the_sampled_share_comes_here_and_the_others_are_split_as_asked(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    half = Shadow(share=50)
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path, shadow=half, canary_weight=50) as site:
        arms = Counter([(await site.ask(path="/status/200")).headers["x-modeldeploy-arm"] for _ in range(400)])
        await eventually(lambda: site.counted().get("shadow_different", 0) > 100)
        store = WindowStore(sqlite3.connect(":memory:", isolation_level=None))
        await eventually(lambda: store.ingest(site.gateway.logs) == 0)
        await asyncio.sleep(0)
        store.add(site.comparer.take())
        [counted, compared] = store.read("prod")[0]
        sampled = counted.arms["stable"].excluded["shadowed"]
        split = {arm: counts.requests for arm, counts in counted.arms.items()}
        assert sum(split.values()) + sampled == 400
        assert 140 < sampled < 260
        assert abs(split["stable"] - split["canary"]) < 70
        assert arms["canary"] == split["canary"]
        assert counted.weights == compared.weights == {"stable": 50.0, "canary": 50.0}
        window = compared.to_window()
        assert window is not None
        assert window.canary.quality == Quality(compared=sampled, agreed=0)
        assert (window.canary.requests, window.baseline.requests) == (0, 0)


async def test_a_forced_arm_is_not_shadowed(start_gateway: StartGateway, models: Models, tmp_path: Path) -> None:
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path) as site:
        answer = await site.ask(headers={"X-Modeldeploy-Arm": "canary"})
        assert answer.json()["name"] == "canary"
        assert "x-modeldeploy-shadow" not in answer.json()["headers"]
        assert site.counted() == {}


async def test_no_client_reaches_the_comparers_way_by_a_header(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    none = Shadow(share=0.01)
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path, shadow=none) as site:
        answers = [await site.ask(headers={"X-Modeldeploy-Shadow": "prod:x canary stable"}) for _ in range(20)]
        assert {given.json()["name"] for given in answers} == {"stable"}
        assert all("x-modeldeploy-shadow" not in given.json()["headers"] for given in answers)


async def test_a_shadow_is_switched_on_and_off_while_requests_pass(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path) as site:
        await site.ask(path="/status/200")
        await eventually(lambda: sum(site.counted().values()) == 1)
        await site.gateway.apply(models.split(0))
        async with httpx.AsyncClient(trust_env=False) as fresh:
            assert (await fresh.get(f"{site.gateway.url}/prod/status/200")).json()["name"] == "stable"
        assert sum(site.counted().values()) == 1


async def test_switching_it_on_and_off_under_load_fails_nobody(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    async with shadowed(start_gateway, (models.stable, models.canary), tmp_path) as site:
        async with load(f"{site.gateway.url}/prod/status/200", rate=150) as answers:
            for turn in range(6):
                before = answers.count
                await eventually(lambda before=before: answers.count > before + 30)  # type: ignore[misc]
                await site.gateway.apply(models.split(0, **({"shadow": Shadow(share=50)} if turn % 2 else {})))
        assert answers.failures == []
        assert sum(site.counted().values()) > 20


async def test_a_shadow_without_a_comparer_is_refused(start_gateway: StartGateway, models: Models) -> None:
    with pytest.raises(GatewayError, match="no comparer"):
        await start_gateway(models.split(0, shadow=Shadow(share=1)))


def test_a_shadow_needs_an_arm_to_copy_to() -> None:
    with pytest.raises(ValueError, match="shadow"):
        endpoint({"stable": 100}, shadow=Shadow(share=1))
