"""What a person sees and does in Prefect's UI, in a real browser. Look at the screenshots too."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import pytest_asyncio
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.filters import EventFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound

from prefect_modeldeploy import BasetenCredentials, DeploymentTarget, LocalServing, promote_to_production
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.target import client_of
from tests.conftest import eventually
from tests.flows.conftest import MODELS, Site
from tests.test_package import BLOCKS
from tests.ui.pages import Pages

if TYPE_CHECKING:
    from playwright.async_api import Locator

SECRET = "planted-5ecret-value"

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300)]


@pytest_asyncio.fixture
async def canary(served: str) -> DeploymentResponse:
    """The served deployment, once the server knows it."""

    async def found() -> DeploymentResponse | None:
        async with get_client() as client:
            try:
                return await client.read_deployment_by_name(served)
            except ObjectNotFound:
                return None

    return await eventually(found)  # type: ignore[return-value]


async def runs_of(deployment: DeploymentResponse) -> list[FlowRun]:
    only = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=only)


async def paused_run_of(deployment: DeploymentResponse) -> FlowRun | None:
    return next((run for run in await runs_of(deployment) if run.state and run.state.is_paused()), None)


async def test_blocks_are_made_in_the_browser(pages: Pages, home: Path) -> None:
    await pages.open("blocks/catalog/local-serving/create")
    await pages.page.get_by_label("Name", exact=True).fill("by-hand")
    await pages.choose("Home", "Directory")
    await pages.fill("Home", str(home))
    await pages.picture("block-local-serving")
    await pages.page.get_by_role("button", name="Save").click()
    await pages.page.get_by_text("Paste this snippet").wait_for()

    await pages.open("blocks/catalog/deployment-target/create")
    await pages.page.get_by_label("Name", exact=True).fill("by-hand")
    for provider in reversed(get_args(Credentials)):  # nothing lies over any of them
        await pages.choose("Credentials", provider.__name__)
    await pages.pick_block("Credentials", "by-hand")
    await pages.fill("Model", "iris")
    await pages.fill("Endpoint", "iris")
    await pages.fill("Sample", [1.0])
    await pages.picture("block-deployment-target")
    await pages.page.get_by_role("button", name="Save").click()
    await pages.page.get_by_text("Paste this snippet").wait_for()

    target = await DeploymentTarget.aload("by-hand")
    assert isinstance(target.credentials, LocalServing)
    assert (target.credentials.home, target.model, target.endpoint) == (home, "iris", "iris")
    assert (target.environment, target.sample, target.gateway) == ("production", [1.0], None)
    async with client_of(target) as client:
        assert await client.find(model="iris") == []


async def test_the_form_of_every_block_says_of_every_field_what_it_means(pages: Pages) -> None:
    await pages.open("blocks/catalog")
    for block in BLOCKS:
        slug, form = block.get_block_type_slug(), block.model_json_schema()
        await pages.page.locator(f"main a[href$='/blocks/catalog/{slug}/create']").first.click()
        await all_described(pages, form, form.get("$defs", {}))
        await pages.page.get_by_text(block.get_description(), exact=True).first.wait_for()
        assert await pages.page.get_by_text("Field", exact=True).count() == 0, slug
        await pages.picture(f"new-{slug}")
        await pages.page.go_back()


async def test_a_secret_is_typed_in_the_browser_not_shown_again_and_kept_when_the_block_is_changed(
    pages: Pages,
) -> None:
    await pages.open("blocks/catalog/baseten-credentials/create")
    await pages.page.get_by_label("Name", exact=True).fill("baseten-by-hand")
    await pages.fill("Api Key", SECRET)
    await pages.fill("Predict Timeout Seconds", 45)
    assert await pages.field("Api Key").locator("input").get_attribute("type") == "password"
    await pages.page.get_by_role("button", name="Save").click()
    await pages.page.get_by_text("Paste this snippet").wait_for()

    block = await BasetenCredentials.aload("baseten-by-hand")
    assert (block.api_key.get_secret_value(), block.predict_timeout_seconds) == (SECRET, 45.0)
    await pages.open(f"blocks/block/{block._block_document_id}")
    await pages.page.get_by_text("*" * 8, exact=True).wait_for()
    await pages.picture("block-baseten-credentials")
    assert SECRET not in await pages.page.content()

    await pages.open(f"blocks/block/{block._block_document_id}/edit")
    await pages.fill("Predict Timeout Seconds", 60)
    await pages.page.get_by_role("button", name="Save").click()
    await pages.page.get_by_text("Paste this snippet").wait_for()
    block = await BasetenCredentials.aload("baseten-by-hand")
    assert (block.api_key.get_secret_value(), block.predict_timeout_seconds) == (SECRET, 60.0), "kept, unseen"


async def test_the_canary_form_says_of_every_field_what_it_means(pages: Pages, canary: DeploymentResponse) -> None:
    await pages.open(f"deployments/deployment/{canary.id}/run")
    schema: dict[str, Any] = canary.parameter_openapi_schema or {}
    definitions = schema["definitions"]
    await pages.choose("candidate", "New deployment")
    await pages.choose("approval", "Approval")
    plan = pages.field("plan")
    await pages.choose("Shadow", "Copies", plan)
    for title in ("Autoscaling", "Resources"):
        await pages.choose(title, title, pages.field("candidate"))
    await pages.field("Gates", plan).get_by_role("button", name="Add item").click()

    forms = {
        None: schema,
        "candidate": definitions["DeploymentSpec"],
        "plan": definitions["CanaryPlan"],
        "Autoscaling": definitions["Autoscaling"],
        "Resources": definitions["Resources"],
        "Shadow": definitions["ShadowPlan"],
        "Gates": definitions["WebhookGate"],
        "Judge": definitions["JudgePlan"],
        "approval": definitions["Approval"],
    }
    for title, form in forms.items():
        await all_described(pages, form, definitions, pages.field(title) if title else None)
    assert await pages.page.get_by_text("Field", exact=True).count() == 0
    await pages.picture("canary-form")


async def all_described(
    pages: Pages, form: dict[str, Any], definitions: dict[str, Any], within: "Locator | None" = None
) -> None:
    """Every field of a form is shown, by its title, and with its description."""
    for field in form["properties"].values():
        shown = pages.field(field["title"], within)
        described = field.get("description") or definitions[field["$ref"].rpartition("/")[2]]["description"]
        await shown.get_by_text(described, exact=True).first.wait_for()


async def test_wrong_input_is_refused_before_there_is_a_run(pages: Pages, canary: DeploymentResponse) -> None:
    await pages.open(f"deployments/deployment/{canary.id}/run")
    await pages.choose("target", "Name of a block")
    await pages.fill("target", "production")
    steps = pages.field("Steps", pages.field("plan"))
    await steps.get_by_role("spinbutton").first.fill("500")
    candidate = await pages.choose("candidate", "New deployment")
    await pages.fill("Name", "No Good", candidate)
    await pages.fill("Model", "digits", candidate)
    await pages.page.get_by_role("button", name="Submit").click()
    assert await steps.locator("input:invalid").count() == 1, "the browser itself knows the bounds of numbers"

    await steps.get_by_role("spinbutton").first.fill("5")
    await pages.page.get_by_role("button", name="Submit").click()
    refusal = pages.page.get_by_text("Validation failed for field 'candidate.name'")
    await refusal.wait_for()
    await pages.picture("canary-form-refused")
    assert await runs_of(canary) == []


async def test_a_rollout_is_started_approved_and_reported_in_the_browser(
    pages: Pages, canary: DeploymentResponse, new_site: Callable[[str], Site]
) -> None:
    site = new_site("digits")
    await site.target.save("production")
    await promote_to_production(site.target, site.spec("1", "good"))
    async with await site.load(200) as answers:
        await site.history(answers)
        await fill_in(pages, canary)
        await pages.page.get_by_role("button", name="Submit").click()
        run = await eventually(lambda: paused_run_of(canary), seconds=120)
        assert isinstance(run, FlowRun)

        await pages.open(f"runs/flow-run/{run.id}")
        await pages.page.get_by_text("Paused", exact=True).wait_for()
        await pages.picture("rollout-waits-for-a-person")
        await answer(pages, "promote", "looks good to me")
        await pages.page.get_by_text("Promoted", exact=True).wait_for()
        await pages.picture("rollout-ended")
    assert set(answers.failures) <= {"status 500"}, "these are the models' own: the proxy lost nothing"
    assert await site.arms() == {"stable": ("digits-2", 100.0)}

    assert await eventually(lambda: versions_of("local://digits")) == ["2", "1"]

    await pages.open("artifacts/key/rollout-local-digits")  # its history: a report of each rollout, newest first
    await pages.page.locator("main a[href*='artifacts/artifact/']").first.click()
    plots = pages.page.locator("main img[src^='data:image/svg']")
    await plots.first.wait_for()
    assert await plots.evaluate_all("plots => plots.every(plot => plot.complete && plot.naturalWidth > 100)")
    await pages.picture("report")


async def versions_of(asset: str) -> list[str]:
    """Versions that were materialised as this asset, newest first; empty until the last one is there."""
    made = EventFilter(resource=EventResourceFilter(id=[asset]))
    async with get_client() as client:
        found = [event.payload["version"] for event in (await client.read_events(made, limit=10)).events]
    return found if len(found) > 1 else []


async def answer(pages: Pages, decision: str, comment: str) -> None:
    """Answer what the run asks for, in the form of the UI."""
    await pages.page.locator("main").get_by_role("button", name="Open menu").first.click()
    await pages.page.get_by_role("menuitem", name="Resume").click()
    form = pages.page.get_by_role("dialog")
    await form.get_by_role("button", name="Select Decision").click()
    await pages.page.get_by_role("option", name=decision, exact=True).click()
    await pages.fill("Comment", comment, form)
    await pages.picture("approval")
    await form.get_by_role("button", name="Resume").click()


async def fill_in(pages: Pages, canary: DeploymentResponse) -> None:
    """A rollout by two short steps, and a person's approval."""
    await pages.open(f"deployments/deployment/{canary.id}/run")
    await pages.pick_block("target", "production")
    candidate = await pages.choose("candidate", "New deployment")
    await pages.fill("Name", "digits-2", candidate)
    await pages.fill("Model", "digits", candidate)
    await pages.fill("Version", "2", candidate)
    await pages.choose("Source", "str", candidate)
    await pages.fill("Source", "versions:as_good", candidate)
    await pages.fill("Options", {"python_path": [str(MODELS)]}, candidate)
    plan = pages.field("plan")
    for number, share in enumerate((20, 50, 80)):
        await pages.field("Steps", plan).get_by_role("spinbutton").nth(number).fill(str(share))
    for title, value in {"Step Seconds": 2, "Deadline Seconds": 90, "Warm Up Seconds": 0.2}.items():
        await pages.fill(title, value, plan)
    judge = pages.field("Judge", plan)
    await pages.fill("Margin", 0.05, judge)
    await pages.field("Latency", judge).get_by_role("switch").click()
    await pages.choose("approval", "Approval")
    await pages.fill("note", "from the browser")
    await pages.picture("canary-form-filled-in")
