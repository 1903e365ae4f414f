"""Deployments at providers behind the node's gateway: their address, TLS, credentials and bodies."""

import asyncio
import json
import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import SecretStr

from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, ProviderUnavailable
from prefect_modeldeploy.local.autostart import ensure_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.traffic.access_log import ACCESS_LOG
from prefect_modeldeploy.traffic.arm import Grant, RemoteArm
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from prefect_modeldeploy.traffic.envelope import Envelope
from prefect_modeldeploy.transport import RetryPolicy
from tests.conftest import eventually
from tests.local.conftest import RunningNode, no_process
from tests.traffic.conftest import listening, make_certificate
from tests.traffic.load import load

KEY, SECRET = "planted-key-4711", "planted-client-secret-4711"


@dataclass
class Vendor:
    """A vendor: lets in who has the key or a token that lives, and answers what its `model` says."""

    port: int = 0
    life: float = 3600.0
    tokens: dict[str, float] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    refuse_clients: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body") or "body" in message:
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, said = self._token(body) if scope["path"] == "/token" else self._predict(scope, body)
        answer = json.dumps(said).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _token(self, body: bytes) -> tuple[int, Any]:
        form = parse_qs(body.decode())
        if self.refuse_clients or form["client_secret"] != [SECRET]:
            return 401, {"error": "invalid_client"}
        token = f"planted-token-{len(self.tokens)}"
        self.tokens[token] = time.time() + self.life
        return 200, {"access_token": token, "expires_in": self.life}

    def _predict(self, scope: Any, body: bytes) -> tuple[int, Any]:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        authorization = headers.get("authorization", "")
        if authorization != f"Api-Key {KEY}":
            ends = self.tokens.get(authorization.removeprefix("Bearer "), 0.0)
            if time.time() > ends:
                return 401, {"error": "who are you?"}
        payload = json.loads(body or b"null")
        query = scope["query_string"].decode()
        self.seen.append({"path": scope["path"], "query": query, "headers": headers, "body": payload})
        if isinstance(payload, dict) and "input" in payload:
            return 200, {"output": {"echo": payload["input"]}}
        if isinstance(payload, dict) and "data" in payload:
            return 200, {"data": {"predictions": [{"echo": row} for row in payload["data"]]}}
        return 200, {"echo": payload}

    def arm(self, id: str, **fields: Any) -> RemoteArm:
        given = {"id": id, "provider": "vendor", "url": f"http://127.0.0.1:{self.port}/deep/{id}/score", **fields}
        if "grant" not in fields:
            given.setdefault("headers", {"Authorization": SecretStr(f"Api-Key {KEY}")})
        return RemoteArm(**given)

    def grant(self) -> Grant:
        url = f"http://127.0.0.1:{self.port}/token"
        return Grant(token_url=url, client_id="app", client_secret=SecretStr(SECRET), scopes=("execute",))


@asynccontextmanager
async def vendor(**options: Any) -> AsyncIterator[Vendor]:
    found = Vendor(**{name: options.pop(name) for name in ("life",) if name in options})
    async with listening(found, **options) as port:
        found.port = port
        yield found


async def put(node: RunningNode, endpoint: str, **arms: tuple[RemoteArm, float]) -> str:
    """An endpoint with these arms; returns where predictions are asked for."""
    for arm, _ in arms.values():
        await node.client.put_arm(arm)
    parts = tuple(EndpointArm(name=name, upstream=arm.id, weight=weight) for name, (arm, weight) in arms.items())
    await node.client.put_endpoint(Endpoint(name=endpoint, arms=parts))
    return f"{await node.client.url(endpoint)}/predict"


async def test_an_arm_is_reached_by_its_own_path_and_key_and_by_nothing_else(node: RunningNode) -> None:
    async with vendor() as there:
        url = await put(node, "keyed", stable=(there.arm("m1/d1"), 100.0))
        answer = await node.http.post(url, json={"x": 1}, headers={"Authorization": "Bearer the-client's-own"})
        assert answer.json() == {"echo": {"x": 1}}
        [seen] = there.seen
        assert (seen["path"], seen["headers"]["authorization"]) == ("/deep/m1/d1/score", f"Api-Key {KEY}")
        assert seen["headers"]["host"] == f"127.0.0.1:{there.port}"
        for path in ("", "/", "/predict/../../admin", "/v1/users", "/predict/more"):
            elsewhere = await node.http.post(f"{await node.client.url('keyed')}{path}", json={})
            assert elsewhere.status_code == 404, path
        assert there.seen == [seen]


