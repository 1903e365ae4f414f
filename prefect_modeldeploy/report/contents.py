"""What a report says, section by section, before it is Markdown or HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from prefect_modeldeploy.report import tables, words
from prefect_modeldeploy.report.plots import Plot, plots
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point

NO_LINKS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: some sentences, a table, drawings. All text is plain: renderers escape it."""

    title: str
    text: str = ""
    rows: Sequence[tables.Row] = ()
    header: bool = True
    """Whether the columns need their names said; without, the rows are pairs of a name and a value."""
    notes: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()
    """Texts and addresses."""
    plots: Sequence[Plot] = ()


def contents(record: RolloutRecord, points: Sequence[Point], consoles: Mapping[str, str] = NO_LINKS) -> list[Section]:
    """The sections of a rollout's report, in order; the headline is not one of them."""
    evidence = tables.evidence_table(record)
    steps = tables.steps_table(record)
    notes = [f"{row['Step']}, {row['Verdict']}: {row.pop('Why')}" for row in steps]
    sections = [
        Section("Who, when, why", rows=tables.facts_table(record), header=False, links=_links(record, consoles)),
        Section("Steps", _steps_text(record), steps, notes=notes),
        Section("What happened", _measured_text(record, points), plots=plots(record, points)),
    ]
    if evidence:
        sections.append(Section("Evidence by metric", "Harm / safety at the end of each step.", evidence))
    if plan := tables.plan_table(record):
        sections.append(Section("Plan", "Decided before the start.", plan, header=False))
    return sections


def _links(record: RolloutRecord, consoles: Mapping[str, str]) -> list[tuple[str, str]]:
    provider = words.plain(record.provider).capitalize()
    return [(f"{words.plain(deployment)} at {provider}", url) for deployment, url in consoles.items()]


def _steps_text(record: RolloutRecord) -> str:
    if not record.steps:
        return "No step was judged."
    limits = words.thresholds(record)
    return (
        f"Evidence of harm from {limits['harm']:.4g} on rolls the canary back, at any time; after the last step, "
        f"evidence of safety from {limits['safe']:.4g} on promotes it. 1 says nothing; chance alone hardly ever gets "
        "to 20. With several metrics, harm is their weighted average and safety the weakest."
    )


def _measured_text(record: RolloutRecord, points: Sequence[Point]) -> str:
    if record.golden_set and not points:
        return "A golden set was sent to both versions, beside the clients' requests: there is no traffic to plot."
    if not points:
        return "Nothing was measured, so there is nothing to plot."
    lines = (
        "Thin lines mark the steps. Windows with few requests are drawn together; where a line stops there is no data."
    )
    if not any(p.canary.requests or p.stable.requests for p in points):
        return f"Nobody sent a request. {lines}"
    canary = words.failed(sum(p.canary.failures for p in points), sum(p.canary.requests for p in points))
    stable = words.failed(sum(p.stable.failures for p in points), sum(p.stable.requests for p in points))
    return f"Failed requests in all: canary {canary}, stable {stable}. {lines}"
