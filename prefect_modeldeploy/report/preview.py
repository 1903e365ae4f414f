"""A dry run in words: the same rows for the artifact in the UI and for the terminal."""

from collections.abc import Sequence

from prefect_modeldeploy.report import words
from prefect_modeldeploy.report.contents import Section
from prefect_modeldeploy.report.markdown import sections_markdown
from prefect_modeldeploy.report.tables import Row
from prefect_modeldeploy.rollout.preview import RolloutPreview


def preview_markdown(preview: RolloutPreview) -> str:
    """The dry run as Markdown that both of Prefect's UIs show."""
    return sections_markdown(headline(preview), preview_sections(preview))


def headline(preview: RolloutPreview) -> str:
    """One sentence."""
    over = f" over {preview.stable}" if preview.stable else ""
    ends = "would begin" if preview.begins else "would be refused"
    return f"Dry run: the rollout of {preview.candidate}{over} at {preview.endpoint} {ends}"


def preview_sections(preview: RolloutPreview) -> list[Section]:
    """What there is to say."""
    sections = [Section("Now", rows=_now(preview), header=False)]
    if preview.refusals:
        refusals = [{"error": each.error, "why": each.message} for each in preview.refusals]
        sections.append(Section("Refused", rows=refusals))
    if preview.steps:
        sections.append(Section("Steps", rows=_steps(preview)))
    if preview.forecasts:
        text = "How long the judge would need at the traffic of now, by what the canary is like."
        sections.append(Section("Forecast", text=text, rows=_forecasts(preview)))
    if preview.changes:
        changes = [
            {"when": c.when, "what": c.what.replace("_", " "), "deployment": c.deployment} for c in preview.changes
        ]
        sections.append(Section("What it would do to deployments", rows=changes))
    return [*sections, Section("Assumed", notes=list(preview.assumptions))]


def _now(preview: RolloutPreview) -> list[Row]:
    traffic = preview.traffic
    measured = "none in the last half hour, so nobody can say how long a verdict would take"
    if traffic is not None:
        measured = f"{traffic.per_second:.3g} requests a second over the last {words.duration(traffic.seconds)}"
        measured += f", {100 * traffic.failure_rate:.3g} % of them failed"
        if traffic.p50 is not None and traffic.p99 is not None:
            measured += f", median {words.latency(traffic.p50)}, p99 {words.latency(traffic.p99)}"
    cost = "unknown"
    if preview.cost is not None:
        money = "price unknown" if preview.cost.money is None else f"{preview.cost.money:.2f} at the target's price"
        cost = f"{preview.cost.replica_hours:.3g} extra replica hours, if the canary is as good; {money}"
    rows = {
        "Provider": preview.provider,
        "Model": preview.model,
        "Traffic": measured,
        "Cost": cost,
        "Bake": words.duration(preview.bake_seconds) if preview.bake_seconds else "none",
        "Deadline": words.duration(preview.deadline_seconds),
        "Open rollout": preview.open_rollout or "none",
    }
    return [{"name": name, "value": value} for name, value in rows.items()]


def _steps(preview: RolloutPreview) -> list[Row]:
    return [
        {
            "step": str(number),
            "share": words.share(step.weight),
            "at least": words.duration(step.seconds),
            "canary requests": "unknown" if step.canary_requests is None else f"{step.canary_requests:,}",
        }
        for number, step in enumerate(preview.steps, 1)
    ]


def _forecasts(preview: RolloutPreview) -> Sequence[Row]:
    said = {"promoted": "promoted", "rolled_back": "rolled back", "undecided": "undecided at the deadline"}
    return [
        {
            "if the canary": each.canary,
            "it is": said[each.outcome],
            "after": words.duration(each.seconds),
            "at": words.share(each.weight),
            "canary requests": f"{each.canary_requests:,}",
        }
        for each in preview.forecasts
    ]