async def test_an_arm_takes_part_in_a_split_beside_a_local_deployment(node: RunningNode) -> None:
    async with vendor() as there:
        await node.deploy("beside", "toy_models:echo")
        await node.client.put_arm(there.arm("remote"))
        parts = (
            EndpointArm(name="stable", upstream="beside", weight=50),
            EndpointArm(name="canary", upstream="remote", weight=50),
        )
        await node.client.put_endpoint(Endpoint(name="mixed", arms=parts))
        url = f"{await node.client.url('mixed')}/predict"
        async with load(url, rate=200, body=b'{"x": 1}') as answers:
            await eventually(lambda: min(answers.by_arm["stable"], answers.by_arm["canary"]) > 20)
        assert not answers.failures
        assert (await node.client.get_endpoint("mixed")).arms == parts
        with pytest.raises(Conflict, match="mixed"):
            await node.client.delete_arm("remote")
        with pytest.raises(Conflict, match="needs no arm"):
            await node.client.put_arm(there.arm("beside"))


@pytest.mark.parametrize("adapter", [None, Envelope(field="input", answer=("output",))], ids=["native", "adapter"])
async def test_the_gateway_knows_how_idle_an_arm_is(node: RunningNode, adapter: Envelope | None) -> None:
    async with vendor() as there:
        arm = there.arm(f"idle/{adapter is None}", adapter=adapter)
        url = await put(node, "idle", stable=(arm, 100.0))
        assert (await node.http.post(url, json={"x": 1})).status_code == 200
        first = await node.client.arm_idle_seconds(arm.id)
        assert first is not None

        async def later() -> bool:
            return (await node.client.arm_idle_seconds(arm.id) or 0.0) > first

        await eventually(later)
        with pytest.raises(NotFound, match="no arm 'other/1'"):
            await node.client.arm_idle_seconds("other/1")


async def test_without_any_request_it_is_idle_since_the_node_watches_and_never_when_one_may_be_missed(
    own_node: RunningNode,
) -> None:
    async with vendor() as there:
        put_at = time.monotonic()
        url = await put(own_node, "quiet", stable=(there.arm("quiet"), 100.0))
        await own_node.deploy("here", "toy_models:echo")

        async def idle(client: NodeClient) -> tuple[float | None, float | None]:
            return await client.arm_idle_seconds("quiet"), await client.idle_seconds("here")

        async def for_a_while() -> bool:
            return all(seconds is not None and seconds > 0.5 for seconds in await idle(own_node.client))

        await eventually(for_a_while)
        assert max(await idle(own_node.client)) <= time.monotonic() - put_at

        killed_at = time.monotonic()  # what comes while no node lives may be lost with the log
        os.kill(own_node.info.pid, signal.SIGKILL)
        await no_process(own_node.info.pid)
        info = await ensure_node(own_node.home)
        async with NodeClient(info.control_url, own_node.home.token()) as client:
            arm, deployment = await idle(client)
            assert arm is not None
            assert deployment is not None
            assert max(arm, deployment) <= time.monotonic() - killed_at

            log = own_node.home.gateway / ACCESS_LOG
            log.unlink()
            assert await idle(client) == (None, None)
            assert (await own_node.http.post(url, json={})).is_success
            log.touch()  # the proxy still writes to the one that is gone
            arm, deployment = await idle(client)
            assert arm is None
            assert deployment is not None


async def test_the_credentials_of_an_arm_are_forgotten_with_its_last_use(own_node: RunningNode) -> None:
    node = own_node
    async with vendor() as there:
        await put(node, "short", stable=(there.arm("d1"), 100.0))
        await put(node, "short", stable=(there.arm("d2", headers={"X-Api-Key": SecretStr("planted-other")}), 100.0))
        assert [arm["id"] for arm in await node.client.list_arms()] == ["d2"]
        await node.client.delete_endpoint("short")
        assert await node.client.list_arms() == []
        await eventually(lambda: not list(files_with("planted-other", node.home.directory / "gateway")))


def files_with(text: str, directory: Path) -> Iterator[Path]:
    """The files that hold a text, in clear or as the proxy's map has it."""
    import base64

    needles = [text.encode(), *(base64.b64encode(b"x" * shift + text.encode())[4:-4] for shift in range(3))]
    for path in directory.rglob("*"):
        if path.is_file() and any(needle in path.read_bytes() for needle in needles):
            yield path


