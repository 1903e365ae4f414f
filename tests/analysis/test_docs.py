"""The examples of the docs page are run, in order, as one program."""

import re
from pathlib import Path

import prefect_modeldeploy

PAGE = Path(prefect_modeldeploy.__file__).parent / "docs" / "how-a-rollout-is-judged.md"


def test_the_examples_do_what_the_page_says(capsys):
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    expected = re.search(r"print\(verdict\.reason\)  # (.*)", text)
    assert expected is not None
    assert expected[1] in printed


def test_the_plot_lies_beside_the_page():
    names = re.findall(r"\]\((\S+\.svg)\)", PAGE.read_text(encoding="utf-8").replace("\n", " "))
    assert names
    assert all((PAGE.parent / name).is_file() for name in names)
