"""Rollouts on hosted providers, through our gateway: real proxy, real node, emulated vendors."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from prefect_modeldeploy import (
    DeploymentSpec,
    DeploymentStatus,
    JudgePlan,
    canary_rollout,
    promote_to_production,
)
from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.target import client_of
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.arms_kit import Site
from tests.flows.conftest import QUICK as QUICK_WITH_OURS
from tests.flows.test_secrets import database as database
from tests.providers import baseten_kit, gradient_kit, scale_kit
from tests.readme import block_after, execute
from tests.sandbox.kit import running_sandbox
from tests.traffic.conftest import make_certificate
from tests.traffic.load import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("database")]

BODY, SAMPLE = b'{"x": 1}', {"x": 1}

JUDGE = JudgePlan(margin=0.05, latency=False, alpha=0.001)
"""The sandbox's models fail at random, other than ours: one test in twenty would meet too much bad luck."""

QUICK = QUICK_WITH_OURS.model_copy(update={"judge": JUDGE})


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Models fail now and then, as real ones do: where nothing ever fails, proof of safety takes long."""
    async with running_sandbox(*arms_kit.HOSTED) as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        await sandbox.control.behave(error_rate=0.04)
        yield site


async def test_a_canary_on_a_provider_that_splits_nothing_goes_through_our_gateway(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    await promote_to_production(target, await arms_kit.deployment(site, "baseten"))
    truss = baseten_kit.make_truss(tmp_path / "truss")
    async with load(await site.url(), rate=200, body=BODY) as answers:
        await eventually(lambda: answers.count > 300)
        record = await canary_rollout(target, baseten_kit.spec_of(truss), QUICK)
    assert record.outcome == "promoted", record.reason
    assert await site.arms() == {"stable": (record.canary, 100.0)}
    assert set(answers.failures) <= {"status 500"}, "the models' own"
    assert [arm["id"] for arm in await site.node.list_arms()] == [record.canary]


async def test_a_model_moves_from_one_provider_to_another_and_back(site: Site, tmp_path: Path) -> None:
    gradient, baseten = gradient_kit.block(site.sandbox), arms_kit.baseten(site.sandbox)
    first = await arms_kit.deployment(site, "gradient")
    await promote_to_production(site.target(gradient, "fraud"), first)
    for name, block in {"baseten": baseten, "gradient": gradient, "gateway": site.gateway}.items():
        await block.save(name, overwrite=True)
    recipe, way_back = block_after("**From one provider to another**").rsplit("\n", 2)[:2]
    recipe = recipe.replace('model="fraud"', 'model="sandbox-model"').replace('endpoint="fraud"', 'endpoint="prod"')
    async with load(await site.url(), rate=200, body=BODY) as answers:
        await eventually(lambda: answers.count > 300)
        candidate = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "truss"))
        names = await execute(recipe, candidate=candidate, plan=QUICK)
        moving, record = names["moving"], names["record"]
        assert record.outcome == "promoted", record.reason
        async with gradient.get_client() as client:  # it has no zero that wakes
            assert (await client.get(first)).status is DeploymentStatus.STOPPED
        assert (record.stable, record.canary.partition("/")[0]) == (first, _model(site))
        assert await site.arms() == {"stable": (record.canary, 100.0)}
        before = dict(answers.by_arm)
        await eventually(lambda: answers.by_arm["stable"] > before["stable"] + 50)
        back = (await execute(way_back, **names))["back"]
    assert (back.outcome, back.stable, back.canary) == ("promoted", record.canary, first)
    assert await site.arms() == {"stable": (first, 100.0)}
    assert set(answers.failures) <= {"status 500"}, "the models' own"
    async with client_of(moving, first) as client:
        assert (client.provider, (await client.get(first)).ready) == ("gradient", True)


def _model(site: Site) -> str:
    return str(site.sandbox["baseten"]["seed"]["model_id"])


async def test_a_canary_that_is_worse_than_the_other_provider_is_rolled_back_where_it_was_made(
    site: Site, tmp_path: Path
) -> None:
    gradient, baseten = gradient_kit.block(site.sandbox), arms_kit.baseten(site.sandbox)
    first = await arms_kit.deployment(site, "gradient")
    await promote_to_production(site.target(gradient, "fraud"), first)
    await site.sandbox.control.behave(provider="baseten", error_rate=0.5)
    moving = site.target(baseten, "sandbox-model", other_credentials=gradient)
    async with load(await site.url(), rate=200, body=BODY) as answers:
        await eventually(lambda: answers.count > 300)
        truss = baseten_kit.make_truss(tmp_path / "truss")
        record = await canary_rollout(moving, baseten_kit.spec_of(truss), QUICK)
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures")
    assert await site.arms() == {"stable": (first, 100.0)}
    async with baseten.get_client() as client:
        assert record.canary not in {d.id for d in await client.find()}


async def test_a_token_that_ends_twice_during_a_rollout_loses_no_request_and_no_secret_is_told(
    site: Site, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Foundry's lives for an hour; here for four of our seconds."""
    await site.sandbox.control.set_speed(900)
    gradient, foundry = gradient_kit.block(site.sandbox), arms_kit.foundry(site.sandbox)
    first, second = await arms_kit.deployment(site, "gradient"), await arms_kit.deployment(site, "foundry")
    await promote_to_production(site.target(gradient, "fraud"), first)
    moving = site.target(foundry, str(site.sandbox["foundry"]["seed"]["model_rid"]), other_credentials=gradient)
    judge = JUDGE.model_copy(update={"beta": 0.45})
    plan = QUICK.model_copy(update={"former": "keep", "step_seconds": 6.0, "judge": judge})
    async with load(await site.url(), rate=100, body=BODY) as answers:
        await eventually(lambda: answers.count > 300)
        running = await canary_rollout(moving, second, plan)
        assert running.outcome == "promoted", running.reason
    [arm] = await site.node.list_arms()
    assert (arm["id"], arm["unauthorized"]) == (second, 0)
    assert arm["token"]["renewals"] >= 2
    assert set(answers.failures) <= {"status 500"}, "the models' own; Foundry's InferenceFailure is one of them"
    await _nothing_tells_a_secret(site, database, running, caplog.text)


