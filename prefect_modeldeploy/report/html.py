"""The rollout report as one HTML file: nothing from outside, no script, light and dark, fit to print."""

import hashlib
import html
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.report import canvas, words
from prefect_modeldeploy.report.contents import NO_LINKS, Section, contents
from prefect_modeldeploy.report.plots import Plot
from prefect_modeldeploy.report.tables import Row
from prefect_modeldeploy.rollout.record import RolloutRecord
from prefect_modeldeploy.rollout.timeline import Point

_THEMED = {
    canvas.PAPER: "paper",
    canvas.INK: "ink",
    canvas.MUTED: "muted",
    canvas.GRID: "grid",
    canvas.CANARY: "canary",
    canvas.STABLE: "stable",
}
"""Colours of the plots that follow the page's theme."""

_LIGHT = "; ".join(f"--{name}: {colour}" for colour, name in _THEMED.items())
_DARK = "--paper: #14171c; --ink: #e6e9ee; --muted: #9aa4b1; --grid: #2c323b; --canary: #ff8c42; --stable: #58a9f0"

_CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT}; --good: #1a7f4b; --bad: #c0392b; --open: #9a6700 }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {_DARK}; --good: #4cc38a; --bad: #ff7b6b; --open: #e3b341 }}
}}
body {{ background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 }}
main {{ max-width: 64rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem }}
h1 {{ font-size: 1.45rem; line-height: 1.35; margin: 0; padding: .2rem 0 .2rem .9rem }}
h1 {{ border-left: .35rem solid var(--open) }}
h1.promoted {{ border-color: var(--good) }}
h1.rolled_back {{ border-color: var(--bad) }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem }}
p {{ max-width: 46rem; margin: .5rem 0; color: var(--muted) }}
h1 {{ overflow-wrap: anywhere }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--grid) }}
thead th {{ color: var(--muted); font-weight: 600; overflow-wrap: normal }}
tbody th {{ font-weight: 600; white-space: nowrap }}
td {{ white-space: nowrap }}
tbody:first-child td {{ white-space: normal; overflow-wrap: anywhere; width: 100% }}
ul {{ padding-left: 1.1rem; font-size: .88rem }}
figure {{ margin: .6rem 0; break-inside: avoid }}
figure svg {{ display: block; width: 100%; max-width: 46rem; height: auto }}
@media print {{
  main {{ max-width: none; padding: 0 }}
  h2 {{ break-after: avoid }}
  tr {{ break-inside: avoid }}
  .wide {{ overflow: visible }}
  td {{ white-space: normal }}
}}
"""


def report_html(record: RolloutRecord, points: Sequence[Point], consoles: Mapping[str, str] = NO_LINKS) -> str:
    """The report of a rollout, finished or not, as one self-contained HTML page.

    Args:
        record: The rollout.
        points: Its windows; may be empty.
        consoles: Where a person looks at its deployments, by id.
    """
    title = _text(words.headline(record))
    body = "\n".join(_section(section) for section in contents(record, points, consoles))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1 class="{record.outcome or "open"}">{title}</h1>
{body}
</main>
</body>
</html>
"""


def write_report(
    record: RolloutRecord,
    points: Sequence[Point],
    directory: Path,
    consoles: Mapping[str, str] = NO_LINKS,
) -> Path:
    """Write the HTML report into a directory, which is made if it is missing.

    A former report of the same rollout is replaced: readers see the old page or the new one, never a part.

    Returns:
        The file: `rollout-<id>.html`.

    Raises:
        InvalidInput: The rollout's id is empty.
        OSError: The directory cannot be made or written.
    """
    path = directory / f"rollout-{_file_name(record.id)}.html"
    page = report_html(record, points, consoles)
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f".{path.name}.{secrets.token_hex(4)}"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _file_name(rollout: str) -> str:
    """The id as part of a file name. Ids that had to be changed get a hash, so that no two share a file."""
    if not rollout:
        raise InvalidInput("record.id", rollout, "the report's file is named after it, so it must not be empty")
    name = re.sub(r"[^A-Za-z0-9_-]", "-", rollout)[:80]
    return name if name == rollout else f"{name}-{hashlib.sha256(rollout.encode()).hexdigest()[:8]}"


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{_text(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{_text(section.text)}</p>")
    if section.rows:
        parts.append(_table(section.rows, section.header))
    if section.notes:
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in section.notes)}</ul>")
    if section.links:
        links = (f'<li><a href="{_text(url)}">{_text(text)}</a></li>' for text, url in section.links)
        parts.append(f"<ul>{''.join(links)}</ul>")
    parts += [_figure(plot) for plot in section.plots]
    return "\n".join([*parts, "</section>"])


def _table(rows: Sequence[Row], header: bool) -> str:
    columns = list(rows[0])
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    lines = [
        f'<tr><th scope="row">{_text(row[columns[0]])}</th>'
        + "".join(f"<td>{_text(row[column])}</td>" for column in columns[1:])
        + "</tr>"
        for row in rows
    ]
    thead = f"<thead><tr>{head}</tr></thead>\n" if header else ""
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n{thead}<tbody>\n{body}\n</tbody>\n</table></div>'


def _figure(plot: Plot) -> str:
    drawing = plot.svg
    for colour, name in _THEMED.items():
        drawing = drawing.replace(colour, f"var(--{name})")
    label = _text(plot.description)
    return "<figure>" + drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1) + "</figure>"


def _text(text: str) -> str:
    """Text that is nothing but text."""
    return html.escape(words.glued(text))