async def test_no_secret_leaves_the_node(own_node: RunningNode) -> None:
    node = own_node
    async with vendor() as there:
        arms = [there.arm("keyed"), there.arm("granted", grant=there.grant())]
        await put(node, "secret", stable=(arms[0], 50.0), canary=(arms[1], 50.0))
        url = f"{await node.client.url('secret')}/predict"
        for _ in range(20):
            assert (await node.http.post(url, json={})).is_success
        said = [repr(arms), str(arms), *(arm.model_dump_json() for arm in arms)]
        said += [json.dumps(await node.client.list_arms()), json.dumps(await node.client.status())]
        said += [answer.text for answer in await _bad_requests(node, arms)]
        assert not [text for text in said if "planted" in text]
        holders = set(files_with("planted", node.home.directory))
        private = {"node.sqlite", "node.sqlite-wal", "secrets.map"}
        assert {path.name for path in holders} <= private, holders
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holders)


async def _bad_requests(node: RunningNode, arms: list[RemoteArm]) -> list[httpx.Response]:
    """Bodies with secrets in them that cannot work: the answer must not say them back."""
    good = arms[1].revealed()
    bad = [
        {**good, "url": "no url"},
        {**good, "headers": {"Authorization": "planted\nline"}},
        {**good, "grant": {"client_secret": SECRET}},
        {**good, "grant": {**good["grant"], "client_secret": {"planted": 1}}},
        {**good, "unknown": KEY},
    ]
    headers = {"Authorization": f"Bearer {node.home.token().get_secret_value()}"}
    answers = [
        await node.http.put(f"{node.info.control_url}/v1/arms/granted", json=body, headers=headers) for body in bad
    ]
    assert {answer.status_code for answer in answers} == {400}
    return answers


async def test_tokens_are_renewed_in_time_without_a_reload_and_without_a_lost_request(node: RunningNode) -> None:
    async with vendor(life=1.5) as there:
        url = await put(node, "renewed", stable=(there.arm("short-lived", grant=there.grant()), 100.0))
        reloads = _generations(node)
        async with load(url, rate=100, body=b"{}") as answers:
            await eventually(lambda: len(there.tokens) >= 4)
        assert answers.count > 50
        assert not answers.failures
        assert _generations(node) == reloads
        [shown] = [arm for arm in await node.client.list_arms() if arm["id"] == "short-lived"]
        assert shown["token"]["renewals"] >= 3


def _generations(node: RunningNode) -> str:
    config = (node.home.gateway / "haproxy.cfg").read_text()
    return next(line for line in config.splitlines() if "GENERATION" in line)


async def test_a_refused_token_is_an_alarm_and_renewed_and_never_evidence(node: RunningNode) -> None:
    async with vendor() as there:
        url = await put(node, "revoked", stable=(there.arm("revocable", grant=there.grant()), 100.0))
        cursor = await node.client.cursor("revoked")
        await asyncio.sleep(2.1)  # a refusal that comes just after a renewal does not renew again
        there.tokens.clear()
        assert (await node.http.post(url, json={})).status_code == 401
        await eventually(lambda: _alarmed(node, "revocable"))
        await eventually(lambda: _answers(node, url))
        windows, _ = await node.client.windows("revoked", after=cursor)
        counts = [window.arms["stable"] for window in windows]
        assert sum(arm.excluded["unauthorized"] for arm in counts) >= 1
        assert sum(arm.failures for arm in counts) == 0
        assert "ALARM: revocable" in node.home.node_log.read_text()


async def _alarmed(node: RunningNode, arm: str) -> bool:
    await node.client.cursor("revoked")  # reading makes the node count
    return any(one["unauthorized"] for one in (await node.client.status())["arms"] if one["id"] == arm)


async def _answers(node: RunningNode, url: str) -> bool:
    return (await node.http.post(url, json={})).is_success


async def test_an_arm_whose_token_is_refused_is_not_taken(node: RunningNode) -> None:
    async with vendor() as there:
        there.refuse_clients = True
        with pytest.raises(InvalidInput, match=r"grant.client_id='app'.*invalid_client"):
            await node.client.put_arm(there.arm("unknown-app", grant=there.grant()))
        assert "unknown-app" not in [arm["id"] for arm in await node.client.list_arms()]
    once = RetryPolicy(attempts=1)
    async with NodeClient(node.info.control_url, node.home.token(), policy=once) as impatient:
        with pytest.raises(ProviderUnavailable, match="gone cannot be reached"):
            await impatient.put_arm(there.arm("gone"))


