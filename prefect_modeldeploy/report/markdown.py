"""The rollout report as Markdown, for an artifact in the Prefect UI: tables, and plots as SVG data URIs."""

import base64
import re
from collections.abc import Mapping, Sequence

from prefect_modeldeploy.report import words
from prefect_modeldeploy.report.contents import NO_LINKS, Section, contents
from prefect_modeldeploy.report.plots import Plot
from prefect_modeldeploy.report.tables import Row
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point


def report_markdown(record: RolloutRecord, points: Sequence[Point], consoles: Mapping[str, str] = NO_LINKS) -> str:
    """The report of a rollout, finished or not, as Markdown that both of Prefect's UIs show.

    Args:
        record: The rollout.
        points: Its windows; may be empty.
        consoles: Where a person looks at its deployments, by id.
    """
    return sections_markdown(words.headline(record), contents(record, points, consoles))


def sections_markdown(headline: str, sections: Sequence[Section]) -> str:
    """Any page of a headline and sections, likewise."""
    parts = [f"# {_text(headline)}"]
    parts += [part for section in sections for part in _section(section)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {_text(section.title)}"]
    if section.text:
        parts.append(_text(section.text))
    if section.rows:
        parts.append(_table(section.rows) if section.header else _pairs(section.rows))
    if section.notes:
        parts.append("\n".join(f"- {_text(note)}" for note in section.notes))
    if section.links:
        parts.append("\n".join(f"- [{_text(text)}]({url})" for text, url in section.links))
    return parts + [_image(plot) for plot in section.plots]


def _pairs(rows: Sequence[Row]) -> str:
    """A list: a table would need a header, and does not wrap a long note in Prefect's first UI."""
    return "\n".join(f"- **{_text(name)}:** {_text(value)}" for name, value in (row.values() for row in rows))


def _table(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    cells = ([_text(words.glued(row[column])) for column in columns] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells))


def _image(plot: Plot) -> str:
    encoded = base64.b64encode(plot.svg.encode()).decode()
    return f"![{_text(plot.description)}](data:image/svg+xml;base64,{encoded})"


def _text(text: str) -> str:
    """One line of text that is nothing but text: what could be read as markup gets a backslash.

    Not character references: Prefect's first UI shows those as they are.
    """
    return re.sub(r"[&<>\\`*_{}\[\]#!|~$^]", r"\\\g<0>", text.replace("\n", " "))
