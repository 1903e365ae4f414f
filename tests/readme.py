"""The code blocks of the README, so that tests run what a reader copies."""

import ast
import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"


def block_after(words: str, language: str = "python") -> str:
    """The first code block after these words."""
    rest = README.read_text().partition(words)[2]
    found = re.search(rf"```{language}\n(.*?)```", rest, re.DOTALL)
    assert found, f"the README has no {language} after {words!r}"
    return found[1]


async def execute(code: str, **names: Any) -> dict[str, Any]:
    """Run code, which may await at its top level; returns its names."""
    run = eval(compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if run is not None:
        await run
    return names
