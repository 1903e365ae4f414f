"""The Markdown artifact: the same story, in the Markdown that both of Prefect's UIs show."""

import re

import pytest

from prefect_modeldeploy.report import report_markdown
from prefect_modeldeploy.rollout.record import Actor, Answer

from .reading import drawings, rendered, spaced, words_in
from .simulated_rollouts import ALL, NAMES, promoted, rolled_back, silent, without_steps

EVIL = (
    "</td><script>alert(1)</script> | a | b \\| c \\\\| `code` **bold** _em_ [x](javascript:alert(1)) "
    "![i](http://e.example/x.png) &lt;b&gt; &amp; ~~no~~ <img src=x onerror=alert(1)>\n\n# Head\n- li\n| a |\n|---|"
)
SHOWN = EVIL.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize("name", NAMES)
def test_every_rollout_renders_with_headline_sections_and_plots(name: str) -> None:
    record, points = ALL[name]()
    source = report_markdown(record, points)
    page = rendered(source)
    assert page.tags.count("h1") == 1
    assert {"Who, when, why", "Steps", "What happened", "Plan"} <= set(page.texts)
    assert page.tags.count("img") == (0 if name == "without_steps" else 4)
    assert len(source) < 4 * 60_000 * 4 / 3 + 20_000, "small enough to store"
    assert "mermaid" not in source
    assert not re.search(r"<[a-z]", source, flags=re.IGNORECASE), "no raw HTML: one of the UIs might drop it"


def test_plots_are_pictures_with_a_description_inside_the_document() -> None:
    record, points = rolled_back()
    source = report_markdown(record, points)
    sources = [value for tag, key, value in rendered(source).attributes if (tag, key) == ("img", "src")]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    assert [words_in(svg) for svg in drawings(source)][1].count("rolled back at 19 s") == 1
    alts = [value for tag, key, value in rendered(source).attributes if (tag, key) == ("img", "alt")]
    assert any("canary 15 of 155 (9.7 %)" in alt for alt in alts)


def test_the_headline_tells_the_outcome_in_words() -> None:
    headline = report_markdown(*rolled_back()).splitlines()[0]
    assert (
        headline == "# Version 3 was rolled back after 20 s: failures: 8.1 % of the canary's requests against "
        "0.4 % of the stable version's"
    )
    assert report_markdown(*without_steps()).splitlines()[0] == "# Version 2 was promoted after 1.3 s"


def test_the_steps_are_a_table_with_numbers_and_the_reasons_follow() -> None:
    page = rendered(report_markdown(*promoted()))
    cells = [spaced(cell) for cell in page.cells]
    assert cells[:7] == ["Step", "Verdict", "Canary failed", "Stable failed", "Harm", "Safety", "Lasted"]
    assert cells[7:10] == ["1 of 3 at 5 %", "go on", "3 of 292 (1 %)"]
    assert "1 of 3 at 5 %, go on: not enough evidence either way yet" in page.text


def test_without_data_it_says_so() -> None:
    assert "Nobody sent a request." in report_markdown(*silent())
    assert "Nothing was measured" in report_markdown(*without_steps())


def test_text_of_others_is_shown_and_never_obeyed() -> None:
    rollout, points = rolled_back()
    answer = Answer(gate="promotion", decision="promote", comment="fine", who=Actor(name="mira"), at=rollout.started_at)
    harmless = rendered(report_markdown(rollout.model_copy(update={"answer": answer}), points))
    said = answer.model_copy(update={"gate": EVIL, "comment": EVIL, "who": Actor(name=EVIL)})
    names = {EVIL: 3.0, "latency_p50": 1.0, "latency_p99": 0.5}
    step = rollout.steps[0].model_copy(update={"reason": EVIL, "decided_by": EVIL, "harm": names, "safe": names})
    changes = dict.fromkeys(("id", "model", "endpoint", "environment", "why", "reason", "decided_by", "canary"), EVIL)
    evil = rollout.model_copy(update={**changes, "who": Actor(name=EVIL), "steps": (step,), "answer": said})
    page = rendered(report_markdown(evil, points))
    assert page.tags == harmless.tags, "not one element more, not one less"
    assert SHOWN[:60] in page.text
    assert SHOWN in {spaced(text).strip() for text in page.texts}


def test_a_note_of_a_whole_book_is_cut() -> None:
    rollout, points = rolled_back()
    longer = len(report_markdown(rollout.model_copy(update={"why": "x" * 1_000_000}), points))
    assert longer < len(report_markdown(rollout, points)) + 1_100


def test_deployments_link_to_the_provider_s_console_and_their_names_are_no_markup() -> None:
    url = "https://console.example/models/m/logs/"
    source = report_markdown(*promoted(), {"m/one": f"{url}one", EVIL: f"{url}two"})
    links = [value for tag, key, value in rendered(source).attributes if (tag, key) == ("a", "href")]
    assert links == [f"{url}one", f"{url}two"]
