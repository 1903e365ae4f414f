"""The HTML file: the whole story on one page that needs nothing else."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.report import report_html, write_report
from prefect_modeldeploy.rollout.record import Actor, Phase

from .reading import Page, spaced
from .simulated_rollouts import ALL, NAMES, promoted, record, rolled_back, silent, without_steps

EVIL = "</td></table><script>alert(1)</script><img src=x onerror=alert(1)>\" ' & &lt; `x` <!-- \u202e \x00 \n# head"


@cache
def page_of(name: str) -> str:
    return report_html(*ALL[name]())


@pytest.mark.parametrize("name", NAMES)
def test_every_rollout_gives_a_page_that_needs_nothing_else(name: str) -> None:
    source = page_of(name)
    page = Page(source)
    assert page.tags.count("h1") == 1
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [
        (tag, key) for tag, key, _ in page.attributes if key.startswith("on") or key in ("src", "srcset", "action")
    ]
    links = {value for _, key, value in page.attributes if key in ("href", "xlink:href")}
    assert all(link.startswith("#") for link in links)
    assert not re.findall(r"url\((?!#)|@import", source)
    assert page.tags.count("svg") == (0 if name == "without_steps" else 4)


@pytest.mark.parametrize("name", NAMES)
def test_references_inside_the_page_have_exactly_one_target(name: str) -> None:
    page = Page(page_of(name))
    ids = [value for _, key, value in page.attributes if key == "id"]
    used = {value[1:] for _, key, value in page.attributes if key == "xlink:href"}
    used |= {found for _, _, value in page.attributes for found in re.findall(r"url\(#([^)]+)\)", value)}
    assert len(ids) == len(set(ids))
    assert used <= set(ids)


def test_the_page_says_who_when_why_what_and_how_it_ended() -> None:
    text = Page(report_html(*rolled_back())).text
    for expected in (
        "Version 3 was rolled back after 20 s: failures: 8.1 % of the canary's requests",
        "version 3 (digits-3)",
        "version 1 (digits-1)",
        "ci (by their own account)",
        "faster features",
        "2026-03-29 08:30:00 UTC",
        "1 of 3 at 5 %",
        "roll back (failures)",
        "15 of 155 (9.7 %)",
        "digits-20260329-083000-a1b2c3",
        "5 %, 25 %, 50 %",
    ):
        assert expected in text


def test_every_step_shows_its_numbers_and_verdict() -> None:
    rollout, points = promoted()
    cells = [spaced(cell) for cell in Page(report_html(rollout, points)).cells]
    for step in rollout.steps:
        assert any(cell.startswith(f"{step.canary_failures:,} of {step.canary_requests:,} (") for cell in cells)
        assert any(cell.startswith(f"{step.stable_failures:,} of {step.stable_requests:,} (") for cell in cells)
    assert cells.count("go on") == 2
    assert "promote" in cells


def test_an_identity_that_prefect_vouches_for_is_shown_as_it_is() -> None:
    text = Page(report_html(*promoted())).text
    assert "mira@example.org" in text
    assert "by their own account" not in text


def test_no_requests_and_no_windows_are_said_not_hidden() -> None:
    assert "Nobody sent a request." in Page(report_html(*silent())).text
    text = Page(report_html(*without_steps())).text
    assert "Nothing was measured, so there is nothing to plot." in text
    assert "No step was judged." in text
    assert "nothing: no version served before" in text
    assert "no reason was given" in text


def test_text_of_others_is_shown_and_never_obeyed() -> None:
    rollout, points = rolled_back()
    harmless = Page(report_html(rollout, points))
    names = {EVIL: 3.0, "latency_p50": 1.0, "latency_p99": 0.5}
    step = rollout.steps[0].model_copy(update={"reason": EVIL, "decided_by": EVIL, "harm": names, "safe": names})
    changes = dict.fromkeys(("id", "model", "endpoint", "environment", "provider", "why", "reason", "decided_by"), EVIL)
    deployments = dict.fromkeys(("stable", "canary", "stable_version", "canary_version"), EVIL)
    evil = rollout.model_copy(update={**changes, **deployments, "who": Actor(name=EVIL), "steps": (step,)})
    metrics = [p.model_copy(update={"harm": names, "safe": names}) for p in points]
    page = Page(report_html(evil, metrics))
    assert [tag for tag in page.tags if tag not in ("path", "use", "tr", "td", "th")] == [
        tag for tag in harmless.tags if tag not in ("path", "use", "tr", "td", "th")
    ]
    assert page.text.count("<script>alert(1)</script>") > 10
    assert not {"\x00", "\u202e"} & set(report_html(evil, metrics))


def test_deployments_link_to_the_provider_s_console() -> None:
    page = report_html(*promoted(), {"m/<one>": "https://console.example/m?a=1&b=2"})
    assert '<a href="https://console.example/m?a=1&amp;b=2">m/&lt;one&gt; at ' in page
    assert "<a " not in report_html(*promoted())


def test_themes_recolour_page_and_plots_together() -> None:
    source = report_html(*rolled_back())
    assert "@media screen and (prefers-color-scheme: dark)" in source
    drawings = "".join(re.findall(r"<svg .*?</svg>", source, flags=re.DOTALL))
    assert "var(--paper)" in drawings
    assert "#ffffff" not in drawings
    assert not set(re.findall(r"var\(--(\w+)\)", source)) - set(re.findall(r"--(\w+):", source))


def test_plots_are_described_for_those_who_do_not_see_them() -> None:
    labels = [value for tag, key, value in Page(report_html(*rolled_back())).attributes if key == "aria-label"]
    assert len(labels) == 4
    assert any("canary 15 of 155 (9.7 %)" in spaced(label) for label in labels)


@pytest.mark.parametrize(
    ("phase", "step", "said"),
    [
        (Phase.PLANNED, 0, "Version 2 is being prepared"),
        (Phase.SHIFTED, 1, "Version 2 is being rolled out, at 25 % now"),
        (Phase.FULL, 2, "Version 2 is being rolled out, at 100 % now"),
    ],
)
def test_a_rollout_under_way_says_how_it_stands(phase: Phase, step: int, said: str) -> None:
    assert said in Page(report_html(record(phase=phase, step=step), [])).text


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("promoted", "Version 2 is back in production after 3 s"),
        ("rolled_back", "Version 2 did not come back after 3 s"),
    ],
)
def test_going_back_is_not_called_a_promotion(outcome: str, said: str) -> None:
    from .simulated_rollouts import ended

    assert said in Page(report_html(ended(record(kind="roll_back"), outcome, 3), [])).text


def test_the_file_is_named_after_the_rollout_and_complete(tmp_path: Path) -> None:
    rollout, points = rolled_back()
    path = write_report(rollout, points, tmp_path / "reports" / "deep")
    assert path == tmp_path / "reports" / "deep" / "rollout-digits-20260329-083000-a1b2c3.html"
    assert path.read_text(encoding="utf-8") == report_html(rollout, points)
    assert list(path.parent.iterdir()) == [path], "nothing unfinished is left"


def test_writing_again_replaces_the_former_page(tmp_path: Path) -> None:
    rollout, points = rolled_back()
    first = write_report(rollout.model_copy(update={"outcome": None, "ended_at": None}), [], tmp_path)
    assert write_report(rollout, points, tmp_path) == first
    assert "was rolled back" in first.read_text(encoding="utf-8")


def test_who_reads_while_it_is_written_again_reads_a_whole_page(tmp_path: Path) -> None:
    rollout, points = rolled_back()
    former = report_html(rollout, [])
    with write_report(rollout, [], tmp_path).open(encoding="utf-8") as reader:
        beginning = reader.read(100)
        write_report(rollout, points, tmp_path)
        assert beginning + reader.read() == former


def test_a_page_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    rollout, _ = rolled_back()
    path = tmp_path / f"rollout-{rollout.id}.html"
    path.mkdir()  # nothing can be put in its place
    with pytest.raises(OSError, match=path.name):
        write_report(rollout, [], tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "x" * 300, "ünï cödé", "a\x00b"])
def test_no_id_leads_out_of_the_directory(name: str, tmp_path: Path) -> None:
    path = write_report(record(id=name), [], tmp_path)
    assert path.parent == tmp_path
    assert path.is_file()
    assert re.fullmatch(r"rollout-[A-Za-z0-9_-]{1,89}\.html", path.name)


def test_ids_that_look_alike_as_files_do_not_share_one(tmp_path: Path) -> None:
    paths = {write_report(record(id=name), [], tmp_path) for name in ("a/b", "a:b", "a-b")}
    assert len(paths) == 3


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"record\.id"):
        write_report(record(id=""), [], tmp_path)


def test_the_room_knows_neither_prefect_nor_matplotlib_until_it_draws() -> None:
    unwanted = "('prefect', 'matplotlib', 'httpx')"
    code = f"import sys, prefect_modeldeploy.report; print([name for name in {unwanted} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