async def _nothing_tells_a_secret(site: Site, database: Path, record: RolloutRecord, logs: str) -> None:
    ready, tokens = site.sandbox.ready, (await site.sandbox.control.table("foundry", "tokens")).keys()
    planted = [ready["gradient"]["api_key"], ready["foundry"]["client_secret"], *tokens]
    planted.append(site.gateway.token.get_secret_value())
    assert len(planted) > 4
    kept = [path for path in database.rglob("*") if path.is_file()]
    kept += [Path(record.report or ""), site.home / "node.log", *(site.home / "gateway").glob("*.log")]
    assert len(kept) >= 5
    told = [*(path.read_bytes() for path in kept), logs.encode(), repr(record).encode(), record.saved().encode()]
    told += [repr(site.gateway).encode(), json.dumps(await site.node.status()).encode()]
    assert not [(secret, i) for secret in planted for i, text in enumerate(told) if secret.encode() in text]


async def test_a_provider_that_does_not_fit_the_gateway_is_refused_before_anything_changes(site: Site) -> None:
    scale = scale_kit.credentials_of(site.sandbox)
    first = await arms_kit.deployment(site, "baseten")
    await promote_to_production(site.target(arms_kit.baseten(site.sandbox), "sandbox-model"), first)
    v5 = scale.model_copy(update={"api": "v5"})
    async with v5.get_client() as client:
        before = await client.find()
    moving = site.target(v5, "fraud", other_credentials=arms_kit.baseten(site.sandbox))
    with pytest.raises(UnsupportedOperation, match="use api='v4'"):
        await canary_rollout(moving, DeploymentSpec(name="fraud-1", model="fraud"), QUICK)
    async with v5.get_client() as client:
        assert await client.find() == before
    assert await site.arms() == {"stable": (first, 100.0)}


async def test_a_canary_that_answers_in_another_shape_gets_no_traffic(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model", sample=SAMPLE)
    first = await arms_kit.deployment(site, "baseten")
    await site.sandbox.control.behave(match="v2", callable="tests.providers.scale_kit:second_version")
    await site.sandbox.control.behave(match=first.partition("/")[2])
    await promote_to_production(target, first)
    async with load(await site.url(), rate=50, body=BODY) as answers:
        record = await canary_rollout(target, baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "truss")), QUICK)
    assert record.outcome == "rolled_back"
    assert "answer.echo is only there" in record.reason
    assert set(answers.by_arm) == {"stable"}
    assert await site.arms() == {"stable": (first, 100.0)}


async def test_a_rollout_may_end_in_the_providers_own_promotion_which_may_be_a_copy(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model", sample=SAMPLE)
    first = await arms_kit.deployment(site, "baseten")
    await promote_to_production(target, first)
    plan = QUICK.model_copy(update={"promote": "native", "smoke_request": SAMPLE})
    truss = baseten_kit.make_truss(tmp_path / "truss")
    async with load(await site.url(), rate=200, body=BODY) as answers:
        await eventually(lambda: answers.count > 300)
        record = await canary_rollout(target, baseten_kit.spec_of(truss), plan)
        assert record.outcome == "promoted", record.reason
        seen = answers.count
        await eventually(lambda: answers.count > seen + 50)
    assert record.serving not in (None, first)
    assert await site.arms() == {"stable": (record.serving, 100.0)}
    async with client_of(target) as client:
        assert (await client.get(str(record.serving))).environment == "production"
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_everything_may_go_over_tls_that_a_private_authority_vouches_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_certificate(tmp_path, "DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))  # for our client of the vendor; the node has `arms_ca_file`
    plain = arms_kit.baseten(site.sandbox)
    async with tls_in_front_of(plain.base_url, authority) as port:
        urls = {
            name: urlsplit(getattr(plain, name))._replace(scheme="https", netloc=f"localhost:{port}").geturl()
            for name in ("base_url", "inference_url")
        }
        gateway = site.gateway.model_copy(update={"arms_ca_file": str(authority)})
        target = site.target(plain.model_copy(update=urls), "sandbox-model", gateway=gateway)
        first = await arms_kit.deployment(site, "baseten")
        refused = await promote_to_production(target.model_copy(update={"gateway": site.gateway}), first)
        assert (refused.outcome, "is not to be trusted" in refused.reason) == ("rolled_back", True)
        await promote_to_production(target, first)
        async with load(await site.url(), rate=100, body=BODY) as answers:
            await eventually(lambda: answers.count > 300)
            truss = baseten_kit.make_truss(tmp_path / "truss")
            record = await canary_rollout(target, baseten_kit.spec_of(truss), QUICK)
    assert record.outcome == "promoted", record.reason
    assert set(answers.failures) <= {"status 500"}, "the models' own"
    assert {arm["url"].partition(":")[0] for arm in await site.node.list_arms()} == {"https"}


@asynccontextmanager
async def tls_in_front_of(url: str, certificate: Path) -> AsyncIterator[int]:
    """Take TLS off, and pass on what is in it; yields the port."""
    there = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(copy(reader, upstream[1]), copy(upstream[0], writer))

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context, family=socket.AF_INET)
    yield server.sockets[0].getsockname()[1]
    server.close()