async def test_bodies_are_wrapped_for_vendors_that_want_it(node: RunningNode) -> None:
    foundry = Envelope(field="input", answer=("output",))
    fiddler = Envelope(field="data", constants={"model_id": "m"}, answer=("data", "predictions"), rows=True)
    async with vendor() as there:
        wrapping = there.arm("ri.live/1", adapter=foundry, url=f"http://127.0.0.1:{there.port}/t?preview=true")
        url = await put(node, "wrapped", stable=(wrapping, 100.0))
        assert (await node.http.post(url, json={"x": 1})).json() == {"echo": {"x": 1}}
        assert (there.seen[-1]["body"], there.seen[-1]["query"]) == ({"input": {"x": 1}}, "preview=true")
        assert (await node.http.post(url, content=_in_pieces(b'{"x": ', b"2}"))).json() == {"echo": {"x": 2}}
        assert (await node.http.post(url, content=b"no json")).status_code == 400

        url = await put(node, "wrapped", stable=(there.arm("rows", adapter=fiddler), 100.0))
        assert (await node.http.post(url, json={"x": 1})).json() == {"echo": {"x": 1}}
        assert there.seen[-1]["body"] == {"model_id": "m", "data": [{"x": 1}]}
        assert (await node.http.post(url, json=[{"x": 1}, {"x": 2}])).json() == [{"echo": {"x": 1}}, {"echo": {"x": 2}}]

        lost = Envelope(field="input", answer=("nowhere",))
        url = await put(node, "wrapped", stable=(there.arm("lost", adapter=lost), 100.0))
        answer = await node.http.post(url, json={"x": 1})
        assert (answer.status_code, answer.json()) == (502, {"error": "the deployment's answer has no nowhere"})
        refused = there.arm("refused", adapter=foundry, headers={"Authorization": SecretStr("wrong")})
        url = await put(node, "wrapped", stable=(refused, 100.0))
        assert (await node.http.post(url, json={"x": 1})).status_code == 401


async def _in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_certificate_of_a_private_authority_is_verified_before_traffic_depends_on_it(
    node: RunningNode, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    right, wrong = make_certificate(tmp_path, "DNS:localhost"), make_certificate(tmp_path / "other", "DNS:localhost")
    async with vendor(ssl_certfile=str(right), host="localhost") as there:
        address = f"https://localhost:{there.port}/score"
        with pytest.raises(InvalidInput, match=r"ca_file=None: localhost:\d+ is not to be trusted.*self-signed"):
            await node.client.put_arm(there.arm("private", url=address))
        with pytest.raises(InvalidInput, match=r"ca_file=.*is not to be trusted by the authorities in"):
            await node.client.put_arm(there.arm("private", url=address, ca_file=str(wrong)))
        with pytest.raises(InvalidInput, match="cannot be read as PEM"):
            await node.client.put_arm(there.arm("private", url=address, ca_file="/nowhere.pem"))
        url = await put(node, "private", stable=(there.arm("private", url=address, ca_file=str(right)), 100.0))
        assert (await node.http.post(url, json=[1])).json() == {"echo": [1]}


async def test_a_killed_node_loses_no_arm(own_node: RunningNode) -> None:
    node = own_node
    async with vendor(life=2.0) as there:
        arms = {"stable": (there.arm("d1"), 50.0), "canary": (there.arm("d2", grant=there.grant()), 50.0)}
        url = await put(node, "kept", **arms)
        os.kill(node.info.pid, signal.SIGKILL)
        await no_process(node.info.pid)
        assert (await node.http.post(url, json={}, headers={"X-Modeldeploy-Arm": "stable"})).is_success
        info = await ensure_node(node.home)
        async with NodeClient(info.control_url, node.home.token()) as client:
            assert [arm["id"] for arm in await client.list_arms()] == ["d1", "d2"]
            tokens = len(there.tokens)
            async with load(url, rate=50, body=b"{}") as answers:
                await eventually(lambda: len(there.tokens) > tokens + 1)
            assert {"stable", "canary"} <= set(answers.by_arm)
            assert not answers.failures
