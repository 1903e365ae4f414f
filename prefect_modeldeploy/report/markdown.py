"""The rollout report as Markdown, for an artifact in the Prefect UI: tables, and plots as SVG data URIs."""

import base64
import re
from collections.abc import Sequence

from prefect_modeldeploy.report import words
from prefect_modeldeploy.report.contents import Section, contents
from prefect_modeldeploy.report.plots import Plot
from prefect_modeldeploy.report.tables import Row
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point


def report_markdown(record: RolloutRecord, points: Sequence[Point]) -> str:
    """The report of a rollout, finished or not, as Markdown that both of Prefect's UIs show.

    Args:
        record: The rollout.
        points: Its windows; may be empty.
    """
    parts = [f"# {_text(words.headline(record))}"]
    parts += [part for section in contents(record, points) for part in _section(section)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {_text(section.title)}"]
    if section.text:
        parts.append(_text(section.text))
    if section.rows:
        parts.append(_table(section.rows, section.header))
    return parts + [_image(plot) for plot in section.plots]


def _table(rows: Sequence[Row], header: bool) -> str:
    columns = list(rows[0])
    lines = [
        columns if header else [" "] * len(columns),
        ["---"] * len(columns),
        *([_text(row[column]) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _image(plot: Plot) -> str:
    encoded = base64.b64encode(plot.svg.encode()).decode()
    return f"![{_text(plot.description)}](data:image/svg+xml;base64,{encoded})"


def _text(text: str) -> str:
    """Text that is nothing but text: what Markdown or HTML could read as markup becomes a character reference."""
    return re.sub(r"[&<>\\`*_{}\[\]()#!|~$^]", lambda found: f"&#{ord(found[0])};", words.plain(text))
